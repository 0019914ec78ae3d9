"""The service: captions over HTTP, and a page to drop pictures on.

A request comes in by a `Connection`, is let through by the `Guard`, read by `Uploads` and answered by the application,
which has its pictures wait in a `CaptionQueue` until one thread captions them with whatever else has come.
"""

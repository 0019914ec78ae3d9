"""The service: captions over HTTP, and a page to drop images on.

A request comes in by a `Connection`, is let through by the `Guard`, read by `Uploads` and answered by the application,
which has its images wait in a `CaptionQueue` until one thread captions them with whatever else has come.
"""

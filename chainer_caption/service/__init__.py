"""HTTP service: captions images for programs, and serves a page to drop images on.

A request arrives on a `Connection`, passes the `Guard`, is read by `Uploads`, and waits in a `CaptionQueue`, where one
thread captions the images of all requests in small batches."""

"""Image features: encoders and their weights, preprocessing, extraction, and the check of a feature matrix.

`extractor` combines an encoder with its preprocessing; `encoders` and `preprocessing` have tables of them; `images`
decodes images, `folders` finds them, `prefetch` prepares them in threads; `weights` and the readers beside it load
pretrained weights; `check` finds what made a feature matrix.

An image is RGB, (H, W, 3), uint8; a prepared one is (3, S, S), float32; features are (N, D), float32, a row an image.
"""

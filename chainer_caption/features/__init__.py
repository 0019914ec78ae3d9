"""Turns images into features: encoders and their weights, preprocessing, and which of them made given features.

`extractor` has both steps in one; `encoders` and `preprocessings` are tables of what there is; `images` reads any
image, `folders` finds them, `prefetch` reads them in threads; `weights` and the readers beside it load trained
encoders; `check` tells what made a given matrix.

Data conventions: an image is RGB, (H, W, 3), uint8; prepared for an encoder it is (3, S, S), float32; features are
(N, D), float32, a row for each image.
"""

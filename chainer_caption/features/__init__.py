"""Image features: encoders and their weights, preprocessing, extraction, and the check of a feature matrix.

An image is RGB, (H, W, 3), uint8; a prepared one is (3, S, S), float32; features are (N, D), float32, a row an image.
"""

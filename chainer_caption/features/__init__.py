"""Turns pictures into features: networks and their weights, preprocessing, and which of them made given features.

`extractor` has both steps in one; `networks` and `profiles` are tables of what there is; `pictures` reads any picture,
`folders` finds them, `ahead` reads them in threads; `weights` and the readers beside it load trained networks; `check`
tells what made a given matrix.

Data conventions: a picture is RGB, (H, W, 3), uint8; prepared for a network it is (3, S, S), float32; features are
(N, D), float32, a row for each picture.
"""

"""How good captions are, whoever made them: `evaluator` scores a split, `predictions` reads captions made by any
system, `perplexity` is what a model makes of people's captions, and `metrics` has the scores themselves, which need no
Chainer.
"""

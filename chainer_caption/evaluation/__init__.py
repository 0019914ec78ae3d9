"""Evaluation: `evaluator` scores the captions of a split, `predictions` reads captions made by any system, `perplexity`
computes a model's perplexity of reference captions, and `metrics` has the scores themselves, which need no Chainer.
"""

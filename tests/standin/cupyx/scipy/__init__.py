"""Imported by Chainer."""

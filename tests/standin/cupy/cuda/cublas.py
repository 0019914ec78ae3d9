"""Imported by Chainer, and not used."""

"""What of cupyx Chainer uses."""
from cupy._routines import rsqrt

__all__ = ['rsqrt']

"""Limits on requests and connections."""
from __future__ import annotations

import dataclasses

_MIB = 2 ** 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests and connections.

    A search step computes the next word of one hypothesis: a beam search of width 20 and maximum length 60 takes up to
    1,200 steps an image.

    Attributes:
        body_bytes: Size of one request.
        all_bytes: Size of all requests that are not answered yet.
        images: Images in one request.
        image_pixels: Pixels of one image; the captioner enforces it.
        image_steps: Search steps for one image. They run without a break, about a second on two cores.
        request_steps: Search steps for all images of one request.
        waiting: Images of all requests that wait for captions.
        connections: Open connections.
        head_seconds: Time to receive the head of a request.
        body_seconds: Time to receive its body.
        answer_seconds: Time to caption its images; searches stop then.
    """
    body_bytes: int = 64 * _MIB
    all_bytes: int = 192 * _MIB
    images: int = 64
    image_pixels: int = 25_000_000
    image_steps: int = 20_000
    request_steps: int = 200_000
    waiting: int = 256
    connections: int = 400
    head_seconds: float = 10
    body_seconds: float = 60
    answer_seconds: float = 60

    @property
    def request_pixels(self) -> int:
        """Pixels of all images of one request."""
        return 10 * self.image_pixels

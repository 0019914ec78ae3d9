"""Limits of the service."""
import dataclasses

_MIB = 2 ** 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests and connections.

    A search step computes the next word of one hypothesis: a beam search of width 20 and maximum length 60 takes up to
    1,200 steps an image."""
    body_bytes: int = 64 * _MIB             #: size of one request
    all_bytes: int = 192 * _MIB             #: size of all requests that are not answered yet
    images: int = 64                        #: images in one request
    image_pixels: int = 25_000_000          #: pixels of one image; the captioner enforces it
    image_steps: int = 20_000               #: search steps for one image, without a break: a second on two cores
    request_steps: int = 200_000            #: search steps for all images of one request
    waiting: int = 256                      #: images of all requests that wait for captions
    connections: int = 400                  #: open connections
    head_seconds: float = 10                #: time to receive the head of a request
    body_seconds: float = 60                #: time to receive its body
    answer_seconds: float = 60              #: time to caption its images; searches stop then

    @property
    def request_pixels(self) -> int:
        """Pixels of all images of one request."""
        return 10 * self.image_pixels

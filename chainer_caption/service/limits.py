"""What the service takes of others, at most."""
import dataclasses

_MIB = 2 ** 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Attributes:
        body_bytes (int): Of one request.
        all_bytes (int): Of all requests together that are not answered yet.
        images (int): In one request.
        waiting (int): Images of all requests together that have no captions yet.
        connections (int): That are open at the same time.
        head_seconds (float): In which the head of a request must be here.
        body_seconds (float): And in which its body.
        answer_seconds (float): After which nobody waits for captions any more.
    """
    body_bytes: int = 64 * _MIB
    all_bytes: int = 512 * _MIB
    images: int = 64
    waiting: int = 256
    connections: int = 400
    head_seconds: float = 10
    body_seconds: float = 60
    answer_seconds: float = 60

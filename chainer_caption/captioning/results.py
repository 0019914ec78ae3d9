"""What a captioner gives back: captions, and what became of each image."""
import dataclasses

from chainer_caption.data.tokenization import detokenize
from chainer_caption.report.notebook import result_html


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption and what the model thinks of it.

    Attributes:
        tokens (list of str): Its words.
        log_prob (float): The sum of the log-probabilities of its words and its `</S>`, nats.
        log_prob_per_token (float): That over the number of words plus `</S>`, nats.
        finished (bool): Whether it came to its end; otherwise it was cut at the greatest length.
        tokenizer (str): What the tokens are, one of `data.captions.TOKENIZERS`.
    """
    tokens: list
    log_prob: float
    log_prob_per_token: float
    finished: bool
    tokenizer: str = 'words'

    @property
    def text(self):
        return detokenize(self.tokens, self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one image.

    Attributes:
        path (str or None): Where the image lies; None for stored features.
        filename (str): What to call it.
        image_id (int or None): Its `imgid`, for an image of a dataset.
        captions (list of Caption): Best first; empty if there was an error.
        error (str or None): Why there are none, in one line.
    """
    path: str | None
    filename: str
    image_id: int | None = None
    captions: list = dataclasses.field(default_factory=list)
    error: str | None = None

    def _repr_html_(self):
        """What a notebook shows."""
        return result_html(self)

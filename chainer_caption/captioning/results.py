"""What a captioner returns: a result for each image, with its captions or an error."""
from __future__ import annotations

import dataclasses

from chainer_caption.data.tokenization import detokenize
from chainer_caption.report.notebook import result_html


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption and its score.

    Attributes:
        tokens: Its words.
        log_prob: The sum of the log-probabilities of its words and its `</S>`, in nats.
        log_prob_per_token: `log_prob` divided by the number of words plus `</S>`, in nats.
        finished: Whether it ended with `</S>`; otherwise it was cut at the greatest length.
        tokenizer: What the tokens are, one of `data.captions.TOKENIZERS`.
    """
    tokens: list[str]
    log_prob: float
    log_prob_per_token: float
    finished: bool
    tokenizer: str = 'words'

    @property
    def text(self) -> str:
        return detokenize(self.tokens, self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Result:
    """The captions of one image, or why it has none.

    Attributes:
        path: Where the image lies; None for stored features and for images in memory.
        filename: Its name: the path, the name in the dataset, or `image 3` for the third image given.
        image_id: Its `imgid`, for an image of a dataset.
        captions: Best first; empty where there is an error.
        error: Why there are none, in one line.
    """
    path: str | None
    filename: str
    image_id: int | None = None
    captions: list[Caption] = dataclasses.field(default_factory=list)
    error: str | None = None

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        return result_html(self)

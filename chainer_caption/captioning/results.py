"""What a captioner returns: a result for each image, with its captions or an error."""
import dataclasses

from chainer_caption.data.tokenization import detokenize
from chainer_caption.report.notebook import result_html


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption and its score."""
    tokens: list[str]                       #: its words
    log_prob: float                         #: sum of the log-probabilities of its words and its `</S>`, in nats
    log_prob_per_token: float               #: `log_prob` divided by the number of words plus `</S>`, in nats
    finished: bool                          #: whether it ended with `</S>`; otherwise it was cut at the maximum length
    tokenizer: str = 'words'                #: what the tokens are, one of `data.captions.TOKENIZERS`

    @property
    def text(self) -> str:
        return detokenize(self.tokens, self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Result:
    """The captions of one image, or why it has none."""
    path: str | None                        #: where the image lies; None for stored features and for images in memory
    filename: str                           #: the path, the name in the dataset, or `image 3` for the third one given
    image_id: int | None = None             #: its `imgid`, for an image of a dataset
    captions: list[Caption] = dataclasses.field(default_factory=list)  #: best first; empty where there is an error
    error: str | None = None                #: why there are none, in one line
    #: How near the image is to those that the model was trained on: the share of held-out training images that are less
    #: near, from 0 to 1. None if the model does not know.
    familiarity: float | None = None
    #: The probability that the best caption is good (its CIDEr at least 0.5), from 0 to 1. None if the confidence of
    #: the model has not been fitted.
    confidence: float | None = None
    skipped: str | None = None              #: why there are no captions though there is no error, in one line

    def if_confident(self, least: float | None) -> 'Result':
        """The result itself, or without captions and `skipped` where its confidence is below a value."""
        if least is None or self.confidence is None or self.confidence >= least:
            return self
        return dataclasses.replace(self, captions=[], skipped=f'confidence {_below(self.confidence, least)}')

    def _repr_html_(self) -> str:                       # for notebooks
        return result_html(self)


def _below(value: float, limit: float) -> str:
    """`'0.12 < 0.30'`, with two digits after the point, or as many as show that it is true."""
    texts = ((f'{value:.{digits}f}', f'{limit:.{digits}f}') for digits in range(2, 18))
    return next((f'{one} < {other}' for one, other in texts if float(one) < float(other)), f'{value} < {limit}')

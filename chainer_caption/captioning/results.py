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

    def _repr_html_(self) -> str:                       # for notebooks
        return result_html(self)

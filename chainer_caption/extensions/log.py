"""The log of a training."""
from chainer.training import extensions

from chainer_caption.extensions.validation import perplexity

SAMPLES = 'samples'


class Log(extensions.LogReport):
    """Chainer's LogReport, of whose entries each also has the perplexity and, if captions were scored, `samples`.

    Args:
        filename (str): Its name in the folder of the training.
    """
    default_name = 'LogReport'

    def __init__(self, filename):
        super().__init__(filename=filename, postprocess=self._complete)
        self._samples = None

    def __call__(self, trainer):
        self._samples = trainer.observation.get(SAMPLES)
        super().__call__(trainer)

    def _complete(self, entry):
        entry['main/perplexity'] = perplexity(entry['main/loss'])
        if self._samples is not None:
            entry[SAMPLES] = self._samples

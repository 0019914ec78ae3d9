"""The log as TensorBoard's events."""
import importlib.util
import numbers
import pathlib
from typing import Any

import chainer

from chainer_caption.errors import InputError
from chainer_caption.report.html import escape
from chainer_caption.training.extensions.log import EveryEpochs

FOLDER, FILES = 'events', 'events.out.tfevents.*'


def check_tensorboard() -> None:
    """Raises InputError where tensorboardX, which writes the events, is not installed."""
    if importlib.util.find_spec('tensorboardX') is None:
        raise InputError("--tensorboard needs tensorboardX: pip install 'tensorboardX>=2.6'")


class Events(chainer.training.Extension):
    """Writes the figures and captions of the log as TensorBoard's events, a step an update, into the folder `events` of
    the training. When a training is resumed, TensorBoard is told to discard what was written after its snapshot."""
    trigger = EveryEpochs()

    def __init__(self) -> None:
        self._writer: Any = None

    def initialize(self, trainer: Any) -> None:
        from tensorboardX import SummaryWriter
        folder, updates = pathlib.Path(trainer.out) / FOLDER, trainer.updater.iteration
        begun = any(folder.glob(FILES))
        # The suffix distinguishes files that were begun within the same second.
        self._writer = SummaryWriter(str(folder), purge_step=updates + 1, filename_suffix=f'.{updates:09}')
        for entry in [] if begun else trainer.get_extension('LogReport').log:
            self._write(entry)

    def __call__(self, trainer: Any) -> None:
        self._write(trainer.get_extension('LogReport').log[-1])
        self._writer.flush()

    def _write(self, entry: dict) -> None:
        step = entry['iteration']
        for key, value in entry.items():
            if isinstance(value, numbers.Real) and key != 'iteration':
                self._writer.add_scalar(key, value, step)
        for sample in entry.get('samples', ()):
            # TensorBoard shows text as Markdown.
            self._writer.add_text(f'samples/{sample["image_id"]}', escape(sample['caption']), step)

    def finalize(self) -> None:
        if self._writer is not None:
            self._writer.close()

"""What a training is made of."""
import dataclasses

from chainer_caption.errors import InputError
from chainer_caption.models.bundle import CONFIG
from chainer_caption.storage.files import read_json
from chainer_caption.training.extensions import FIGURES

# These may change when training is resumed.
_MAY_CHANGE = ('epochs', 'patience', 'tensorboard', 'snapshot_every', 'keep_snapshots')


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training is made of. Given the same release, the same settings give the same model on the CPU.

    Attributes:
        epochs (int): Passes over the training captions.
        batch_size (int): Captions an update, of all processes together.
        hidden (int or None): Width of the embeddings and of the LSTM; None takes that of the weights to start from,
            or 512.
        dropout (float): See ShowAndTell.
        min_count (int): How often a word must stand in the training captions to be in the vocabulary.
        seed (int): Of the initial weights, the order of the captions and the dropout masks.
        patience (int or None): Epochs without a better figure after which to stop, of those in which it was measured;
            None never does.
        keep_best (str): The figure on `val` by which an epoch is kept: `'loss'` or `'cider'`.
        score_every (int): Every so many epochs the captions of `val` are scored (see CaptionScores); 0 never does.
        tensorboard (bool): Write TensorBoard's events, too, into the model directory's `events`.
        snapshot_every (int or None): Updates between two snapshots; besides, there is one at the end of each epoch, and
            ten minutes after the last.
        keep_snapshots (int): How many of them to keep.
    """
    epochs: int = 30
    batch_size: int = 128
    hidden: int | None = None
    dropout: float = 0.5
    min_count: int = 5
    seed: int = 0
    patience: int | None = None
    keep_best: str = 'loss'
    score_every: int = 1
    tensorboard: bool = False
    snapshot_every: int | None = None
    keep_snapshots: int = 2

    def __post_init__(self):
        least = {'epochs': 0, 'batch_size': 1, 'hidden': 1, 'min_count': 1, 'seed': 0, 'patience': 1,
                 'score_every': 0, 'snapshot_every': 1, 'keep_snapshots': 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f'--{name.replace("_", "-")} {value}: must be at least {bound}')
        if not 0 <= self.dropout < 1:
            raise InputError(f'--dropout {self.dropout}: must be from 0 to below 1')
        if self.keep_best not in FIGURES:
            raise InputError(f'--keep-best {self.keep_best}: must be {" or ".join(FIGURES)}')
        if self.keep_best == 'cider' and not self.score_every:
            raise InputError('--keep-best cider needs captions that are scored: leave out --score-every 0')


def read_settings(folder):
    """What a model directory says of how its model was trained, a dict; None where it says nothing yet.

    Settings that were unknown when it was written have their defaults, which are what was done then; what it says
    beyond today's settings is left as it is.

    Raises:
        InputError: It says something else.
    """
    if not (folder / CONFIG).exists():
        return None
    config = read_json(folder / CONFIG)
    before = config.get('training') if isinstance(config, dict) else None
    if not isinstance(before, dict) or not isinstance(before.get('hidden'), int):
        raise InputError(f'{folder / CONFIG}: does not say how the model was trained, so it cannot be resumed')
    return {**dataclasses.asdict(Settings()), **before}


def check_same(folder, before, training, start_from):
    """Checks that a training may go on with these settings.

    Args:
        folder (pathlib.Path): The model directory.
        before (dict): What the training was begun with, from `read_settings`.
        training (dict): What it is to go on with; is given the digest of what it began with, which is in its snapshots
            now.
        start_from (str or os.PathLike or None): The weights that the user has named once more.

    Raises:
        InputError: A setting is another; the line names the first.
    """
    if start_from is None and 'start_from' in before:
        training['start_from'] = before['start_from']
    for name, value in training.items():
        if name in _MAY_CHANGE or before.get(name) == value:
            continue
        if name == 'score_every' and training['keep_best'] == 'loss':
            continue                                    # what is kept does not depend on it then
        if name == 'release':
            what = 'was trained on another release'
        elif name == 'start_from':
            what = f'did not start from {start_from}'
        else:
            what = f'was trained with --{name.replace("_", "-")} {before.get(name)}, not {value}'
        raise InputError(f'{folder}: {what}; resume with what it began with, or choose another folder')

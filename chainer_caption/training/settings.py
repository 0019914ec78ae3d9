"""What a training is made of."""
import dataclasses
import math
import pathlib

from chainer_caption.errors import InputError
from chainer_caption.functions.matmul import PRECISIONS
from chainer_caption.models import ARCHITECTURES
from chainer_caption.models.bundle import CONFIG, WEIGHTS
from chainer_caption.models.encoder_decoder import MAX_POSITIONS
from chainer_caption.storage import journal
from chainer_caption.storage.files import read_json, sample_digest
from chainer_caption.storage.legacy import current_keys
from chainer_caption.training.extensions import FIGURES

# These may change when training is resumed.
_MAY_CHANGE = ('epochs', 'patience', 'tensorboard', 'snapshot_every', 'keep_snapshots')

# What there is to choose from; None is the objective's own.
_KNOWN = {'architecture': (None, *(name for name, model in ARCHITECTURES.items() if model.trainable)),
          'objective': ('cross-entropy', 'self-critical'), 'baseline': ('others', 'greedy'), 'keep_best': (None,
                                                                                                           *FIGURES),
          'precision': PRECISIONS}

# What only self-critical training has.
_SELF_CRITICAL = 'baseline', 'samples', 'xe_weight'

# What only fine-tuning has.
_FINE_TUNING = 'encoder_learning_rate', 'augment'

# What NumPy's generators take, and what can be multiplied; long before that the memory is too small.
_MOST = {'seed': 2 ** 32 - 1, 'hidden': 2 ** 20, 'max_positions': MAX_POSITIONS, 'batch_size': 2 ** 31,
         'samples': 2 ** 16,
         'average': 2 ** 53}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training is made of. Given the same dataset, the same settings give the same model on the CPU.

    Attributes:
        epochs (int): Passes over the training captions.
        batch_size (int): Captions an update, of all processes together.
        hidden (int or None): Width of the embeddings and of the LSTM; None takes that of the weights to start from,
            or the architecture's own, 512 or for `'encoder_decoder'` 768.
        dropout (float): See ShowAndTell.
        min_count (int): How often a word must stand in the training captions to be in the vocabulary.
        seed (int): Of the initial weights, the order of the captions and the dropout masks.
        patience (int or None): Epochs without a better figure after which to stop, of those in which it was measured;
            None never does.
        keep_best (str or None): The figure on `val` by which an epoch is kept: `'loss'` or `'cider'`; None takes the
            loss for words, and CIDEr, where it is measured, for self-critical training.
        score_every (int): Every so many epochs the captions of `val` are scored (see CaptionScores); 0 never does.
        tensorboard (bool): Write TensorBoard's events, too, into the model directory's `events`.
        snapshot_every (int or None): Updates between two snapshots; besides, there is one at the end of each epoch, and
            ten minutes after the last.
        keep_snapshots (int): How many of them to keep.
        objective (str): `'cross-entropy'` or `'self-critical'` (see `objectives`).
        baseline (str): Of self-critical training: `'others'` or `'greedy'`.
        samples (int): Of self-critical training: captions drawn for an image.
        xe_weight (float): Of self-critical training: the share of the words' loss beside the reward.
        learning_rate (float or None): Adam's; None takes 0.001 for words and 2e-4 for self-critical training.
        average (int or None): Validated, scored and kept is the mean of the weights over about so many updates (see
            `Adam`); None takes those of the last one.
        finetune (str or None): The layer of the image encoder from which on that learns, too, or `'all'` (see
            `features.encoders.stages`); None learns from stored features.
        encoder_learning_rate (float or None): Of fine-tuning: that of the image encoder; None takes a tenth of
            `learning_rate`.
        augment (bool): Of fine-tuning: each time it is learned from, an image is cut and perhaps mirrored at random.
        architecture (str or None): One of `models.ARCHITECTURES`; None takes that of the model to start from, or
            `'show_and_tell'`.
        max_positions (int or None): Of the architecture `'encoder_decoder'`: the most tokens of a caption, `</S>` among
            them; None takes those of the model to start from, or 50.
        precision (str): Of the factors of matrix products on the CPU, `'float32'` or `'bf16'` (see
            `functions.products`); weights, sums and all else are float32.
    """
    epochs: int = 30
    batch_size: int = 128
    hidden: int | None = None
    dropout: float = 0.5
    min_count: int = 5
    seed: int = 0
    patience: int | None = None
    keep_best: str | None = None
    score_every: int = 1
    tensorboard: bool = False
    snapshot_every: int | None = None
    keep_snapshots: int = 2
    objective: str = 'cross-entropy'
    baseline: str = 'others'
    samples: int = 5
    xe_weight: float = 1.0
    learning_rate: float | None = None
    average: int | None = None
    finetune: str | None = None
    encoder_learning_rate: float | None = None
    augment: bool = False
    architecture: str | None = None
    max_positions: int | None = None
    precision: str = 'float32'

    def __post_init__(self):
        least = {'epochs': 0, 'batch_size': 1, 'hidden': 1, 'max_positions': 1, 'min_count': 1, 'seed': 0,
                 'patience': 1,
                 'score_every': 0, 'snapshot_every': 1, 'keep_snapshots': 1, 'samples': 1, 'average': 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f'--{name.replace("_", "-")} {value}: must be at least {bound}')
        if not 0 <= self.dropout < 1:
            raise InputError(f'--dropout {self.dropout}: must be from 0 to below 1')
        for name, bound in _MOST.items():
            if (getattr(self, name) or 0) > bound:
                raise InputError(f'--{name.replace("_", "-")} {getattr(self, name)}: must be at most {bound}')
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise InputError(f'--{name.replace("_", "-")} {getattr(self, name)}: must be '
                                 f'{" or ".join(filter(None, known))}')
        if self.keep_best == 'cider' and not self.score_every:
            raise InputError('--keep-best cider needs captions that are scored: leave out --score-every 0')
        for name in ('learning_rate', 'encoder_learning_rate'):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f'--{name.replace("_", "-")} {value}: must be above 0')
        if not 0 <= self.xe_weight < math.inf:
            raise InputError(f'--xe-weight {self.xe_weight}: must be at least 0')
        self._check_objective()
        self._check_alone(_FINE_TUNING, '--finetune', self.finetune is not None)

    def _check_objective(self):
        if self.objective == 'self-critical' and self.baseline == 'others' and self.samples == 1:
            raise InputError('--samples 1: there are no others to compare a caption with; take 2 or more, or '
                             '--baseline greedy')
        self._check_alone(_SELF_CRITICAL, '--objective self-critical', self.objective == 'self-critical')

    def _check_alone(self, names, of, there):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not there and field.name in names and value != field.default:
                given = '' if value is True else f' {value}'
                raise InputError(f'--{field.name.replace("_", "-")}{given} is of {of} alone')

    def resolved(self):
        """These settings with the objective's own values in place of None; a Settings."""
        words = self.objective == 'cross-entropy'
        learning_rate = self.learning_rate or (0.001 if words else 2e-4)
        return dataclasses.replace(
            self, architecture=self.architecture or 'show_and_tell',
            keep_best=self.keep_best or ('loss' if words or not self.score_every else 'cider'),
            learning_rate=learning_rate,
            encoder_learning_rate=self.encoder_learning_rate or (learning_rate / 10 if self.finetune else None))


def weights_path(start_from):
    """The weights' file of what a training starts from: of a model directory, or that file itself; a pathlib.Path."""
    path = pathlib.Path(start_from)
    return path / WEIGHTS if path.is_dir() else path


def read_settings(folder):
    """What a model directory says of how its model was trained, a dict; None where it says nothing yet.

    Settings that were unknown when it was written have their defaults, which are what was done then; what it says
    beyond today's settings is left as it is.

    Raises:
        InputError: It says something else.
    """
    if not (folder / CONFIG).exists():
        return None
    config = current_keys(read_json(folder / CONFIG))
    before = config.get('training') if isinstance(config, dict) else None
    if not isinstance(before, dict) or not isinstance(before.get('hidden'), int):
        raise InputError(f'{folder / CONFIG}: does not say how the model was trained, so it cannot be resumed')
    return {**dataclasses.asdict(Settings().resolved()), **before}


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
    # Of the file's bytes, and not of the weights in them, was the digest that earlier versions wrote.
    if 'start_from' in before and (
            start_from is None or before['start_from'] == sample_digest(weights_path(start_from))):
        training['start_from'] = before['start_from']
    # These first: what other settings are where nothing was said depends on them.
    names = sorted(training, key=lambda name: name not in ('objective', 'architecture'))
    check_these(folder, before, training, [name for name in names if _must_stay(name, training)])


def check_these(folder, before, training, names):
    """Checks some of the settings; arguments as for `check_same`."""
    one, other = ({_shown(name): settings.get(name) for name in names} for settings in (before, training))
    journal.check_same(folder, one, other, 'was trained with',
                       'resume with what it began with, or choose another folder')


def _must_stay(name, training):
    if name == 'score_every':                           # what is kept may not depend on it
        return training['keep_best'] != 'loss'
    if name in _SELF_CRITICAL and training['objective'] == 'cross-entropy':
        return False                                    # nothing follows from it
    return name not in _MAY_CHANGE


def _shown(name):
    """A setting as the user knows it."""
    return {'dataset': 'dataset', 'start_from': 'model to start from (-m)'}.get(name, f'--{name.replace("_", "-")}')

"""Captioner: pictures or features in, captions out. The API that most users need."""
import dataclasses

import chainer
import numpy as np

from chainer_caption.data.batches import take_rows
from chainer_caption.decoding import BeamSearch
from chainer_caption.errors import InputError
from chainer_caption.features.ahead import prepared_batches
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_pictures
from chainer_caption.features.pictures import MAX_PIXELS
from chainer_caption.functions.memory import enough_memory
from chainer_caption.functions.products import one_blas_thread
from chainer_caption.models.bundle import Bundle

# What is assumed of a model that does not know where its features came from: dsanno/chainer-image-caption made them of
# new pictures with VGG-19, and Karpathy's preprocessing made the published matrices.
ASSUMED = {'network': 'vgg19', 'profile': 'karpathy'}

# Why a picture has no captions: sums that are infinite, or no numbers at all, compare with nothing.
_OVERFLOW = 'no caption is found, because the scores overflow; the model has diverged, or the features are too large'

# Rows of stored features that are searched together, at most.
ROWS = 512


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption and what the model thinks of it.

    Attributes:
        tokens (list of str): Its words.
        log_prob (float): The sum of the log-probabilities of its words and its `</S>`, nats.
        log_prob_per_token (float): That over the number of words plus `</S>`, nats.
        finished (bool): Whether it came to its end; otherwise it was cut at the greatest length.
    """
    tokens: list
    log_prob: float
    log_prob_per_token: float
    finished: bool

    @property
    def text(self):
        return ' '.join(self.tokens)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one picture.

    Attributes:
        path (str or None): Where the picture lies; None for stored features.
        filename (str): What to call it.
        image_id (int or None): Its `imgid`, for a picture of a release.
        captions (list of Caption): Best first; empty if there was an error.
        error (str or None): Why there are none, in one line.
    """
    path: str | None
    filename: str
    image_id: int | None = None
    captions: list = dataclasses.field(default_factory=list)
    error: str | None = None


class Captioner:
    """A trained model, ready to caption.

    Args:
        bundle (Bundle): The model with its vocabulary.
        device (str or chainer.backend.Device): Where to run.
        extractor (Extractor or None): What turns pictures into features; not needed for stored features.

    Raises:
        InputError: The extractor's features are not those that the model learned from.
    """

    def __init__(self, bundle, device='@numpy', extractor=None):
        self.bundle = bundle
        self.device = chainer.get_device(device)
        self.extractor = extractor
        with enough_memory(self.device), _overflowing():
            bundle.model.to_device(self.device)
            self._stepper = bundle.model.stepper()
        if extractor is not None:
            self._check_size(extractor.dim, f'the network {extractor.network}')

    @classmethod
    def load(cls, folder, device='@numpy', image_weights=None, network=None, profile=None, pictures=True,
             honour_exif=True, max_pixels=MAX_PIXELS, say=lambda line: None):
        """Loads a model directory, and the network that makes the features it wants.

        Args:
            folder (str or os.PathLike): The model directory.
            device (str or chainer.backend.Device): As `chainer.get_device` takes it: `'@numpy'`, `'@cupy:0'`.
            image_weights (str or os.PathLike or None): The network's weights; by default they are looked for where
                Chainer keeps its models.
            network (str or None): Only for a model that does not record its network.
            profile (str or None): Only for a model that does not record its preprocessing.
            pictures (bool): False loads no network, which is enough for stored features.
            honour_exif (bool): Turn pictures as their EXIF orientation says.
            max_pixels (int): Refuse pictures of more.
            say (callable): Takes a notice, one line, about what had to be assumed.

        Raises:
            InputError: A file is missing or damaged, or the network is not the one that the model learned from.
        """
        bundle = Bundle.load(folder)
        if not pictures:
            return cls(bundle, device)
        origin = bundle.origin
        if origin is None:
            # A network that was named without a profile has one of its own.
            origin = {'network': network, 'profile': profile} if network else {**ASSUMED, **(
                {'profile': profile} if profile else {})}
        for given, key in ((network, 'network'), (profile, 'profile')):
            if bundle.origin and given not in (None, origin[key]):
                raise InputError(f'{folder}: learned from features of the {key} {origin[key]}; captions of '
                                 f'{given} features would mean nothing, leave out --{key}')
        if bundle.origin is None and None in (network, profile):
            say(f'{folder}: does not record what made its features; assuming the network {origin["network"]} and the '
                f'profile {origin["profile"] or "that its weights want"} (--network, --profile)')
        extractor = Extractor.load(**origin, weights=image_weights, device=device, honour_exif=honour_exif,
                                   max_pixels=max_pixels)
        return cls(bundle, device, extractor)

    def _check_size(self, size, what):
        wanted = self.bundle.model.feature_size
        if size != wanted:
            raise InputError(f'{what} has features of {size} numbers, but the model learned from {wanted}')

    def search(self, search=None, **options):
        """The search that methods of this class use when they are called with these arguments.

        Args:
            search (BeamSearch or None): Where it is given it is taken as it is, but for the options.
            **options: Those of `BeamSearch`. What is not given is what the model directory says, if it does
                (`Bundle.search`), and the default if not.

        Raises:
            InputError: An option is impossible.
        """
        if search is not None:
            return dataclasses.replace(search, **options) if options else search
        return BeamSearch(**{**self.bundle.search, **options})

    def caption(self, paths, search=None, **options):
        """Captions pictures.

        Args:
            paths (str, os.PathLike, or iterable of them): Pictures, and folders, which are walked (`find_pictures`).
            search (BeamSearch or None): What to caption with.
            **options: In its place, or to change it (see `search`): `caption('holiday/', width=5)`.

        Yields:
            Result: One a picture, in sorted order, as they are done. A picture that cannot be read is a result with
            an `error`.
        """
        return self.caption_files(find_pictures(paths), search, **options)

    def caption_files(self, paths, search=None, **options):
        """Captions the pictures of a list, in its order; otherwise as `caption`."""
        if self.extractor is None:
            raise InputError('this captioner was loaded without a network, so it can caption stored features only')
        return self._caption_files(paths, self.search(search, **options))

    def _caption_files(self, paths, search):
        for batch in prepared_batches(self.extractor, paths):
            good = [picture for _, picture in batch if isinstance(picture, np.ndarray)]
            found = iter(self._captions(self.extractor(np.stack(good)), search) if good else ())
            for path, picture in batch:
                if isinstance(picture, np.ndarray):
                    yield _result(path, path, None, next(found))
                else:
                    yield Result(path, path, error=str(picture))

    def caption_features(self, features, search=None, **options):
        """Captions pictures by their features.

        Args:
            features (numpy.ndarray): (N, D) float; a memory map does.
            search, **options: As for `caption`.

        Yields:
            list of Caption: One a picture, best first; empty where the model's scores overflow.

        Raises:
            InputError: D is not the model's.
        """
        features = np.asanyarray(features)
        if features.ndim != 2:
            raise InputError(f'features are a matrix of a row for each picture, this has the shape {features.shape}')
        self._check_size(features.shape[1], 'the matrix')
        return self._caption_rows(features, np.arange(len(features)), self.search(search, **options))

    def _caption_rows(self, features, rows, search):
        for start in range(0, len(rows), ROWS):
            yield from self._captions(take_rows(features, rows[start:start + ROWS], self.device), search)

    def caption_release(self, release, split, search=None, **options):
        """Captions the pictures of a release's split by the features stored there.

        Args:
            release (Release): The release.
            split (str): `train`, `restval`, `val` or `test`.
            search, **options: As for `caption`.

        Yields:
            Result: One a picture, in the release's order.

        Raises:
            InputError: The split is empty, or the features are not those that the model learned from.
        """
        return self.caption_pictures(release, release.pictures(split), search, **options)

    def caption_pictures(self, release, pictures, search=None, **options):
        """Captions some pictures of a release by the features stored there.

        Args:
            release (Release): The release.
            pictures (numpy.ndarray): As places in `release.captions.filenames`, (n,) int.
            search, **options: As for `caption`.

        Yields:
            Result: One a picture, in their order.

        Raises:
            InputError: The features are not those that the model learned from.
        """
        search = self.search(search, **options)
        self._check_size(release.feature_size, str(release.features_path))
        known = self.bundle.origin
        if known and release.origin and known != release.origin:
            raise InputError(f'{release.features_path}: features of {release.origin["network"]}/'
                             f'{release.origin["profile"]}, but the model learned from {known["network"]}/'
                             f'{known["profile"]}')
        captions = release.captions
        rows = captions.image_ids[pictures]
        found = self._caption_rows(release.features, rows, search)
        return (_result(None, captions.filenames[picture], int(row), best)
                for picture, row, best in zip(pictures, rows, found, strict=True))

    def _captions(self, features, search):
        with chainer.using_device(self.device), one_blas_thread(), _overflowing(), \
                enough_memory(self.device, 'lower --beam-width'):
            # A network may hand over columns; the same numbers in the same order are captioned the same to the bit.
            features = self.device.xp.ascontiguousarray(features)
            found = search(self._stepper, features)
        decode = self.bundle.vocabulary.decode
        return [[Caption(decode(h.words), h.log_prob, h.log_prob_per_token, h.finished) for h in best]
                for best in found]


def _overflowing():
    """Within it NumPy says nothing of sums that overflow: the result of the picture does."""
    return np.errstate(over='ignore', invalid='ignore')


def _result(path, filename, image_id, captions):
    return Result(path, filename, image_id, captions, None if captions else _OVERFLOW)

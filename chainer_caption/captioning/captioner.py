"""Captioner: pictures or features in, captions out. The API that most users need."""
import dataclasses
import os
import pathlib
import sys

import chainer
import numpy as np

from chainer_caption.captioning.results import Caption, Result
from chainer_caption.data.batches import take_rows
from chainer_caption.decoding import BeamSearch, DiverseBeamSearch
from chainer_caption.errors import InputError
from chainer_caption.features.ahead import prepared_batches
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_pictures
from chainer_caption.features.networks import NETWORKS, base_of
from chainer_caption.features.pictures import MAX_PIXELS
from chainer_caption.features.profiles import PROFILES
from chainer_caption.functions.memory import enough_memory
from chainer_caption.functions.products import one_blas_thread
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.ensemble import EnsembleStepper, check_ensemble
from chainer_caption.models.origins import may_be, origin_text

# What is assumed of a model that does not know where its features came from: dsanno/chainer-image-caption made them of
# new pictures with VGG-19, and Karpathy's preprocessing made the published matrices.
ASSUMED = {'network': 'vgg19', 'profile': 'karpathy'}

#: The model directory that comes with the package; its README.md says what it knows, and how it was made.
SHIPPED = pathlib.Path(__file__).parent / 'flickr8k'

# Why a picture has no captions: sums that are infinite, or no numbers at all, compare with nothing.
_OVERFLOW = 'no caption is found, because the scores overflow; the model has diverged, or the features are too large'
_NOTHING_LEFT = ' (or --no-repeat-ngram left nothing to say)'

# Rows of stored features that are searched together, at most.
ROWS = 512


class Captioner:
    """A trained model, ready to caption; or several, an ensemble, by the mean of their probabilities at each word.

    Args:
        bundles (Bundle or list of Bundle): The models with their vocabulary.
        device (str or chainer.backend.Device): Where to run.
        extractor (Extractor or None): What turns pictures into features; not needed for stored features.
        names (list of str or None): What to call the models where they do not go together.

    Attributes:
        bundles (list of Bundle): The models.
        bundle (Bundle): The first of them. Vocabulary and features are the same in all; the search is what it says.
        names (list of str): What the models are called.
        stepper: What searches take of them all.
        places (int or None): How many tokens captions have at most, `</S>` among them, by the models' architectures.

    Raises:
        InputError: The extractor's features are not those that the model learned from, or the models of an ensemble
            have other words or other features.
    """

    def __init__(self, bundles, device='@numpy', extractor=None, names=None):
        self.bundles = [bundles] if isinstance(bundles, Bundle) else list(bundles)
        self.bundle = self.bundles[0]
        self.names = names or [f'model {i}' for i in range(1, 1 + len(self.bundles))]
        check_ensemble(self.bundles, self.names)
        # A model of one's own may have no such thing.
        self.places = min(filter(None, (getattr(bundle.model, 'places', None) for bundle in self.bundles)),
                          default=None)
        self.device = chainer.get_device(device)
        self.extractor = extractor
        with enough_memory(self.device), _overflowing():
            steppers = []
            for bundle in self.bundles:
                bundle.model.to_device(self.device)
                steppers.append(bundle.model.stepper())
            self.stepper = steppers[0] if len(steppers) == 1 else EnsembleStepper(steppers)
        if extractor is not None:
            self._check_size(extractor.dim, f'the network {extractor.network}')

    @classmethod
    def load(cls, folders=None, device='@numpy', image_weights=None, network=None, profile=None, pictures=True,
             honour_exif=True, max_pixels=MAX_PIXELS, say=None):
        """Loads a model directory, and the network that makes the features it wants.

        Args:
            folders (str, os.PathLike, or list of them): The model directory; several are an ensemble. None takes the
                one that comes with the package, which has learned from Flickr8k.
            device (str or chainer.backend.Device): As `chainer.get_device` takes it: `'@numpy'`, `'@cupy:0'`.
            image_weights (str or os.PathLike or None): The network's weights; by default those of the model directory,
                or if it has none, they are looked for where Chainer keeps its models.
            network (str or None): Only for a model that does not record its network.
            profile (str or None): Only for a model that does not record its preprocessing.
            pictures (bool): False loads no network, which is enough for stored features.
            honour_exif (bool): Turn pictures as their EXIF orientation says.
            max_pixels (int): Refuse pictures of more.
            say (callable or None): Takes a notice, one line, about what had to be assumed; None prints it on stderr.

        Raises:
            InputError: A file is missing or damaged, or the network is not the one that the model learned from.
        """
        say = say or _tell
        if folders is None:
            say('no model is named: this one comes along; it has learned from Flickr8k, which shows people, dogs and '
                'sport')
            folders = SHIPPED
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        bundles, names = [Bundle.load(folder) for folder in folders], [str(folder) for folder in folders]
        if not pictures:
            return cls(bundles, device, names=names)
        known, folder = bundles[0].origin, folders[0]
        origin = known
        if origin is None:
            # A network that was named without a profile has one of its own.
            origin = {'network': network, 'profile': profile} if network else {**ASSUMED, **(
                {'profile': profile} if profile else {})}
        for given, key in ((network, 'network'), (profile, 'profile')):
            if known and given not in (None, origin[key]):
                raise InputError(f'{folder}: learned from features of the {key} {origin[key]}; captions of '
                                 f'{given} features would mean nothing, leave out --{key}')
        if known and (base_of(known['network']) not in NETWORKS or known['profile'] not in PROFILES):
            raise InputError(f'{folder}: learned from features of {known["network"]} under the profile '
                             f'{known["profile"]}, which are not made here; caption stored ones (--release)')
        if known is None and None in (network, profile):
            say(f'{folder}: does not record what made its features; assuming the network {origin["network"]} and the '
                f'profile {origin["profile"] or "that its weights want"} (--network, --profile)')
        extractor = Extractor.load(**origin, weights=image_weights or bundles[0].network_path, device=device,
                                   honour_exif=honour_exif, max_pixels=max_pixels)
        return cls(bundles, device, extractor, names)

    def _check_size(self, size, what):
        wanted = self.bundle.model.feature_size
        if size != wanted:
            raise InputError(f'{what} has features of {size} numbers, but the model learned from {wanted}')

    def search(self, search=None, **options):
        """The search that methods of this class use when they are called with these arguments.

        Args:
            search (BeamSearch, DiverseBeamSearch, Sampling or None): Where it is given it is taken as it is, but for
                the options.
            **options: Those of `BeamSearch`, or with `groups` or `diversity` of `DiverseBeamSearch`. What is not given
                is what the model directory says, if it does (`Bundle.search`), and the default if not.

        Raises:
            InputError: An option is impossible.
        """
        if search is not None:
            search = dataclasses.replace(search, **options) if options else search
        else:
            kind = DiverseBeamSearch if {'groups', 'diversity'} & options.keys() else BeamSearch
            search = kind(**{**self.bundle.search, **options})
        # Anything that is called as a search is one, also what has no such option.
        least = getattr(search, 'min_length', 0)
        if self.places is not None and least >= self.places:
            raise InputError(f'--min-length {least}: the model has {self.places} places, for {self.places - 1} words '
                             'and </S>')
        return search

    def caption(self, paths, search=None, **options):
        """Captions pictures.

        Args:
            paths (str, os.PathLike, or iterable of them): Pictures, and folders, which are walked (`find_pictures`).
            search (BeamSearch, DiverseBeamSearch, Sampling or None): What to caption with.
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
            yield from self.caption_prepared(batch, search)

    def caption_prepared(self, batch, search):
        """Captions pictures that are computed together.

        Args:
            batch (list of tuple): Pairs of a path and its picture, as `prepared_batches` has them.
            search (BeamSearch, DiverseBeamSearch or Sampling): What to caption with.

        Yields:
            Result: One a picture, in their order.
        """
        good = [picture for _, picture in batch if isinstance(picture, np.ndarray)]
        found = iter(self._captions(self.extractor(good), search) if good else ())
        for path, picture in batch:
            if isinstance(picture, np.ndarray):
                yield _result(path, path, None, next(found), search)
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
        if not may_be(release.origin, known):
            raise InputError(f'{release.features_path}: features of {origin_text(release.origin)}, but the model '
                             f'learned from {origin_text(known)}')
        captions = release.captions
        rows = captions.image_ids[pictures]
        found = self._caption_rows(release.features, rows, search)
        return (_result(None, captions.filenames[picture], int(row), best, search)
                for picture, row, best in zip(pictures, rows, found, strict=True))

    def _captions(self, features, search):
        with chainer.using_device(self.device), one_blas_thread(), _overflowing(), \
                enough_memory(self.device, getattr(search, 'lighter', 'lower --beam-width')):
            # A network may hand over columns; the same numbers in the same order are captioned the same to the bit.
            features = self.device.xp.ascontiguousarray(features)
            found = search(self.stepper, features)
        decode, unit = self.bundle.vocabulary.decode, self.bundle.unit
        return [[Caption(decode(h.words), h.log_prob, h.log_prob_per_token, h.finished, unit) for h in best]
                for best in found]


def _tell(line):
    print(line, file=sys.stderr)


def _overflowing():
    """Within it NumPy says nothing of sums that overflow: the result of the picture does."""
    return np.errstate(over='ignore', invalid='ignore')


def _result(path, filename, image_id, captions, search):
    # Anything that is called as a search is one, also what has no such option.
    why = _OVERFLOW + (_NOTHING_LEFT if getattr(search, 'no_repeat_ngram', 0) else '')
    return Result(path, filename, image_id, captions, None if captions else why)

"""Captioner: images or features in, captions out. The API that most users need."""
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
from chainer_caption.features.encoders import ENCODERS, base_of
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_images
from chainer_caption.features.images import MAX_PIXELS
from chainer_caption.features.prefetch import prepared_batches
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.functions.matmul import one_blas_thread
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.ensemble import EnsembleStepper, check_ensemble
from chainer_caption.models.provenance import compatible, provenance_text

# What is assumed of a model that does not know where its features came from: dsanno/chainer-image-caption made them of
# new images with VGG-19, and Karpathy's preprocessing made the published matrices.
ASSUMED = {'encoder': 'vgg19', 'preprocessing': 'karpathy'}

#: The model directory that comes with the package; its README.md says what it knows, and how it was made.
PRETRAINED = pathlib.Path(__file__).parent / 'pretrained'

# Why an image has no captions: sums that are infinite, or no numbers at all, compare with nothing.
_OVERFLOW = 'no caption is found, because the scores overflow; the model has diverged, or the features are too large'
_NOTHING_LEFT = ' (or --no-repeat-ngram left nothing to say)'

# Rows of stored features that are searched together, at most.
ROWS = 512


class Captioner:
    """A trained model, ready to caption; or several, an ensemble, by the mean of their probabilities at each word.

    Args:
        bundles (Bundle or list of Bundle): The models with their vocabulary.
        device (str or chainer.backend.Device): Where to run.
        extractor (Extractor or None): What turns images into features; not needed for stored features.
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
        bounds = (getattr(bundle.model, 'max_positions', None) for bundle in self.bundles)
        self.max_positions = min(filter(None, bounds), default=None)
        self.reads = getattr(self.bundle.model, 'reads', 'vectors')
        if extractor is not None:
            _check_images(self.bundle, self.names[0])
        self.device = chainer.get_device(device)
        self.extractor = extractor
        with enough_memory(self.device), _overflowing():
            steppers = []
            for bundle in self.bundles:
                bundle.model.to_device(self.device)
                steppers.append(bundle.model.stepper())
            self.stepper = steppers[0] if len(steppers) == 1 else EnsembleStepper(steppers)
        if extractor is not None:
            self._check_size(extractor.dim, f'the encoder {extractor.encoder}')

    @classmethod
    def load(cls, folders=None, device='@numpy', encoder_weights=None, encoder=None, preprocessing=None, images=True,
             honour_exif=True, max_pixels=MAX_PIXELS, say=None):
        """Loads a model directory, and the encoder that makes the features it wants.

        Args:
            folders (str, os.PathLike, or list of them): The model directory; several are an ensemble. None takes the
                one that comes with the package, which has learned from Flickr8k.
            device (str or chainer.backend.Device): As `chainer.get_device` takes it: `'@numpy'`, `'@cupy:0'`.
            encoder_weights (str or os.PathLike or None): The encoder's weights; by default those of the model
                directory, or if it has none, they are looked for where Chainer keeps its models.
            encoder (str or None): Only for a model that does not record its encoder.
            preprocessing (str or None): Only for a model that does not record its preprocessing.
            images (bool): False loads no encoder, which is enough for stored features.
            honour_exif (bool): Turn images as their EXIF orientation says.
            max_pixels (int): Refuse images of more.
            say (callable or None): Takes a notice, one line, about what had to be assumed; None prints it on stderr.

        Raises:
            InputError: A file is missing or damaged, or the encoder is not the one that the model learned from.
        """
        say = say or _tell
        if folders is None:
            say('no model is named: this one comes along; it has learned from Flickr8k, which shows people, dogs and '
                'sport')
            folders = PRETRAINED
        folders = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
        bundles, names = [Bundle.load(folder) for folder in folders], [str(folder) for folder in folders]
        if not images:
            return cls(bundles, device, names=names)
        _check_images(bundles[0], names[0])
        known, folder = bundles[0].provenance, folders[0]
        provenance = known
        if provenance is None:
            # An encoder that was named without a preprocessing has one of its own.
            provenance = {'encoder': encoder, 'preprocessing': preprocessing} if encoder else {**ASSUMED, **(
                {'preprocessing': preprocessing} if preprocessing else {})}
        for given, key in ((encoder, 'encoder'), (preprocessing, 'preprocessing')):
            if known and given not in (None, provenance[key]):
                raise InputError(f'{folder}: learned from features of the {key} {provenance[key]}; captions of '
                                 f'{given} features would mean nothing, leave out --{key}')
        if known and (base_of(known['encoder']) not in ENCODERS or known['preprocessing'] not in PREPROCESSINGS):
            raise InputError(f'{folder}: learned from features of {known["encoder"]} under the preprocessing '
                             f'{known["preprocessing"]}, which are not made here; caption stored ones (--dataset)')
        if known is None and None in (encoder, preprocessing):
            say(f'{folder}: does not record what made its features; assuming the encoder {provenance["encoder"]} and '
                f'the '
                f'preprocessing {provenance["preprocessing"] or "that its weights want"} (--encoder, --preprocessing)')
        extractor = Extractor.load(**provenance, weights=encoder_weights or bundles[0].encoder_path, device=device,
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
            kind = DiverseBeamSearch if {'beam_groups', 'diversity_penalty'} & options.keys() else BeamSearch
            search = kind(**{**self.bundle.search, **options})
        # Anything that is called as a search is one, also what has no such option.
        least = getattr(search, 'min_length', 0)
        if self.max_positions is not None and least >= self.max_positions:
            raise InputError.of('min_length', least, f'the model has {self.max_positions} positions, for '
                                f'{self.max_positions - 1} words and </S>')
        return search

    def caption(self, paths, search=None, **options):
        """Captions images.

        Args:
            paths (str, os.PathLike, or iterable of them): Images, and folders, which are walked (`find_images`).
            search (BeamSearch, DiverseBeamSearch, Sampling or None): What to caption with.
            **options: In its place, or to change it (see `search`): `caption('holiday/', width=5)`.

        Yields:
            Result: One an image, in sorted order, as they are done. An image that cannot be read is a result with
            an `error`.
        """
        return self.caption_files(find_images(paths), search, **options)

    def caption_files(self, paths, search=None, **options):
        """Captions the images of a list, in its order; otherwise as `caption`."""
        if self.extractor is None:
            raise InputError('this captioner was loaded without an encoder, so it can caption stored features only')
        return self._caption_files(paths, self.search(search, **options))

    def _caption_files(self, paths, search):
        for batch in prepared_batches(self.extractor, paths):
            yield from self.caption_prepared(batch, search)

    def caption_prepared(self, batch, search):
        """Captions images that are computed together.

        Args:
            batch (list of tuple): Pairs of a path and its image, as `prepared_batches` has them.
            search (BeamSearch, DiverseBeamSearch or Sampling): What to caption with.

        Yields:
            Result: One an image, in their order.
        """
        good = [image for _, image in batch if isinstance(image, np.ndarray)]
        found = iter(self._captions(self.extractor(good), search) if good else ())
        for path, image in batch:
            if isinstance(image, np.ndarray):
                yield _result(path, path, None, next(found), search)
            else:
                yield Result(path, path, error=str(image))

    def caption_features(self, features, search=None, **options):
        """Captions images by their features.

        Args:
            features (numpy.ndarray or tuple): What the model reads, float; a memory map does: vectors (N, D), grids
                (N, L, D), or a tuple of both.
            search, **options: As for `caption`.

        Yields:
            list of Caption: One an image, best first; empty where the model's scores overflow.

        Raises:
            InputError: D is not the model's.
        """
        arrays = [np.asanyarray(array) for array in (features if isinstance(features, tuple) else (features,))]
        axes = {'vectors': [2], 'grids': [3], 'both': [2, 3]}[self.reads]
        if [array.ndim for array in arrays] != axes:
            raise InputError(f'the model reads {self.reads}, features of {" and ".join(map(str, axes))} axes; these '
                             f'have the shape {" and ".join(str(array.shape) for array in arrays)}')
        for array in arrays:
            self._check_size(array.shape[-1], 'the matrix')
        features = tuple(arrays) if len(arrays) > 1 else arrays[0]
        return self._caption_rows(features, np.arange(len(arrays[0])), self.search(search, **options))

    def _caption_rows(self, features, rows, search):
        size = ROWS if self.reads == 'vectors' else ROWS // 16      # a grid is 49 vectors and more
        for start in range(0, len(rows), size):
            yield from self._captions(take_rows(features, rows[start:start + size], self.device), search)

    def caption_dataset(self, dataset, split, search=None, **options):
        """Captions the images of a dataset's split by the features stored there.

        Args:
            dataset (Dataset): The dataset.
            split (str): `train`, `restval`, `val` or `test`.
            search, **options: As for `caption`.

        Yields:
            Result: One an image, in the dataset's order.

        Raises:
            InputError: The split is empty, or the features are not those that the model learned from.
        """
        return self.caption_images(dataset, dataset.images(split), search, **options)

    def caption_images(self, dataset, images, search=None, **options):
        """Captions some images of a dataset by the features stored there.

        Args:
            dataset (Dataset): The dataset.
            images (numpy.ndarray): As places in `dataset.captions.filenames`, (n,) int.
            search, **options: As for `caption`.

        Yields:
            Result: One an image, in their order.

        Raises:
            InputError: The features are not those that the model learned from.
        """
        search = self.search(search, **options)
        dataset = dataset.reading(self.reads)
        self._check_size(dataset.feature_size, str(dataset.features_path))
        known = self.bundle.provenance
        if not compatible(dataset.provenance, known):
            raise InputError(f'{dataset.features_path}: features of {provenance_text(dataset.provenance)}, but the '
                             f'model '
                             f'learned from {provenance_text(known)}')
        captions = dataset.captions
        rows = captions.image_ids[images]
        found = self._caption_rows(dataset.inputs(self.reads), rows, search)
        return (_result(None, captions.filenames[image], int(row), best, search)
                for image, row, best in zip(images, rows, found, strict=True))

    def _captions(self, features, search):
        with chainer.using_device(self.device), one_blas_thread(), _overflowing(), \
                enough_memory(self.device, getattr(search, 'lighter', 'lower --beam-width')):
            # An encoder may hand over columns; the same numbers in the same order are captioned the same to the bit.
            features = tuple(map(self.device.xp.ascontiguousarray, features)) if isinstance(features, tuple) else \
                self.device.xp.ascontiguousarray(features)
            found = search(self.stepper, features)
        decode, tokenizer = self.bundle.vocabulary.decode, self.bundle.tokenizer
        return [[Caption(decode(h.words), h.log_prob, h.log_prob_per_token, h.finished, tokenizer) for h in best]
                for best in found]


def _check_images(bundle, name):
    reads = getattr(bundle.model, 'reads', 'vectors')
    if reads != 'vectors':
        raise InputError(f'{name}: the model reads {reads}, and grids are not computed from images here; caption the '
                         'stored grids of a dataset (--dataset)')


def _tell(line):
    print(line, file=sys.stderr)


def _overflowing():
    """Within it NumPy says nothing of sums that overflow: the result of the image does."""
    return np.errstate(over='ignore', invalid='ignore')


def _result(path, filename, image_id, captions, search):
    # Anything that is called as a search is one, also what has no such option.
    why = _OVERFLOW + (_NOTHING_LEFT if getattr(search, 'no_repeat_ngram', 0) else '')
    return Result(path, filename, image_id, captions, None if captions else why)

"""Captioner: images or features in, captions out."""
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chainer
import numpy as np

from chainer_caption.captioning.results import Caption, Result
from chainer_caption.captioning.sources import Source, read_source, sources
from chainer_caption.captioning.trust import Trust
from chainer_caption.data.batches import take_rows
from chainer_caption.data.dataset import Dataset
from chainer_caption.decoding import BeamSearch, DiverseBeamSearch
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, base_encoder
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.images import MAX_PIXELS
from chainer_caption.features.onnx_names import is_onnx, is_onnx_file
from chainer_caption.features.prefetch import prepared_batches
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.functions.inputs import map_inputs
from chainer_caption.functions.matmul import one_blas_thread
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.ensemble import EnsembleDecoder, check_ensemble
from chainer_caption.models.provenance import compatible, provenance_text

# Assumed of a model that records no provenance: dsanno/chainer-image-caption used VGG-19 for new images, and the
# published matrices were made with Karpathy's preprocessing.
ASSUMED = {'encoder': 'vgg19', 'preprocessing': 'karpathy'}

#: The pretrained model's directory, a part of the package; its README.md describes how it was trained.
PRETRAINED = pathlib.Path(__file__).parent / 'pretrained'

# Why an image has no captions: infinite scores and NaN compare with nothing.
_OVERFLOW = 'no caption is found, because the scores overflow; the model has diverged, or the features are too large'
_NOTHING_LEFT = ' (or no_repeat_ngram excluded every word)'
ROWS = 512                                              # rows of stored features that are searched together, at most
Path = str | os.PathLike[str]


def model_folder(name: Path) -> pathlib.Path:
    """The model directory of a name: `pretrained` is the pretrained model, unless there is a folder of that name."""
    return PRETRAINED if os.fspath(name) == PRETRAINED.name and not os.path.exists(name) else pathlib.Path(name)


class Captioner:
    """A trained model ready to caption, or an ensemble, which averages the models' probabilities of each word.

    Args:
        bundles, names: The model with its vocabulary, or several; their names in messages.
        device: A Chainer device or its name.
        extractor: Turns images into features; stored features need none.

    Attributes:
        bundles, names: The models, a list of `Bundle`, and their names.
        bundle (Bundle): The first of them. All share its vocabulary and features; its search is the default.
        decoder: The decoder that searches call, of the model or of the ensemble.
        trust: Familiarity of images and confidence of captions.
        max_positions (int or None): Tokens in a caption at most, `</S>` included, where the architecture has a limit.

    Raises:
        InputError: The extractor's features differ from those that the model was trained on, or the models of an
            ensemble differ in vocabulary or features.
    """

    def __init__(self, bundles: Bundle | Iterable[Bundle], device: Any = '@numpy', extractor: Any = None,
                 names: list[str] | None = None) -> None:
        self.bundles = [bundles] if isinstance(bundles, Bundle) else list(bundles)
        self.bundle = self.bundles[0]
        self.names = names or [f'model {i}' for i in range(1, 1 + len(self.bundles))]
        check_ensemble(self.bundles, self.names)
        self.trust = Trust(self.bundles, self.names)
        bounds = (bundle.model.max_positions for bundle in self.bundles)
        self.max_positions = min(filter(None, bounds), default=None)
        self.reads = self.bundle.model.reads
        if extractor is not None:
            _check_images(self.bundle, self.names[0], getattr(extractor, 'grid', False))
        self.device = chainer.get_device(device)
        self.extractor = extractor
        with enough_memory(self.device), _overflowing():
            decoders = []
            for bundle in self.bundles:
                bundle.model.to_device(self.device)
                decoders.append(bundle.model.decoder())
            self.decoder = decoders[0] if len(decoders) == 1 else EnsembleDecoder(decoders)
        if extractor is not None:
            self._check_size(extractor.dim, f'the encoder {extractor.encoder}')

    @classmethod
    def load(cls, folders: Path | Iterable[Path] | None = None, device: Any = '@numpy',
             encoder_weights: Path | None = None, encoder: str | None = None, preprocessing: str | None = None,
             images: bool = True, honour_exif: bool = True, max_pixels: int = MAX_PIXELS,
             say: Callable[[str], object] | None = None, encoder_precision: str = 'float32') -> 'Captioner':
        """Loads a model directory, and the image encoder that computes its features.

        Args:
            folders: The model directory; several are an ensemble. None is the pretrained model, trained on Flickr8k.
            device: As `chainer.get_device` takes it: `'@numpy'`, `'@cupy:0'`.
            encoder_weights: By default those in the model directory, or else those where Chainer keeps its models.
            encoder, preprocessing: Only for a model that does not record them; or the ONNX file of the encoder, which
                `encoder_weights` may be, too.
            images: False loads no encoder, which is enough for stored features.
            honour_exif, max_pixels: Turn images by their EXIF orientation; images of more pixels are refused.
            say: Called with each notice, one line; by default a warning of the logger `chainer_caption`.
            encoder_precision: `'float32'`, or `'bf16'` to compute the encoder in bfloat16, by OpenVINO.

        Raises:
            InputError: A file is missing or damaged, or the encoder is not the one that the model was trained with.
        """
        say = say or logging.getLogger('chainer_caption').warning
        if folders is None:
            say('Using the pretrained model (Flickr8k); choose another with -m.')
            folders = PRETRAINED
        folders = [*map(model_folder, [folders] if isinstance(folders, str | os.PathLike) else folders)]
        bundles, names = [Bundle.load(folder) for folder in folders], [str(folder) for folder in folders]
        if not images:
            return cls(bundles, device, names=names)
        known, folder = bundles[0].provenance, folders[0]
        if encoder is None and is_onnx_file(encoder_weights):
            encoder, encoder_weights = os.fspath(encoder_weights or ''), None
        grid = is_onnx(known['encoder'] if known else encoder) and bundles[0].model.reads == 'grids'
        _check_images(bundles[0], names[0], grid)
        if known and is_onnx(known['encoder']) and is_onnx_file(encoder):
            encoder, encoder_weights = None, encoder    # its digest is compared with the recorded one
        # An encoder that was named without a preprocessing has one of its own.
        provenance: dict[str, Any] = known or ({'encoder': encoder, 'preprocessing': preprocessing} if encoder else
                               {**ASSUMED, 'preprocessing': preprocessing or ASSUMED['preprocessing']})
        for given, key in ((encoder, 'encoder'), (preprocessing, 'preprocessing')):
            if known and given not in (None, provenance[key]):
                raise InputError.of(key, given, f'the model {folder} was trained on features of the {key} '
                                    f'{provenance[key]} and captions no others; leave {key} out')
        if known and not is_onnx(known['encoder']) and (
                base_encoder(known['encoder']) not in ENCODERS or known['preprocessing'] not in PREPROCESSINGS):
            raise InputError(f'{folder}: trained on features of {known["encoder"]} with the preprocessing '
                             f'{known["preprocessing"]}, which cannot be computed here; caption the stored features of '
                             'a dataset')
        if known is None and None in (encoder, preprocessing) and not is_onnx_file(encoder):
            say(f'{folder}: does not record what made its features; assuming the encoder {provenance["encoder"]} and '
                f'the preprocessing {provenance["preprocessing"] or "of its weights"} (--encoder, --preprocessing)')
        extractor = Extractor.load(**provenance, weights=encoder_weights or bundles[0].encoder_path, device=device,
                                   honour_exif=honour_exif, max_pixels=max_pixels, precision=encoder_precision, say=say,
                                   grid=grid)
        return cls(bundles, device, extractor, names)

    def _check_size(self, size: int, what: str) -> None:
        wanted = self.bundle.model.feature_size
        if size != wanted:
            raise InputError(f'{what} has features of {size} numbers, but the model was trained on {wanted}')

    def search(self, search: Any = None, **options: Any) -> Any:
        """The search that the other methods use when they are called with these arguments.

        Args:
            search: A `BeamSearch`, `DiverseBeamSearch` or `Sampling`, which is used as it is, except for the options.
            **options: Those of `BeamSearch`, or with `beam_groups` or `diversity_penalty` of `DiverseBeamSearch`; by
                default the model directory's values (`Bundle.search`).

        Raises:
            InputError: An option is impossible.
        """
        if search is not None:
            search = dataclasses.replace(search, **options) if options else search
        else:
            kind = DiverseBeamSearch if {'beam_groups', 'diversity_penalty'} & options.keys() else BeamSearch
            search = kind(**{**self.bundle.search, **options})
        # Any callable with the signature of a search is one, also without these attributes.
        least = getattr(search, 'min_length', 0)
        if self.max_positions is not None and least >= self.max_positions:
            raise InputError.of('min_length', least, f'the model has {self.max_positions} positions, for '
                                f'{self.max_positions - 1} words and </S>')
        return search

    def caption(self, images: Any, search: Any = None, min_confidence: float | None = None,
                **options: Any) -> Iterator[Result]:
        """Captions images.

        Args:
            images: One image or an iterable of them, in any mixture: paths; folders, which are walked
                (`find_images`); PIL images; arrays (H, W, 3) or (N, H, W, 3), RGB, uint8; the bytes of an image file;
                open binary files.
            search, **options: As for the method `search`: `caption('holiday/', width=5)`.
            min_confidence: Images whose confidence is lower are `skipped`: their results have no captions.

        Yields:
            A result for each image as soon as it is done, in the order given, within a folder in sorted order. An image
            that cannot be read has a result with an `error`.

        Raises:
            TypeError, InputError: Something is no image; an option is impossible; an array has another shape or type;
                the model has no confidence.
        """
        return self._caption_sources(sources(images), search, min_confidence, **options)

    def caption_files(self, paths: Iterable[Path], search: Any = None, min_confidence: float | None = None,
                      **options: Any) -> Iterator[Result]:
        """Captions the images of a list of paths, without looking for folders in it; otherwise as `caption`."""
        return self._caption_sources((Source(os.fspath(path)) for path in paths), search, min_confidence, **options)

    def _caption_sources(self, images: Iterable[Source], search: Any, least: float | None,
                         **options: Any) -> Iterator[Result]:
        if self.extractor is None:
            raise InputError('this captioner was loaded without an encoder, so it captions stored features only')
        self.trust.check(least)
        return self._caption_batches(images, self.search(search, **options), least)

    def _caption_batches(self, images: Iterable[Source], search: Any, least: float | None) -> Iterator[Result]:
        for batch in prepared_batches(_Reader(self.extractor), images):
            pairs: list[tuple[Any, Any]] = list(batch)
            results = self.caption_prepared([(source.filename, image) for source, image in pairs], search)
            for (source, _), result in zip(pairs, results, strict=True):
                yield dataclasses.replace(result, path=source.path).if_confident(least)

    def caption_prepared(self, batch: Sequence[tuple[str, Any]], search: Any) -> Iterator[Result]:
        """Captions images that are computed together, pairs of a path and its image as from `prepared_batches`."""
        good = [image for _, image in batch if isinstance(image, np.ndarray)]
        found = self._captions(self.extractor(good), search) if good else iter(())
        for path, image in batch:
            if isinstance(image, np.ndarray):
                yield _result(path, path, None, *next(found), search)
            else:
                yield Result(path, path, error=str(image))

    def caption_features(self, features: np.ndarray | tuple[np.ndarray, ...], search: Any = None,
                         **options: Any) -> Iterator[list[Caption]]:
        """Captions images by their features; yields those of each image, best first, none where the scores overflow.

        Args:
            features: What the model reads, floats, also a memory map: vectors (N, D), grids (N, L, D), or both as a
                tuple. InputError for another shape.
            search, **options: As for `caption`.
        """
        arrays = [np.asanyarray(array) for array in (features if isinstance(features, tuple) else (features,))]
        axes = {'vectors': [2], 'grids': [3], 'both': [2, 3]}[self.reads]
        if [array.ndim for array in arrays] != axes:
            raise InputError(f'the model reads {self.reads}, features of {" and ".join(map(str, axes))} axes; these '
                             f'have the shape {" and ".join(str(array.shape) for array in arrays)}')
        for array in arrays:
            self._check_size(array.shape[-1], 'the matrix')
        features = tuple(arrays) if len(arrays) > 1 else arrays[0]
        found = self._caption_rows(features, np.arange(len(arrays[0])), self.search(search, **options))
        return (captions for captions, _ in found)

    def _caption_rows(self, features: Any, rows: np.ndarray, search: Any) -> Iterator[tuple[list[Caption], Any]]:
        size = ROWS if self.reads == 'vectors' else ROWS // 16      # a grid is 49 vectors and more
        for start in range(0, len(rows), size):
            yield from self._captions(take_rows(features, rows[start:start + size], self.device), search)

    def caption_dataset(self, dataset: Dataset, split: str, search: Any = None, min_confidence: float | None = None,
                        **options: Any) -> Iterator[Result]:
        """Captions a dataset's split (`train`, `restval`, `val` or `test`) by stored features, otherwise as `caption`.

        Raises InputError: the split is empty, or the features are not those that the model was trained on."""
        return self.caption_images(dataset, dataset.images(split), search, min_confidence, **options)

    def caption_images(self, dataset: Dataset, images: np.ndarray, search: Any = None,
                       min_confidence: float | None = None, **options: Any) -> Iterator[Result]:
        """As `caption_dataset`; `images` are their indices in `dataset.captions.filenames`, (n,) int."""
        search = self.search(search, **options)
        self.trust.check(min_confidence)
        dataset = dataset.reading(self.reads)
        self._check_size(dataset.feature_size, str(dataset.features_path))
        known = self.bundle.provenance
        if not compatible(dataset.provenance, known):
            raise InputError(f'{dataset.features_path}: features of {provenance_text(dataset.provenance)}, but the '
                             f'model was trained on {provenance_text(known)}')
        captions, rows = dataset.captions, dataset.captions.image_ids[images]
        found = self._caption_rows(dataset.inputs(self.reads), rows, search)
        return (_result(None, captions.filenames[image], int(row), *best, search).if_confident(min_confidence)
                for image, row, best in zip(images, rows, found, strict=True))

    def _captions(self, features: Any, search: Any) -> Iterator[tuple[list[Caption], dict[str, float]]]:
        """The captions of each image, and its familiarity and confidence."""
        with chainer.using_device(self.device), one_blas_thread(), _overflowing(), \
                enough_memory(self.device, getattr(search, 'lighter', 'lower --beam-width')):
            # Features in another memory order would be captioned differently in the last bits.
            found = search(self.decoder, map_inputs(self.device.xp.ascontiguousarray, features))
        decode, tokenizer = self.bundle.vocabulary.decode, self.bundle.tokenizer
        captions = [[Caption(decode(h.words), h.log_prob, h.log_prob_per_token, h.finished, tokenizer) for h in best]
                    for best in found]
        return zip(captions, self.trust.of(features, captions), strict=True)


def _check_images(bundle: Bundle, name: str, grid: bool) -> None:
    reads = bundle.model.reads
    if reads != ('grids' if grid else 'vectors'):
        raise InputError(f'{name}: the model reads {reads}, and grids are not computed from images here; caption the '
                         'stored grids of a dataset (--dataset)')


@dataclasses.dataclass
class _Reader:
    """An extractor whose `prepare` takes a `Source`."""
    extractor: Any

    def prepare(self, source: Source) -> np.ndarray:
        honour_exif = getattr(self.extractor, 'identity', {}).get('EXIF', True)
        return self.extractor.prepare(read_source(source, honour_exif))


def _overflowing() -> np.errstate:                      # the image's result reports it
    return np.errstate(over='ignore', invalid='ignore')


def _result(path: str | None, filename: str, image_id: int | None, captions: list[Caption], trust: dict[str, Any],
            search: Any) -> Result:
    why = _OVERFLOW + (_NOTHING_LEFT if getattr(search, 'no_repeat_ngram', 0) else '')
    return Result(path, filename, image_id, captions, None if captions else why, **trust)

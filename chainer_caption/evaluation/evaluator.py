"""Scores, diversity and perplexity of the captions of a split, made by a model or read from a file.

    evaluator = Evaluator(Dataset('features/flickr8k'), 'test')
    ours, = evaluator.evaluate_model('model', Captioner.load('model', images=False), [BeamSearch(width=3)])
    theirs = evaluator.evaluate_file('captions.json')
    print(ours.figures['CIDEr'], theirs.figures['CIDEr'])
"""
from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import chainer
import numpy as np

from chainer_caption.data.batches import CaptionDataset, CaptionIterator, PackCaptions
from chainer_caption.data.vocabulary import SPECIAL, UNK
from chainer_caption.errors import InputError
from chainer_caption.evaluation import metrics
from chainer_caption.evaluation.calibration import GOOD, calibration_error
from chainer_caption.evaluation.metrics.cider import SINGLE, CiderScorer
from chainer_caption.evaluation.metrics.scorer import DEFAULT
from chainer_caption.evaluation.perplexity import stepped_perplexity, token_means
from chainer_caption.evaluation.predictions import Prediction, read_predictions
from chainer_caption.functions.memory import enough_memory
from chainer_caption.storage.files import json_number

if TYPE_CHECKING:
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.data.dataset import Dataset

Say = Callable[[str], object]

# Captions whose perplexity is computed together.
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of one set of captions."""
    name: str                                           #: the model or the captions' file
    search: Any                                         #: the search that made them (`BeamSearch`, …), if a model did
    predictions: list[Prediction]                       #: a caption for each image, in the order of `Evaluator.images`
    #: `BLEU-1` to `BLEU-4`, `ROUGE-L`, `CIDEr` and perhaps `METEOR`, as fractions (CIDEr may exceed 1); `perplexity` of
    #: a model; those of `metrics.diversity`; and for several captions an image `distinct-1` and `distinct-2`
    #: (`metrics.distinct_ngrams`) and `best-CIDEr`, that of the best of them; `ECE`, the calibration error of a model
    #: that has confidence.
    figures: dict[str, float]
    #: The scores of each image by itself, arrays (images,); a corpus's BLEU is not their mean.
    each: dict[str, np.ndarray]
    #: What the captions are tokenized by, one of `data.captions.TOKENIZERS`.
    tokenizer: str = 'words'

    @property
    def label(self) -> str:
        """The name with the search, to tell evaluations apart: `'model, beam 3'`."""
        return self.name if self.search is None else f'{self.name}, {self.search}'

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the search as JSON values; empty if it is not known."""
        settings = {} if self.search is None else dataclasses.asdict(self.search)
        return {'beam_width' if name == 'width' else name: value for name, value in settings.items()}

    def to_json(self) -> dict[str, Any]:
        """Figures, name and settings as JSON values. JSON has no infinity; such a perplexity is None."""
        figures = {name: json_number(figure) for name, figure in self.figures.items()}
        return {**figures, 'name': self.name, **self.settings, 'images': len(self.predictions)}


class Evaluator:
    """Scores captions of the images of a split, or of its first `limit` images, against the dataset's.

    METEOR needs WordNet's data (see `metrics.meteor_missing`). `say` takes a notice, one line. An `InputError` means
    that the split, `train`, `restval`, `val` or `test`, has no image with a caption.

    Attributes:
        images: The images that are scored, as indices into `dataset.captions.filenames`: those that have captions.
        references: The captions of each, lists of tokens.
    """

    def __init__(self, dataset: Dataset, split: str, meteor: bool = False, say: Say = lambda line: None,
                 limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InputError.of('limit', limit, 'must be at least 1')
        self._training = _training_captions(dataset)
        everything = dataset.images(split)
        self._described = np.diff(dataset.captions.sentences)[everything] > 0
        self.images = everything[self._described][:limit]
        if not len(self.images):
            raise InputError(f'{dataset.dataset_path}: no image of the split {split} has a caption to compare with')
        if limit is not None:
            dataset = dataset.without(np.setdiff1d(everything, self.images))
            self._described = np.ones(len(self.images), bool)
        elif len(self.images) < len(everything):
            say(f'{dataset.dataset_path}: {len(everything) - len(self.images):,} images of the split {split} have '
                'no captions to compare with and are left out')
        if len(self.images) == 1:
            say(f'{dataset.dataset_path}: only one image of the split {split} is scored; {SINGLE}')
        self.dataset, self.split, self._say = dataset, split, say
        self.references = [dataset.references(image) for image in self.images]
        self._scorer = metrics.Scorer(self.references, (*DEFAULT, 'METEOR') if meteor else DEFAULT)

    def score(self, name: str, predictions: list[Prediction], search: Any = None, perplexity: float | None = None,
              more: list[list[list[str]]] | None = None) -> Evaluation:
        """Scores a caption for each of `images`, in their order.

        `search` and `perplexity` are those of the model that made them; `more` are all captions of each image, lists of
        tokens, `predictions` among them.
        """
        tokens = [prediction.tokens for prediction in predictions]
        figures, each = self._scorer.score(tokens)
        if perplexity is not None:
            figures['perplexity'] = perplexity
        finished = [prediction.finished for prediction in predictions if prediction.finished is not None]
        figures |= metrics.diversity(tokens, self._training, finished if len(finished) == len(tokens) else None)
        sure = [prediction.confidence for prediction in predictions if prediction.confidence is not None]
        if len(sure) == len(tokens):
            figures['ECE'] = calibration_error(np.array(sure), each['CIDEr'] >= GOOD)
        if more is not None:
            figures |= self._spread(more)
        return Evaluation(name, search, predictions, figures, each, self.dataset.captions.tokenizer)

    def _spread(self, captions: list[list[list[str]]]) -> dict[str, float]:
        """How much the captions of each image differ, and the CIDEr of the best of them."""
        place = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
        each = CiderScorer(self.references).score(list(itertools.chain.from_iterable(captions)),
                                                  place.tolist())[1]['CIDEr']
        best = np.maximum.reduceat(each, np.searchsorted(place, np.arange(len(captions))))
        return {'distinct-1': metrics.distinct_ngrams(captions, 1), 'distinct-2': metrics.distinct_ngrams(captions, 2),
                'best-CIDEr': float(best.mean())}

    def evaluate_file(self, path: str | os.PathLike[str]) -> Evaluation:
        """Scores the captions in a file; see `read_predictions` for the formats and what is refused."""
        return self.score(str(path), read_predictions(path, self.dataset, self.images, self._say))

    def evaluate_model(self, name: str, captioner: Captioner, searches: Sequence[Any] = (None,), top: int = 1,
                       watch: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> list[Evaluation]:
        """Captions the images by their stored features and scores the best caption of each; once for each search.

        The `perplexity` is that of the split's captions; every token has the same weight, `</S>` included. A word that
        the model does not know is `<UNK>`, or left out if the model cannot predict that: perplexities of models with
        different vocabularies do not compare.

        Args:
            name: The name of the evaluations.
            captioner: The model.
            searches: One after another; None is the model's own.
            top: Captions an image. The likeliest is scored; from all come `distinct-1`, `distinct-2`, `best-CIDEr`.
            watch: Takes the iterator of a search's results and returns it, to show progress.

        Raises:
            InputError: The features are not those of the model's training, its tokenizer is not the dataset's, or it
                finds no caption of an image.
        """
        if (own := captioner.bundle.tokenizer) != (theirs := self.dataset.captions.tokenizer):
            raise InputError(f'{name}: generates {own}, but {self.dataset.dataset_path} has captions in {theirs}; '
                             'scores need the same tokenizer')
        # A search begins when its results are asked for, but an error in any of them is found here.
        searches = [captioner.search(search, top=top) for search in searches]
        found = [captioner.caption_dataset(self.dataset, self.split, search) for search in searches]
        kept = [self._results(name, watch(results)) for results in found]
        perplexity = self._perplexity(captioner)
        return [self.score(name, list(map(_prediction, results)), search, perplexity,
                           [[caption.tokens for caption in result.captions] for result in results] if top > 1 else None)
                for search, results in zip(searches, kept, strict=True)]

    def _results(self, name: str, results: Iterable[Any]) -> list[Any]:
        """The result of each image that is scored."""
        kept = []
        for result, described in zip(results, self._described, strict=True):
            if result.error is not None:
                raise InputError(f'{name}: {result.filename}: {result.error}')
            if described:
                kept.append(result)
        return kept

    def _perplexity(self, captioner: Captioner) -> float | None:
        models = [bundle.model for bundle in captioner.bundles]
        unsaid = any(SPECIAL[UNK] in model.unsaid for model in models)
        data = CaptionDataset.from_dataset(self.dataset, captioner.bundle.vocabulary, self.split, unknown=not unsaid)
        places = captioner.max_positions
        if places is not None and (long := np.count_nonzero(data.lengths > places)):
            self._say(f'{self.dataset.dataset_path}: {long:,} captions of the split {self.split} have more words than '
                      f'the {places - 1} that the model has room for, so there is no perplexity')
            return None
        alone = len(models) == 1 and models[0].trainable
        per_image = alone and models[0].per_image
        batches = CaptionIterator(data, _BATCH, repeat=False, shuffle=False, per_image=per_image)
        converter = PackCaptions(self.dataset.inputs(captioner.reads), per_image, len(captioner.bundle.vocabulary))
        with chainer.using_device(captioner.device), enough_memory(captioner.device):
            if alone:
                packed = (converter(batch, captioner.device) for batch in batches)
                return token_means(models[0], packed)['perplexity']
            return stepped_perplexity(captioner.decoder, (converter(batch, None) for batch in batches))


def _prediction(result: Any) -> Prediction:
    likeliest = result.captions[0]
    return Prediction(likeliest.tokens, likeliest.finished, result.familiarity, result.confidence)


def _training_captions(dataset: Dataset) -> set[tuple[str, ...]] | None:
    """The captions that a model of this dataset is trained on; None if there are none."""
    try:
        _, tokens, bounds = dataset.sentences(*dataset.training_splits)
    except InputError:
        return None
    words = np.array(dataset.captions.words, object)[tokens]
    return {tuple(words[start:stop]) for start, stop in itertools.pairwise(bounds)}

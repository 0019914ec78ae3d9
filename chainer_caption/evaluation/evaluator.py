"""How good the captions of a split are, whoever made them: scores, diversity, perplexity.

    evaluator = Evaluator(Dataset('features/flickr8k'), 'test')
    ours, = evaluator.evaluate_model('model', Captioner.load('model', images=False), [BeamSearch(width=3)])
    theirs = evaluator.evaluate_file('captions.json')
    print(ours.figures['CIDEr'], theirs.figures['CIDEr'])
"""
import dataclasses
import itertools

import chainer
import numpy as np

from chainer_caption.data.batches import CaptionDataset, CaptionIterator, PackCaptions
from chainer_caption.data.vocabulary import SPECIAL, UNK
from chainer_caption.errors import InputError
from chainer_caption.evaluation import metrics
from chainer_caption.evaluation.metrics.cider import SINGLE, CiderScorer
from chainer_caption.evaluation.metrics.scorer import DEFAULT
from chainer_caption.evaluation.perplexity import stepped_perplexity, token_means
from chainer_caption.evaluation.predictions import Prediction, read_predictions
from chainer_caption.functions.memory import enough_memory
from chainer_caption.storage.files import json_number

# Captions whose words are predicted together, for the perplexity.
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What became of one set of captions.

    Attributes:
        name (str): Whose they are: the model or the captions' file.
        search (BeamSearch, DiverseBeamSearch, Sampling or None): What they were made with, where a model made them.
        predictions (list of Prediction): A caption for each image, in the order of `Evaluator.images`.
        figures (dict): `BLEU-1` to `BLEU-4`, `ROUGE-L`, `CIDEr` and, if asked for, `METEOR`, as fractions (CIDEr may
            pass 1); `perplexity` of a model; what `metrics.diversity` says; and where each image has several captions
            `distinct-1` and `distinct-2` (`metrics.distinct_ngrams`) and `best-CIDEr`, that of the best of them.
        each (dict): The scores of each image by itself, arrays (images,); a corpus's BLEU is not their mean.
        tokenizer (str): What the captions are cut into, one of `data.captions.TOKENIZERS`.
    """
    name: str
    search: object
    predictions: list
    figures: dict
    each: dict
    tokenizer: str = 'words'

    @property
    def label(self):
        """The name with the search, to tell evaluations apart: `'model, beam 3'`."""
        return self.name if self.search is None else f'{self.name}, {self.search}'

    @property
    def settings(self):
        """The search as JSON values: a dict, which is empty where it is not known."""
        settings = {} if self.search is None else dataclasses.asdict(self.search)
        return {'beam_width' if name == 'width' else name: value for name, value in settings.items()}

    def to_json(self):
        """The figures and what they are of as JSON values: a dict. JSON has no infinity; such a perplexity is None."""
        figures = {name: json_number(figure) for name, figure in self.figures.items()}
        return {**figures, 'name': self.name, **self.settings, 'images': len(self.predictions)}


class Evaluator:
    """Scores captions of the images of a split against its own.

    Args:
        dataset (Dataset): The dataset.
        split (str): `train`, `restval`, `val` or `test`.
        meteor (bool): Whether to compute METEOR as well, which needs WordNet's data (see `metrics.meteor_missing`).
        say (callable): Takes a notice, one line.

    Attributes:
        images (numpy.ndarray): The images that are scored, as places in `dataset.captions.filenames`: those of
            the split that have captions to compare with.
        references (list): The captions of each, lists of tokens.

    Raises:
        InputError: The split has no images, or none has a caption.
    """

    def __init__(self, dataset, split, meteor=False, say=lambda line: None):
        self.dataset, self.split, self._say = dataset, split, say
        everything = dataset.images(split)
        self._described = np.diff(dataset.captions.sentences)[everything] > 0
        self.images = everything[self._described]
        if not len(self.images):
            raise InputError(f'{dataset.dataset_path}: no image of the split {split} has a caption to compare with')
        if len(self.images) < len(everything):
            say(f'{dataset.dataset_path}: {len(everything) - len(self.images):,} images of the split {split} have '
                'no captions to compare with and are left out')
        if len(self.images) == 1:
            say(f'{dataset.dataset_path}: one image is all that is scored of the split {split}; {SINGLE}')
        self.references = [dataset.references(image) for image in self.images]
        self._scorer = metrics.Scorer(self.references, (*DEFAULT, 'METEOR') if meteor else DEFAULT)
        self._training = _training_captions(dataset)

    def score(self, name, predictions, search=None, perplexity=None, more=None):
        """Scores a caption for each of the images.

        Args:
            name (str): What to call the evaluation.
            predictions (list of Prediction): In the order of `images`.
            search (BeamSearch, DiverseBeamSearch, Sampling or None): What they were made with.
            perplexity (float or None): That of the model which made them.
            more (list or None): All captions of each image, lists of tokens, `predictions` among them.

        Returns:
            Evaluation: The scores.
        """
        tokens = [prediction.tokens for prediction in predictions]
        figures, each = self._scorer.score(tokens)
        if perplexity is not None:
            figures['perplexity'] = perplexity
        finished = [prediction.finished for prediction in predictions]
        figures.update(metrics.diversity(tokens, self._training, None if None in finished else finished))
        if more is not None:
            figures.update(self._spread(more))
        return Evaluation(name, search, predictions, figures, each, self.dataset.captions.tokenizer)

    def _spread(self, captions):
        """By how much the captions of the same image differ, and how good the best of them is."""
        place = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
        each = CiderScorer(self.references).score([*itertools.chain.from_iterable(captions)], place)[1]['CIDEr']
        best = np.maximum.reduceat(each, np.searchsorted(place, np.arange(len(captions))))
        return {'distinct-1': metrics.distinct_ngrams(captions, 1), 'distinct-2': metrics.distinct_ngrams(captions, 2),
                'best-CIDEr': float(best.mean())}

    def evaluate_file(self, path):
        """Scores the captions in a file; see `read_predictions` for what it may hold and what is refused."""
        return self.score(str(path), read_predictions(path, self.dataset, self.images, self._say))

    def evaluate_model(self, name, captioner, searches=(None,), top=1, watch=iter):
        """Captions the images by their stored features and scores the best caption of each.

        Args:
            name (str): What to call the evaluations.
            captioner (Captioner): The model.
            searches (sequence of BeamSearch or None): One after another; None is the model's own.
            top (int): Captions that each finds of an image. The likeliest is scored; of the others is only said how
                much they differ and what the best is worth.
            watch (callable): Takes the iterator of a search's results and gives it back, to show progress.

        Returns:
            list of Evaluation: One for each search. Their `perplexity` is of the split's own captions,
            every token weighing the same, `</S>` among them; a word that the model does not know is `<UNK>`, or left
            out where the model cannot say that, so that models with other vocabularies do not compare.

        Raises:
            InputError: The features are not those that the model learned from, it speaks in another tokenizer than the
                dataset's captions, or it finds no caption of an image.
        """
        spoken, written = captioner.bundle.tokenizer, self.dataset.captions.tokenizer
        if spoken != written:
            raise InputError(f'{name}: speaks in {spoken}, but {self.dataset.dataset_path} has captions in {written}; '
                             'their scores would mean nothing')
        # Each search is only begun when its results are asked for, but what is wrong with any is found here.
        searches = [captioner.search(search, top=top) for search in searches]
        found = [captioner.caption_dataset(self.dataset, self.split, search) for search in searches]
        captions = [self._captions(name, watch(results)) for results in found]
        perplexity = self._perplexity(captioner)
        evaluations = []
        for search, of_search in zip(searches, captions, strict=True):
            best = [Prediction(likeliest.tokens, likeliest.finished) for likeliest, *_ in of_search]
            more = [[caption.tokens for caption in of_image] for of_image in of_search] if top > 1 else None
            evaluations.append(self.score(name, best, search, perplexity, more))
        return evaluations

    def _captions(self, name, results):
        """The captions of each image that is scored."""
        captions = []
        for result, described in zip(results, self._described, strict=True):
            if result.error is not None:
                raise InputError(f'{name}: {result.filename}: {result.error}')
            if described:
                captions.append(result.captions)
        return captions

    def _perplexity(self, captioner):
        models = [bundle.model for bundle in captioner.bundles]
        unsaid = any(SPECIAL[UNK] in getattr(model, 'unsaid', ()) for model in models)
        data = CaptionDataset.from_dataset(self.dataset, captioner.bundle.vocabulary, self.split, unknown=not unsaid)
        places = captioner.max_positions
        if places is not None and data.lengths.max() > places:
            self._say(f'{self.dataset.dataset_path}: {np.count_nonzero(data.lengths > places):,} captions of the split '
                      f'{self.split} have more words than the {places - 1} that the model has room for, so there is no '
                      'perplexity')
            return None
        alone = len(models) == 1 and getattr(models[0], 'trainable', True)
        per_image = alone and getattr(models[0], 'per_image', False)
        batches = CaptionIterator(data, _BATCH, repeat=False, shuffle=False, per_image=per_image)
        converter = PackCaptions(self.dataset.inputs(captioner.reads), per_image, len(captioner.bundle.vocabulary))
        where = captioner.device if alone else None
        with chainer.using_device(captioner.device), enough_memory(captioner.device):
            packed = (converter(batch, where) for batch in batches)
            if alone:
                return token_means(models[0], packed)['perplexity']
            return stepped_perplexity(captioner.stepper, packed)


def _training_captions(dataset):
    """The captions that a model of this dataset is trained on, or None where there are none."""
    try:
        _, tokens, bounds = dataset.sentences(*dataset.training_splits)
    except InputError:
        return None
    words = np.array(dataset.captions.words, object)[tokens]
    return {tuple(words[start:stop]) for start, stop in itertools.pairwise(bounds)}

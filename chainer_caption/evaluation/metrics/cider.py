"""CIDEr (Vedantam et al. 2015) as the COCO caption code computes it and every published figure means it: CIDEr-D.

For each order n = 1..4 a caption is a vector of tf-idf weights over n-grams, where a document is an image with all its
references. A prediction's similarity to a reference is the cosine of the two, with two changes against padding a
caption with words that pay: the prediction's weights are clipped at the reference's in the product, and a difference in
length is punished by a Gaussian of sigma 6. CIDEr is ten times the mean over orders and references, so it may pass 1.
"""
import itertools

import numpy as np

from chainer_caption.evaluation.metrics.checks import checked_predictions, checked_references
from chainer_caption.evaluation.metrics.ngrams import MAX_ORDER, NgramIndex, lengths_of, pair

SIGMA = 6.0

# What to tell whoever scores the captions of one image.
SINGLE = 'CIDEr of a single image is 0 whatever its caption: it compares images'


class CiderScorer:
    """CIDEr against references that are prepared once: document frequencies, weights and norms.

    Where the formula would divide by zero, the COCO code takes a similarity of 0, and so does this: a caption too short
    to have n-grams of an order, and one whose n-grams all stand in every image's references. That makes CIDEr of a
    single image 0 whatever its captions. The COCO code fails when all references are empty; here that is 0, too.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens. Document
            frequencies come from these alone, so figures of corpora of different sizes do not compare.
    """

    def __init__(self, references):
        references = checked_references(references)
        captions = list(itertools.chain.from_iterable(references))
        self._references = lengths_of(references)
        image = np.repeat(np.arange(len(references)), self._references)
        self._length = _penalised_length(captions)
        self._index = NgramIndex(captions)
        self._orders = [_Order(counts, size, image, len(references))
                        for counts, size in zip(self._index.counts, self._index.sizes, strict=True)]

    def score(self, predictions, images=None):
        """Scores predictions.

        Args:
            predictions: Sequences of tokens, one for each of the N images; or M for the images that are named.
            images: The image of each prediction, (M,) int in [0, N), in any order and repeated at will. None for all
                in turn. Document frequencies are those of all references all the same.

        Returns:
            tuple: ``{'CIDEr': float}``, the mean over predictions, and ``{'CIDEr': array}``, (N,) or (M,), each one's
            own. Zero or more, at most 10.
        """
        images = np.arange(len(self._references)) if images is None else np.asarray(images, np.int64)
        predictions = checked_predictions(predictions, len(images))
        pairs = _Pairs(images, self._references)
        cosines = sum(order.cosines(counts, pairs, len(predictions)) for order, counts
                      in zip(self._orders, self._index.count(predictions), strict=True)) / MAX_ORDER
        difference = _penalised_length(predictions)[pairs.prediction] - self._length[pairs.reference]
        similarity = cosines * np.exp(-difference ** 2 / (2 * SIGMA ** 2))
        each = 10 * np.bincount(pairs.prediction, similarity, len(predictions)) / self._references[images]
        return {'CIDEr': float(each.mean())}, {'CIDEr': each}


class _Pairs:
    """Each prediction with each reference of its image: prediction by prediction, P pairs.

    Attributes:
        images: The image of each prediction, (M,).
        prediction, reference: Of each pair, (P,).
        shift: What takes the number of a reference of a prediction's image to the number of their pair, (M,).
    """

    def __init__(self, images, references):
        self.images = images
        count = references[images]
        self.prediction = np.repeat(np.arange(len(images)), count)
        self.shift = (np.cumsum(count) - count) - (np.cumsum(references) - references)[images]
        self.reference = np.arange(len(self.prediction)) - self.shift[self.prediction]


class _Order:
    """The references' n-grams of one order: weights sorted by image and n-gram, and each reference's norm."""

    def __init__(self, counts, size, image, images):
        documents = np.unique(pair(image[counts.caption], counts.gram)) & 0xFFFFFFFF
        frequency = np.bincount(documents, minlength=size)
        # Written as one logarithm, the weight of what stands in every image is exactly zero, and a caption with
        # nothing else has a norm of exactly zero. The last weight is that of n-grams no reference has.
        self._idf = np.log(images / np.append(frequency, 1))
        weight = counts.count * self._idf[counts.gram]
        self._norm = _norms(counts.caption, weight, len(image))
        keys = pair(image[counts.caption], counts.gram)
        order = np.argsort(keys, kind='stable')
        self._keys, self._weight, self._reference = keys[order], weight[order], counts.caption[order]

    def cosines(self, counts, pairs, predictions):
        """The clipped cosine of each prediction and each reference of its image, (P,)."""
        weight = counts.count * self._idf[np.minimum(counts.gram, len(self._idf) - 1)]
        norm = _norms(counts.caption, weight, predictions)[pairs.prediction] * self._norm[pairs.reference]
        # All references of an image that have the n-gram stand in one run of the sorted keys.
        keys = pair(pairs.images[counts.caption], counts.gram)
        begin = np.searchsorted(self._keys, keys)
        run = np.searchsorted(self._keys, keys, 'right') - begin
        entry = np.repeat(begin - np.cumsum(run) + run, run) + np.arange(run.sum())
        reference = self._weight[entry]
        which = self._reference[entry] + np.repeat(pairs.shift[counts.caption], run)
        product = np.bincount(which, np.minimum(np.repeat(weight, run), reference) * reference, minlength=len(norm))
        return np.divide(product, norm, out=np.zeros(len(norm)), where=norm > 0)


def _norms(caption, weight, captions):
    return np.sqrt(np.bincount(caption, weight ** 2, minlength=captions))


def _penalised_length(captions):
    # The COCO code's length is the number of bigrams: the empty caption is as long as one word.
    return np.maximum(lengths_of(captions) - 1, 0)

"""ROUGE-L (Lin 2004), the longest common subsequence of two captions, as the COCO caption code has it."""
from collections.abc import Sequence

from chainer_caption.evaluation.metrics.checks import ImageScorer

BETA = 1.2  # weighs recall against precision


class RougeScorer(ImageScorer):
    """ROUGE-L: the F-measure of the best precision and the best recall over an image's references.

    An empty caption counts as one empty word, as in the COCO code. So it never divides by zero, scores 0 against
    references with words, and 1 where one of them is empty as well."""
    name = 'ROUGE-L'

    def of_image(self, prediction: Sequence, references: Sequence) -> float:
        prediction, references = prediction or ('',), [reference or ('',) for reference in references]
        common = lcs_lengths(prediction, references)
        precision = max(common) / len(prediction)
        recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
        return (1 + BETA ** 2) * precision * recall / (recall + BETA ** 2 * precision) if recall else 0.0


def lcs_lengths(prediction: Sequence, references: Sequence) -> list[int]:
    """The length of the longest common subsequence of the prediction and each reference.

    The table of the textbook's algorithm changes by 0 or 1 from one column to the next, so a row of it is the bits of
    one integer, and a reference's word costs a few operations on it (Hyyrö 2004, "Bit-parallel LCS-length computation
    revisited"). A zero bit is a step up.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(prediction):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(prediction)) - 1
    lengths = []
    for reference in references:
        row = full
        for word in reference:
            matches = row & places.get(word, 0)
            row = ((row + matches) | (row - matches)) & full
        lengths.append(len(prediction) - row.bit_count())
    return lengths

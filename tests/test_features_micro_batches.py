"""An encoder on a GPU computes as many images at a time as fit into its memory, with equal features."""
import chainer
import numpy as np
import pytest

from chainer_caption import InputError
from chainer_caption.features.extractor import Extractor

# The memory of one image in the encoder's convolutions: it is unfolded twice, to 432 KiB each time.
ONE = 2 ** 20

pytestmark = pytest.mark.gpu


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, (16, 3, 96, 96)).astype(np.float32)


def features(extractor, images):
    return chainer.get_device('@numpy').send(extractor(images))


@pytest.fixture
def extractor():
    return Extractor.load('demo', device='@cupy:0')


def test_micro_batches_fit(extractor, images, room):
    room(5 * ONE)
    np.testing.assert_array_equal(features(extractor, images), features(Extractor.load('demo'), images))


def test_memory_that_shrinks_during_a_run(extractor, images, room):
    expected = features(extractor, images)
    for size in (5 * ONE, 2 * ONE):
        room(size)
        np.testing.assert_array_equal(features(extractor, images), expected)


def test_too_little_memory_for_a_single_image(extractor, images, room):
    for _ in range(2):                                  # first call, and later
        room(ONE // 2)
        with pytest.raises(InputError, match=r'^-g 0: Out of memory .*; free some or leave out -g$'):
            extractor(images)
        room(64 * ONE)
        extractor(images)

"""Preprocessings equal those behind the published features."""
import math
import pathlib

import numpy as np
import pytest
from conftest import read_image
from PIL import Image

from chainer_caption.features.images import ImageError, open_image
from chainer_caption.features.preprocessing import PREPROCESSINGS, imresize

EXAMPLES = pathlib.Path(__file__).parents[2] / 'shared' / 'data' / 'karpathy_examples'


def cubic(x):
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0


def matlab_weights(old, new):
    """One dimension of MATLAB's imresize, in its own terms: pixels counted from 1, an index table that runs
    1..n, n..1 and repeats, and as many contributions as the kernel is wide, plus two."""
    scale = new / old
    width, stretch = (4 / scale, scale) if scale < 1 else (4, 1)
    table = [*range(old), *range(old - 1, -1, -1)]
    matrix = np.zeros((new, old))
    for row in range(new):
        u = (row + 1) / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        places = [left + p for p in range(math.ceil(width) + 2)]
        weights = np.array([stretch * cubic(stretch * (u - place)) for place in places])
        for place, weight in zip(places, weights / weights.sum(), strict=True):
            matrix[row, table[(place - 1) % (2 * old)]] += weight
    return matrix


def matlab_imresize(image, height, width):
    return np.einsum('ih,hwc,jw->ijc', matlab_weights(image.shape[0], height), image.astype(np.float64),
                     matlab_weights(image.shape[1], width), optimize=True)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (224, 224), (100, 150), (1, 1), (2, 700), (640, 3)])
def test_imresize_is_matlabs_borders_included(size):
    image = random_image(*size)
    assert np.abs(imresize(image, 224, 224) - matlab_imresize(image, 224, 224)).max() < 0.001


def test_imresize_to_any_shape():
    image = random_image(61, 47)
    for height, width in ((20, 90), (90, 20), (7, 1)):
        assert np.abs(imresize(image, height, width) - matlab_imresize(image, height, width)).max() < 0.001


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason='the images are not here')
def test_karpathy_preprocessing_on_genuine_images():
    names = (EXAMPLES / 'tasks.txt').read_text().split()
    assert len(names) == 16
    for name in names:
        image = read_image(EXAMPLES / name)
        expected = matlab_imresize(image, 224, 224)[:, :, ::-1] - [103.939, 116.779, 123.68]
        prepared = PREPROCESSINGS['karpathy'].prepare(image)
        assert prepared.dtype == np.float32
        assert np.abs(prepared - expected.transpose(2, 0, 1)).max() < 0.01


@pytest.mark.parametrize('size', [(300, 400), (401, 300), (224, 224), (100, 333), (1, 1), (97, 31)])
def test_seed_preprocessing(size):
    image = random_image(*size)
    height, width = size
    shape = (224 * width // height, 224) if width > height else (224, 224 * height // width)
    x, y = (shape[0] - 224) // 2, (shape[1] - 224) // 2
    expected = Image.fromarray(image).resize(shape, Image.Resampling.NEAREST).crop((x, y, x + 224, y + 224))
    expected = (np.asarray(expected, np.float32)[:, :, ::-1] - np.float32([104, 117, 124])).transpose(2, 0, 1)
    np.testing.assert_array_equal(PREPROCESSINGS['seed'].prepare(image), expected)


# As torchvision documents its weights: short side, crop, and the input of the first layer. Inception v3 itself turns
# ImageNet's normalisation into [-1, 1] (`transform_input`).
TORCHVISION = {'torchvision': (256, 224, lambda x: x), 'inception': (342, 299, lambda x: (
    x * [0.229, 0.224, 0.225] + [0.485 - 0.5, 0.456 - 0.5, 0.406 - 0.5]) / 0.5)}


@pytest.mark.parametrize('name', TORCHVISION)
@pytest.mark.parametrize('size', [(300, 400), (401, 300), (256, 343), (100, 333), (1, 1), (97, 31)])
def test_preprocessings_of_torchvision(name, size):
    # As torchvision.transforms documents Resize, CenterCrop, ToTensor and Normalize for PIL images
    image = random_image(*size)
    (height, width), (short, side, within) = size, TORCHVISION[name]
    shape = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    x, y = round((shape[0] - side) / 2), round((shape[1] - side) / 2)
    expected = Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR).crop((x, y, x + side, y + side))
    expected = within((np.asarray(expected) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    prepared = PREPROCESSINGS[name].prepare(image)
    # Cropping and resizing in one step may round halves between two grey levels the other way.
    assert np.abs(prepared - expected.transpose(2, 0, 1)).max() < 1.01 / (255 * 0.224)


@pytest.mark.parametrize(('name', 'size'), [('lite', 224), ('lite260', 260)])
def test_lite_preprocessing(name, size):
    image = random_image(300, 400)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC), np.float64)
    expected = (expected.transpose(2, 0, 1) - 127) / 128
    np.testing.assert_allclose(PREPROCESSINGS[name].prepare(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('size', 'scale'), [
    ((3024, 4032), 4), ((2016, 4200), 2), ((2017, 4200), 1), ((2800, 2800), 1)])
def test_lite_preprocessing_of_scaled_jpegs(size, scale, tmp_path):
    # Smooth, with grain, like photos of that size
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    image = np.clip(image + rng.integers(-15, 16, (*size, 1), np.int16), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.jpg', quality=92)
    preprocessing = PREPROCESSINGS['lite']
    with open_image(tmp_path / 'a.jpg', min_side=preprocessing.min_side) as opened:
        assert opened.shape == (size[0] // scale, size[1] // scale, 3)
        prepared = preprocessing.prepare(opened)
    assert np.abs(prepared - preprocessing.prepare(read_image(tmp_path / 'a.jpg'))).mean() * 128 <= 1
    Image.fromarray(image).save(tmp_path / 'a.png', compress_level=0)
    with open_image(tmp_path / 'a.png', min_side=preprocessing.min_side) as opened:
        assert opened.shape == image.shape


def test_demo_preprocessing():
    image = np.full((30, 50, 3), [0, 255, 51], np.uint8)
    prepared = PREPROCESSINGS['demo'].prepare(image)
    assert prepared.shape == (3, 96, 96)
    np.testing.assert_allclose(prepared[:, 5, 7], [-1, 1, -0.6], atol=1e-6)


@pytest.mark.parametrize('size', [(33, 47), (3, 200)])
def test_whole_preprocessing(size):
    # As scripts/prepro_feats.py of ruotianluo/ImageCaptioning.pytorch
    image = random_image(*size)
    expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    prepared = PREPROCESSINGS['whole'].prepare(image)
    assert prepared.dtype == np.float32 and prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared, expected.transpose(2, 0, 1), rtol=0, atol=1e-6)
    for small in (image[:2], image[:, :2]):
        with pytest.raises(ImageError, match='pixels are too few for features of its own size'):
            PREPROCESSINGS['whole'].prepare(small)


@pytest.mark.parametrize('name', [name for name, preprocessing in PREPROCESSINGS.items() if preprocessing.size])
@pytest.mark.parametrize('size', [(40, 60_000), (60_000, 40), (1, 60_000)])
def test_long_and_thin_images_take_little_memory(name, size):
    # Resized whole before the crop, such an image would take up to 9 GB.
    preprocessing = PREPROCESSINGS[name]
    prepared = preprocessing.prepare(np.full((*size, 3), 100, np.uint8))
    assert prepared.shape == (3, preprocessing.size, preprocessing.size)
    assert prepared.dtype == np.float32
    assert np.ptp(prepared, axis=(1, 2)).max() < 1e-3

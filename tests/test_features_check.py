"""check_features identifies the encoder and the preprocessing that made a matrix, or none."""
import chainer
import chainer.functions as F
import numpy as np
import pytest
from PIL import Image

from chainer_caption.errors import InputError
from chainer_caption.features.check import check_features
from chainer_caption.features.encoders.vgg import VGG16, VGG19
from chainer_caption.features.extractor import Extractor


def random_extractor(encoder, link_class, seed):
    rng = np.random.default_rng(seed)
    link = link_class(width=2, units=64)
    for _, p in sorted(link.namedparams()):
        scale = (2 / np.prod(p.shape[1:])) ** 0.5 if p.ndim > 1 else 0.1
        p.array[...] = scale * rng.standard_normal(p.shape)
    return Extractor(encoder, 'karpathy', link)


@pytest.fixture(scope='module')
def extractors():
    return [random_extractor('vgg19', VGG19, 0), random_extractor('vgg16', VGG16, 1)]


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    """Smooth random images of several shapes."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for i, size in enumerate([(300, 200), (200, 300), (260, 250), (90, 120)]):
        small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f'{i}.png')
    return sorted(folder.iterdir())


PAIRS = [(encoder, preprocessing) for encoder in (0, 1) for preprocessing in ('karpathy', 'seed', 'torchvision')]


def make(extractor, preprocessing, paths):
    extractor = extractor.with_preprocessing(preprocessing)
    return extractor([extractor.prepare(path) for path in paths])


@pytest.mark.parametrize(('encoder', 'preprocessing'), PAIRS)
def test_each_pair_is_identified(extractors, paths, encoder, preprocessing):
    features = make(extractors[encoder], preprocessing, paths).astype(np.float16)
    check = check_features(features, paths, iter(extractors))
    assert check.verdict == (extractors[encoder].encoder, preprocessing)
    assert check.similarities[check.verdict] == pytest.approx(1, abs=1e-5)
    assert len(check.similarities) == 6
    assert check.images == 4


class Patches(chainer.Chain):
    """Takes images of any size, as ResNet-101 does."""
    W = np.random.default_rng(3).standard_normal((64, 3, 5, 5)).astype(np.float32)

    def forward(self, x):
        return F.mean(F.relu(F.convolution_2d(x, self.W, stride=5)), axis=(2, 3))


def test_images_at_their_own_size(paths):
    extractor = Extractor('resnet101', 'torchvision', Patches())
    check = check_features(make(extractor, 'whole', paths), paths, [extractor])
    assert check.verdict == ('resnet101', 'whole') and len(check.similarities) == 4


def test_another_jpeg_decoders_rounding_changes_nothing(extractors, paths, tmp_path):
    rng = np.random.default_rng(0)
    for path in paths:
        pixels = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.clip(pixels + rng.integers(-1, 2, pixels.shape), 0, 255).astype(np.uint8)).save(
            tmp_path / path.name)
    features = make(extractors[0], 'karpathy', sorted(tmp_path.iterdir()))
    assert check_features(features, paths, extractors).verdict == ('vgg19', 'karpathy')


def test_other_matrices_have_no_verdict(extractors, paths):
    other = random_extractor('vgg19', VGG19, 7)
    assert check_features(make(other, 'karpathy', paths), paths, extractors).verdict is None
    shuffled = make(extractors[0], 'karpathy', paths)[::-1]
    assert check_features(shuffled, paths, extractors).verdict is None
    assert check_features(np.ones((4, 2048)), paths, extractors).verdict is None
    assert check_features(np.zeros((4, 64)), paths, extractors).verdict is None


def test_the_right_encoder_with_wrong_preprocessings(extractors, paths):
    features = make(extractors[0], 'torchvision', paths)
    check = check_features(features, paths, extractors, ['karpathy', 'seed'])
    assert set(check.similarities) == {(n, p) for n in ('vgg19', 'vgg16') for p in ('karpathy', 'seed')}
    assert check.verdict is None


def test_bad_images_are_left_out(extractors, paths, tmp_path):
    features = make(extractors[0], 'seed', paths)
    (tmp_path / 'bad.jpg').write_text('no image')
    with_bad = [*paths[:2], tmp_path / 'bad.jpg', *paths[2:]]
    check = check_features(np.insert(features, 2, 0, axis=0), with_bad, extractors)
    assert check.verdict == ('vgg19', 'seed')
    assert check.images == 4
    with pytest.raises(InputError, match='none of the images'):
        check_features(features[:1], [tmp_path / 'bad.jpg'], extractors)
    with pytest.raises(InputError, match='4 rows of features for 3 images'):
        check_features(features, paths[:3], extractors)

"""What a model knows of its training images: near and far are told apart, and confidences are those of the truth."""
import pathlib

import numpy as np
import pytest

from chainer_caption import Bundle, Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.evaluation.calibration import calibration_error
from chainer_caption.models import ShowAndTell
from chainer_caption.models.familiarity import FAMILIARITY, Familiarity, sample_rows
from chainer_caption.models.imported import Imported
from chainer_caption.storage import files


def clusters(rng, count, dim=32, kinds=12, spread=0.3):
    """Vectors around a few directions, which are the same for every generator."""
    directions = np.random.default_rng(99).normal(size=(kinds, dim))
    return directions[rng.integers(kinds, size=count)] + rng.normal(0, spread, (count, dim))


@pytest.fixture(scope='module')
def fitted():
    return Familiarity.fit(clusters(np.random.default_rng(0), 4000))


def test_near_and_far_images_are_told_apart(fitted):
    rng = np.random.default_rng(1)
    near, far = fitted.nearness(clusters(rng, 500)), fitted.nearness(rng.normal(size=(500, 32)))
    assert np.mean(near[:, None] > far) > 0.99
    assert fitted.familiarity(far).mean() < 0.01
    # The share of images that are less near is uniform among images like those of training.
    assert np.allclose(np.quantile(fitted.familiarity(near), [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.06)


def test_the_nearness_is_the_cosine_to_the_nearest_center_whatever_the_length(fitted):
    features = clusters(np.random.default_rng(2), 7)
    centers = fitted.centers.astype(float)
    expected = [max(x @ c / np.linalg.norm(x) for c in centers) for x in features]
    assert np.allclose(fitted.nearness(features), expected, atol=1e-12)
    assert np.allclose(np.linalg.norm(centers, axis=1), 1, atol=1e-3)
    assert np.allclose(fitted.nearness(100 * features), expected, atol=1e-12)
    grids = features[:, None] + np.random.default_rng(3).normal(size=(7, 5, 32))
    grids += (features - grids.mean(axis=1))[:, None]
    assert np.allclose(fitted.nearness(grids), expected) and np.allclose(fitted.nearness((features, grids)), expected)


def test_the_same_features_give_the_same_bytes(tmp_path):
    features = clusters(np.random.default_rng(0), 500).astype(np.float16)
    for name in 'ab':
        Familiarity.fit(features, seed=4).save(tmp_path / name)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
    assert len({*sample_rows(np.arange(50), 20)}) == 20


@pytest.mark.parametrize(('count', 'dim'), [(1, 8), (2, 8), (25, 8), (3000, 2048)])
def test_few_images_and_large_features(count, dim, tmp_path):
    features = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    made = Familiarity.fit(features)
    made.save(tmp_path / FAMILIARITY)
    assert (tmp_path / FAMILIARITY).stat().st_size <= 10 ** 6
    assert np.isfinite(made.familiarity(made.nearness(features))).all()


def test_a_known_logistic_model_is_recovered(fitted):
    rng, truth = np.random.default_rng(5), np.array([-1.0, 6.0, 2.5])
    nearness, scores = rng.uniform(0.3, 0.9, 40_000), rng.uniform(-1.5, -0.3, 40_000)
    probability = 1 / (1 + np.exp(-(truth[0] + truth[1] * nearness + truth[2] * scores)))
    made = fitted.calibrate(nearness, scores, rng.random(len(nearness)) < probability)
    assert np.allclose(made.calibration, truth, atol=0.25)
    assert fitted.calibration is None
    confidence = made.confidence(nearness, scores)
    assert np.abs(confidence - probability).max() < 0.03
    # Of other captions, too, the confidence is the share of good ones.
    assert calibration_error(confidence, rng.random(len(nearness)) < probability) < 0.015


def test_the_calibration_error_by_its_definition():
    confidence, good = np.array([0.05, 0.15, 0.18, 0.95, 1.0]), np.array([False, True, False, True, True])
    # Bins [0, 0.1), [0.1, 0.2), [0.9, 1]: |0.05 - 0|, |0.165 - 0.5| twice, |0.975 - 1| twice.
    assert calibration_error(confidence, good) == pytest.approx((0.05 + 2 * 0.335 + 2 * 0.025) / 5)


def test_unfamiliar_images_are_never_trusted_more(fitted):
    rng = np.random.default_rng(6)
    nearness, scores = rng.uniform(0.3, 0.9, 400), rng.uniform(-1.5, -0.3, 400)
    made = fitted.calibrate(nearness, scores, nearness < 0.6)
    assert made.calibration[1] == 0


@pytest.mark.parametrize('good', [True, False])
def test_captions_that_are_all_good_or_all_bad(good, fitted):
    made = fitted.calibrate(np.linspace(0, 1, 200), np.linspace(-2, 0, 200)[::-1], np.full(200, good))
    assert np.isfinite(made.calibration).all()
    confidence = made.confidence(np.array([0.5]), np.array([-np.inf]))
    assert 0 <= confidence[0] <= 1
    assert abs(made.confidence(np.array([0.5]), np.array([-1.0]))[0] - good) < 0.02


# ---- The model directory

@pytest.fixture
def folder(fitted, tmp_path):
    vocabulary = Vocabulary.from_counts({'dog': 9}, 9)
    calibrated = fitted.calibrate(np.linspace(0, 1, 200), np.linspace(-2, 0, 200), np.arange(200) > 99)
    Bundle(ShowAndTell(32, len(vocabulary), 4), vocabulary, familiarity=calibrated).save(tmp_path / 'model')
    return tmp_path / 'model'


def test_a_model_directory_keeps_it(folder, tmp_path):
    bundle = Bundle.load(folder)
    bundle.save(tmp_path / 'half', np.float16)
    for name, array in bundle.familiarity.to_arrays().items():
        assert np.array_equal(array, getattr(Bundle.load(tmp_path / 'half').familiarity, name)), name
    (folder / FAMILIARITY).unlink()
    assert Bundle.load(folder).familiarity is None      # as of older versions
    Bundle.load(folder).save(tmp_path / 'half')
    assert not (tmp_path / 'half' / FAMILIARITY).exists(), "never another model's"


def test_a_write_that_is_stopped_leaves_the_old_one(folder, monkeypatch):
    bundle, before = Bundle.load(folder), (folder / FAMILIARITY).read_bytes()
    monkeypatch.setattr(files.os, 'fsync', lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bundle.save_familiarity(folder)
    assert (folder / FAMILIARITY).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ['config.json', 'familiarity.npz', 'vocabulary.json', 'weights.npz'])


@pytest.mark.parametrize('changes', [
    {'centers': None}, {'levels': None}, {'centers': np.zeros(32)}, {'centers': np.zeros((0, 32))},
    {'centers': np.zeros((3, 31))}, {'levels': np.zeros(1)}, {'levels': np.full(101, np.nan)},
    {'calibration': np.zeros(2)}, {'calibration': np.array([0, np.inf, 0])}, {'centers': np.zeros((3, 32), int)}])
def test_what_is_damaged_is_refused_by_name(changes, folder):
    with np.load(folder / FAMILIARITY) as archive:
        arrays = {**archive, **changes}
    np.savez(folder / FAMILIARITY, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError) as e:
        Bundle.load(folder)
    assert str(e.value).startswith(f'{folder / FAMILIARITY}: ') and '\n' not in str(e.value)


def test_no_pickle_is_loaded(folder, payload):
    np.savez(folder / FAMILIARITY, centers=np.array([payload], object), levels=np.zeros(3))
    with pytest.raises(InputError, match='pickle'):
        Bundle.load(folder)
    assert not payload.ran


def test_an_imported_model_has_none(tmp_path):
    vocabulary = Vocabulary.from_counts({'dog': 9}, 9)
    Bundle(Imported(8, len(vocabulary), 4, 4, 'lstm'), vocabulary).save(tmp_path)
    assert Bundle.load(pathlib.Path(tmp_path)).familiarity is None

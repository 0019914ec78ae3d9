"""The optimizer: its learning rate, and the mean of the weights."""

import chainer
import numpy as np
import pytest
from chainer.backends import cuda
from test_training import SMALL, log, validation_loss, weights

from chainer_caption import Dataset, Settings, train
from chainer_caption.training import make_optimizer

UPDATES = 12


@pytest.fixture
def dataset(make_dataset):
    # Six updates of 16 captions an epoch.
    return Dataset(make_dataset())


@chainer.training.make_extension(trigger=(1, 'iteration'), priority=chainer.training.PRIORITY_WRITER)
def watch(trainer):
    optimizer = trainer.updater.get_optimizer('main')
    watch.seen.append((optimizer.alpha, optimizer.target.word_vec.W.array.astype(np.float64)))


def watched(dataset, folder, **settings):
    """Trains for twelve updates; of each: the rate, the word embeddings."""
    watch.seen = []
    bundle = train(dataset, folder, Settings(**{'epochs': 2, **SMALL, **settings}), extensions=[watch])
    return bundle, *zip(*watch.seen, strict=True)


def test_the_learning_rate_is_that_of_the_settings(dataset, tmp_path):
    _, rates, _ = watched(dataset, tmp_path / 'model', learning_rate=0.002)
    assert rates == (0.002,) * UPDATES


def test_the_mean_of_the_weights_is_kept_and_validated(dataset, tmp_path):
    bundle, _, seen = watched(dataset, tmp_path / 'model', average=UPDATES)
    mean = np.mean(seen, axis=0)
    assert np.abs(mean - seen[-1]).max() > 1e-3
    np.testing.assert_allclose(bundle.model.word_vec.W.array, mean, atol=1e-6)
    assert log(tmp_path / 'model')[-1]['validation/main/loss'] == pytest.approx(validation_loss(bundle, dataset), 1e-5)
    bundle, _, seen = watched(dataset, tmp_path / 'short', average=4)
    fading = np.mean(seen[:4], axis=0)
    for later in seen[4:]:
        fading += (later - fading) / 4
    np.testing.assert_allclose(bundle.model.word_vec.W.array, fading, atol=1e-6)


def test_averaging_does_not_affect_training(dataset, tmp_path):
    _, _, averaged = watched(dataset, tmp_path / 'averaged', average=3)
    _, _, plain = watched(dataset, tmp_path / 'plain')
    np.testing.assert_array_equal(averaged, plain)
    assert not np.array_equal(weights(tmp_path / 'averaged')['word_vec/W'], weights(tmp_path / 'plain')['word_vec/W'])


def test_a_training_that_is_stopped_early_keeps_the_mean(dataset, tmp_path):
    watch.seen = []
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=2, average=9, **SMALL), extensions=[watch],
                   stop=lambda: len(watch.seen) == 4)
    np.testing.assert_allclose(bundle.model.word_vec.W.array, np.mean([seen[1] for seen in watch.seen], axis=0),
                               atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    if not hasattr(cuda.cupy, 'standin'):
        pytest.skip('needs the stand-in for CuPy')
    from chainer_caption.parallel import Processes
    made = []
    for name in ('@numpy', '@cupy:0'):
        device, link = chainer.get_device(name), chainer.links.Linear(4, 3, initialW=0.5)
        link.to_device(device)
        optimizer = make_optimizer(link, device, Processes(), Settings(average=2))
        gradients = [device.send(np.full(param.shape, 0.3, np.float32)) for param in link.params()]
        with chainer.using_device(device), cuda.cupy.standin.no_sync():
            for _ in range(3):
                for param, gradient in zip(link.params(), gradients, strict=True):
                    param.grad = gradient.copy()
                optimizer.update()
        with optimizer.averaged():
            made.append(chainer.get_device('@numpy').send(link.W.array))
    np.testing.assert_allclose(*made, rtol=1e-6)

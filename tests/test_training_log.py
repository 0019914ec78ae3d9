"""The log of a training: exact means, and JSON whatever happens."""
import json
import math

import chainer
import numpy as np
import pytest
from test_report_gallery import Elements
from test_training import SMALL

from chainer_caption import Bundle, Dataset, Settings, train
from chainer_caption.parallel import Processes
from chainer_caption.training.extensions import Log


@pytest.fixture
def dataset(make_dataset):
    # Six updates of 16 captions an epoch.
    return Dataset(make_dataset())


def strict_log(folder):
    """`log.json` as whoever knows JSON alone reads it."""
    def refuse(constant):
        raise ValueError(f'{constant} is no JSON')
    return json.loads((folder / 'log.json').read_text(), parse_constant=refuse)


# ---- Means

@chainer.training.make_extension(trigger=(1, 'iteration'))
def collect(trainer):
    collect.losses.append(float(trainer.observation['main/loss'].array))


@pytest.mark.parametrize('stopped', [False, True])
def test_the_loss_is_the_exact_mean_of_the_updates(stopped, dataset, tmp_path):
    settings, collect.losses = Settings(epochs=2, **SMALL), []
    if stopped:
        train(dataset, tmp_path / 'model', settings, extensions=[collect], stop=lambda: len(collect.losses) == 4)
    train(dataset, tmp_path / 'model', settings, extensions=[collect], resume=True)
    for i, entry in enumerate(strict_log(tmp_path / 'model')):
        assert entry['main/loss'] == pytest.approx(math.fsum(collect.losses[6 * i:6 * i + 6]) / 6, rel=1e-14)


def test_the_mean_of_a_long_epoch_is_exact(tmp_path):
    class Trainer:
        is_before_training, elapsed_time = False, 0.0
        updater = chainer.training.updaters.StandardUpdater(
            chainer.iterators.SerialIterator(range(20000), 1), chainer.optimizers.SGD().setup(chainer.Link()))

    losses = np.random.default_rng(0).uniform(2, 6, 20000).astype(np.float32)
    report = Log(tmp_path, Processes())
    for loss in losses:
        Trainer.updater.get_iterator('main').next()
        Trainer.observation = {'main/loss': loss, 'main/accuracy': np.float32(0)}
        report(Trainer)
    entry, = strict_log(tmp_path)
    assert entry['main/loss'] == pytest.approx(losses.mean(dtype=np.float64), rel=1e-13)


# ---- What is not finite

@chainer.training.make_extension(trigger=(8, 'iteration'))
def explode(trainer):
    trainer.updater.get_optimizer('main').alpha = 1e38


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('by', ['loss', 'cider'])
def test_divergence_is_reported_once_and_the_last_finite_weights_are_kept(by, dataset, tmp_path, capsys):
    said, settings = [], Settings(epochs=4, keep_best=by, **SMALL)
    train(dataset, tmp_path / 'model', settings, say=said.append, extensions=[explode])
    line, = said
    assert line.startswith('epoch 2: ') and 'diverged' in line and '--overwrite' in line
    first, *others = strict_log(tmp_path / 'model')
    assert all(isinstance(figure, float) for key, figure in first.items() if key.startswith(('main', 'validation')))
    for entry in others:
        assert entry['main/loss'] is entry['main/perplexity'] is entry['validation/main/loss'] is None
    kept = Bundle.load(tmp_path / 'model').model        # refuses what is not finite
    train(dataset, tmp_path / 'sound', Settings(epochs=1, keep_best=by, **SMALL))
    np.testing.assert_array_equal(kept.word_vec.W.array, Bundle.load(tmp_path / 'sound').model.word_vec.W.array)
    assert capsys.readouterr().out.splitlines()[4].split()[:2] == ['4', '24']
    page = Elements((tmp_path / 'model' / 'run.html').read_text('utf-8'))
    assert page.of('td').count('not finite') == 12      # loss and perplexity, train and val
    assert 'nan' not in (tmp_path / 'model' / 'run.html').read_text('utf-8').lower()
    assert (tmp_path / 'model' / 'loss.png').stat().st_size > 1000


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_the_last_epoch_with_finite_weights_is_kept_where_there_is_no_val(make_dataset, tmp_path):
    dataset = Dataset(make_dataset(splits=('train', 'train', 'test')))
    train(dataset, tmp_path / 'model', Settings(epochs=3, **SMALL), extensions=[explode])
    train(dataset, tmp_path / 'sound', Settings(epochs=1, **SMALL))
    np.testing.assert_array_equal(*(Bundle.load(tmp_path / name).model.word_vec.W.array for name in ('model', 'sound')))

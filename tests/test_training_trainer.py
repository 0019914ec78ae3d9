"""The trainer as its users extend it: extensions and models of their own, and what a snapshot keeps of them."""
import io
import json

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from chainer.training import extensions
from test_training import SMALL, assert_equal_weights, log, weights

from chainer_caption import Bundle, Dataset, InputError, Settings, Vocabulary, train
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import write_npz
from chainer_caption.storage.serializers import arrays_digest
from chainer_caption.training import make_trainer


@pytest.fixture
def dataset(make_dataset):
    # Six updates of 16 captions an epoch.
    return Dataset(make_dataset())


class Count(chainer.training.Extension):
    """Counts its calls from -20 on, in its snapshots too, and reports the number of the update."""
    trigger = 2, 'iteration'
    priority = chainer.training.PRIORITY_WRITER
    count = -20

    def __call__(self, trainer):
        self.count += 1
        chainer.report({'update': trainer.updater.iteration})

    def serialize(self, serializer):
        self.count = serializer('count', self.count)


class PlainModel(chainer.Chain):
    """Predicts a word from the one before and the image, with Chainer's own links."""

    def __init__(self, feature_size, words, hidden=24):
        super().__init__()
        with self.init_scope():
            self.image = L.Linear(feature_size, hidden, initialW=chainer.initializers.Normal(0.1, rng=rng(0)))
            self.before = L.EmbedID(words, hidden, initialW=chainer.initializers.Normal(0.1, rng=rng(1)))
            self.after = L.Linear(hidden, words, initialW=chainer.initializers.Normal(0.1, rng=rng(2)))

    def __call__(self, features, words, targets, batch_sizes, tokens=None, update_key=None):
        images = self.image(features)
        h = F.tanh(F.concat([images[:size] for size in batch_sizes], axis=0) + self.before(words))
        scores = self.after(h)
        loss = F.softmax_cross_entropy(scores, targets) * (len(targets) / (tokens or len(targets)))
        chainer.report({'loss': loss, 'accuracy': F.accuracy(scores, targets)}, self)
        return loss


def rng(seed):
    return np.random.RandomState(seed)


def bundle_of_words(dataset):
    vocabulary = Vocabulary.from_counts(*dataset.word_counts(*dataset.training_splits))
    return Bundle(PlainModel(dataset.feature_size, len(vocabulary)), vocabulary)


def test_an_extension_acts_when_it_should_and_what_it_reports_is_in_the_log(dataset, tmp_path):
    mine = Count()
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL), extensions=[mine])
    assert [entry['update'] for entry in log(tmp_path / 'model')] == [(2 + 4 + 6) / 3, (8 + 10 + 12) / 3]
    assert mine.count == -20 + 6
    train(dataset, tmp_path / 'without', Settings(epochs=2, **SMALL))
    assert_equal_weights(tmp_path / 'model', tmp_path / 'without')


def test_an_extension_that_changes_the_training_goes_on_from_a_snapshot(dataset, tmp_path):
    def halved():
        shift = extensions.ExponentialShift('alpha', 0.5)
        shift.trigger = 4, 'iteration'
        return [shift]

    train(dataset, tmp_path / 'whole', Settings(epochs=3, **SMALL), extensions=halved())
    train(dataset, tmp_path / 'parts', Settings(epochs=1, **SMALL), extensions=halved())
    train(dataset, tmp_path / 'parts', Settings(epochs=3, **SMALL), extensions=halved(), resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    train(dataset, tmp_path / 'other', Settings(epochs=3, **SMALL))
    assert not np.array_equal(weights(tmp_path / 'whole')['word_vec/W'], weights(tmp_path / 'other')['word_vec/W'])


def test_a_training_goes_on_with_other_extensions_than_it_was_begun_with(dataset, tmp_path):
    model, kept, dropped, added = tmp_path / 'model', Count(), extensions.LogReport(filename='dropped.json'), Count()
    kept.name, added.name = 'kept', 'added'
    train(dataset, model, Settings(epochs=1, **SMALL), extensions=[kept, dropped])
    kept, later = Count(), extensions.LogReport(filename='later.json')
    kept.name, later.name = 'kept', 'later'
    train(dataset, model, Settings(epochs=2, **SMALL), extensions=[later, added, kept], resume=True)
    assert (kept.count, added.count) == (-20 + 6, -20 + 3)
    assert [entry['epoch'] for entry in json.loads((model / 'later.json').read_text())] == [2]
    train(dataset, model, Settings(epochs=3, **SMALL), resume=True)
    train(dataset, tmp_path / 'without', Settings(epochs=3, **SMALL))
    assert_equal_weights(model, tmp_path / 'without')
    assert not [name for name in read_npz(model / 'snapshot-18.npz') if 'kept' in name or 'LogReport_1' in name]


def test_a_training_goes_on_with_a_progress_bar_or_without(dataset, tmp_path):
    terminal = io.StringIO()
    for epochs, progress in (1, None), (2, terminal), (3, None):
        train(dataset, tmp_path / 'model', Settings(epochs=epochs, **SMALL), progress=progress, resume=True)
    assert ' captions/s' in terminal.getvalue()
    assert len(log(tmp_path / 'model')) == 3


def test_snapshots_and_events_may_be_other_ones_when_a_training_goes_on(dataset, tmp_path):
    model = tmp_path / 'model'
    train(dataset, model, Settings(epochs=1, snapshot_every=2, keep_snapshots=4, **SMALL))
    assert len(list(model.glob('snapshot-*.npz'))) == 4
    train(dataset, model, Settings(epochs=2, keep_snapshots=1, **SMALL), resume=True)
    assert [path.name for path in model.glob('snapshot-*.npz')] == ['snapshot-12.npz']


def test_a_snapshot_of_an_earlier_version_is_resumed(dataset, tmp_path):
    """Its means are float32, its log may hold a NaN, and it knows extensions that are no more."""
    model = tmp_path / 'model'
    train(dataset, model, Settings(epochs=2, **SMALL), stop=iter([False] * 7 + [True]).__next__)
    arrays = {name: array.astype(np.float32) if name.endswith(('/_x', '/_x2')) else array
              for name, array in read_npz(model / 'snapshot-8.npz').items()
              if name != 'checksum' and 'PrintTable' not in name}
    entries = json.loads(str(arrays['extensions/LogReport/_log']))
    entries[0]['validation/main/perplexity'] = float('nan')
    arrays['extensions/LogReport/_log'] = np.asarray(json.dumps(entries))
    arrays['extension_triggers/PrintReport/previous_iteration'] = np.asarray(8)
    arrays['extension_triggers/PrintReport/previous_epoch_detail'] = np.asarray(8 / 6)
    checksum = np.frombuffer(bytes.fromhex(arrays_digest(arrays)), np.uint8)
    write_npz(model / 'snapshot-8.npz', {**arrays, 'checksum': checksum})
    train(dataset, model, Settings(epochs=2, **SMALL), resume=True)
    train(dataset, tmp_path / 'whole', Settings(epochs=2, **SMALL))
    assert_equal_weights(model, tmp_path / 'whole')
    first, second = log(model)
    assert first['validation/main/perplexity'] is None
    assert second['main/loss'] == pytest.approx(log(tmp_path / 'whole')[1]['main/loss'], rel=1e-6)


def test_an_own_model_trains_and_is_resumed(dataset, tmp_path):
    def trainer(name, epochs):
        return make_trainer(dataset, bundle_of_words(dataset), tmp_path / name,
                            Settings(epochs=epochs, score_every=0, batch_size=16), extensions=[Count()])

    trainer('whole', 6).run()
    losses = [entry['validation/main/loss'] for entry in log(tmp_path / 'whole')]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1
    assert weights(tmp_path / 'whole').keys() == {'image/W', 'image/b', 'before/W', 'after/W', 'after/b'}
    trainer('parts', 4).run()
    going_on = trainer('parts', 6)
    going_on.get_extension('TakeSnapshots').snapshots.load_latest(going_on)
    going_on.run()
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')


def test_a_model_that_cannot_be_searched_is_not_scored(dataset, tmp_path):
    with pytest.raises(InputError, match=r'PlainModel cannot be searched.*score_every=0'):
        make_trainer(dataset, bundle_of_words(dataset), tmp_path / 'out', Settings(epochs=1))

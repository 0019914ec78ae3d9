"""An architecture that reads grids: trained, saved, loaded and captioned with end to end."""
import itertools
import json

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from conftest import draw_images
from test_training_snapshots import stop_after

from chainer_caption import Bundle, Captioner, Dataset, InputError, Settings, models, train
from chainer_caption.captioning.resumable import CaptionFile, StoredFeatures
from chainer_caption.data.batches import captions_of_rows
from chainer_caption.decoding import DiverseBeamSearch, Sampling
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.functions import lstm_sequence
from chainer_caption.models import ShowAndTell


class Attend(models.Architecture):
    """An LSTM over the words whose output attends to the locations of a grid (scaled dot products)."""
    architecture, reads = 'attend', 'grids'

    def __init__(self, feature_size, vocabulary_size, hidden=512, dropout=0.5):
        super().__init__()
        with self.init_scope():
            self.word_vec = L.EmbedID(vocabulary_size, hidden)
            self.image_vec = L.Linear(feature_size, hidden)
            self.query = L.Linear(hidden, hidden)
            self.lstm = L.LSTM(hidden, hidden)
            self.out_word = L.Linear(hidden, vocabulary_size)

    def outputs(self, features, words, batch_sizes, update_key=None):
        lstm = self.lstm
        h = lstm_sequence(self.word_vec(words), lstm.upward.W, lstm.upward.b, lstm.lateral.W, batch_sizes)
        return self.attend(h, self.locations(features), self.device.send(captions_of_rows(batch_sizes)))

    def locations(self, features):
        """The embedded grid, (B, L, H)."""
        return self.image_vec(features, n_batch_axes=2)

    def attend(self, h, locations, images):
        """(N, H): the outputs `h` of the LSTM and what each attends to in the grid of its image."""
        grid = F.get_item(locations, images)
        scores = F.matmul(grid, self.query(h)[:, :, None])[:, :, 0] / h.shape[1] ** 0.5
        return h + F.matmul(F.softmax(scores)[:, None], grid)[:, 0]

    def decoder(self):
        return AttendDecoder(self)


class AttendDecoder:
    """A trained `Attend` as searches take it."""

    def __init__(self, model):
        self.model, self.device, self.bias = model, model.device, model.out_word.b.array

    def start(self, features):
        with chainer.no_backprop_mode():
            locations = self.model.locations(features)
        h = self.device.xp.zeros((len(locations), self.model.hidden), np.float32)
        return h, h, locations, np.arange(len(locations))

    def step(self, state, parents, tokens):
        (h, c, locations, images), model = state, self.model
        parents, tokens, images = self.device.send(parents), self.device.send(tokens), images[parents]
        with chainer.no_backprop_mode():
            gates = model.lstm.upward(model.word_vec(tokens)) + model.lstm.lateral(h[parents])
            c, h = F.lstm(c[parents], gates)
            seen = model.attend(h, locations, self.device.send(images))
            return (h.array, c.array, locations, images), F.matmul(seen, model.out_word.W, transb=True).array


WORDS = 'red', 'green', 'blue'
SETTINGS = {'epochs': 40, 'batch_size': 16, 'architecture': 'attend', 'hidden': 24, 'dropout': 0, 'min_count': 1,
            'learning_rate': 0.01, 'score_every': 0}


@pytest.fixture(autouse=True, scope='module')
def registered():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(models.ARCHITECTURES, 'attend', Attend)
        yield


def write_grids(folder, dtype=np.float16):
    """Images of three locations, each with a colour; a caption names them from the first to the last, so that the mean
    over the locations does not tell it. Every combination that is in val or test is not in train."""
    colours = np.array(list(itertools.product(range(3), repeat=3)) * 4)
    splits = [('test', 'val', *['train'] * 7)[i % 27 * 5 % 9] for i in range(len(colours))]
    grids = np.zeros((len(colours), 3, 6), dtype)
    for location in range(3):
        grids[:, location, location] = 1
        grids[range(len(colours)), location, 3 + colours[:, location]] = 1
    folder.mkdir()
    np.save(folder / 'grids.npy', grids)
    (folder / 'dataset.json').write_text(json.dumps({'images': [
        {'filename': f'{i}.png', 'imgid': i, 'split': split, 'sentences': [{'tokens': [WORDS[c] for c in of]}]}
        for i, (of, split) in enumerate(zip(colours.tolist(), splits, strict=True))]}))
    return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = write_grids(tmp_path_factory.mktemp('grids') / 'dataset')
    train(Dataset(folder), folder.parent / 'model', Settings(**SETTINGS))
    return Dataset(folder), folder.parent / 'model'


def right(dataset, results):
    return [result.captions[0].tokens in dataset.references(image)
            for result, image in zip(results, dataset.images('test'), strict=True)]


def test_the_location_tells_the_word(trained):
    dataset, folder = trained
    config = json.loads((folder / 'config.json').read_text())
    assert (config['model'], config['reads'], config['feature_size']) == ('attend', 'grids', 6)
    captioner = Captioner.load(folder, images=False)
    results = list(captioner.caption_dataset(dataset, 'test', width=3, top=1))
    assert len(results) == 12 and all(right(dataset, results))
    for search in (DiverseBeamSearch(width=4, beam_groups=2, top=1), Sampling(top=1, temperature=0.1)):
        assert all(right(dataset, captioner.caption_dataset(dataset, 'test', search)))


def test_stored_grids_are_captioned_into_files_and_evaluated(trained, tmp_path):
    dataset, folder = trained
    captioner = Captioner.load(folder, images=False)
    with CaptionFile(StoredFeatures(captioner, dataset, 'test'), tmp_path / 'out.jsonl') as file:
        assert all(right(dataset, file.results()))
        file.finish('jsonl')
    one, two = (Evaluator(dataset, 'test').evaluate_model('m', Captioner.load(folders, images=False), top=2)[0].figures
                for folders in ([folder], [folder, folder]))
    assert one['BLEU-1'] > 0.9999 and one['perplexity'] < 1.1
    assert two == pytest.approx(one, rel=1e-4)
    rows = dataset.captions.image_ids[dataset.images('test')]
    assert [best[0].tokens for best in captioner.caption_features(dataset.grids[rows])] == [
        result.captions[0].tokens for result in captioner.caption_dataset(dataset, 'test')]


def test_a_resumed_training_is_the_same(trained, tmp_path):
    dataset, _ = trained
    short = Settings(**{**SETTINGS, 'epochs': 2, 'score_every': 1})
    for name, stop in (('whole', lambda: False), ('stopped', stop_after(3))):
        train(dataset, tmp_path / name, short, stop=stop)
    train(dataset, tmp_path / 'stopped', short, resume=True)
    assert (tmp_path / 'stopped' / 'weights.npz').read_bytes() == (tmp_path / 'whole' / 'weights.npz').read_bytes()


def test_what_grids_cannot_do_is_one_line(trained, dataset_dir, tmp_path, refused):
    dataset, folder = trained
    line = refused('generate', '-m', folder, draw_images(tmp_path / 'images', 1))
    assert line.startswith(f'{folder}: the model reads grids, and grids are not computed from images here')
    line = refused('generate', '-m', folder, '--dataset', dataset_dir, '--split', 'test')
    assert line.startswith(f'{dataset_dir}/vgg_feats.mat: holds vectors, but the architecture reads grids; add')
    line = refused('train', dataset.dataset_path.parent, '-o', tmp_path / 'm')
    assert line.startswith(f'{dataset.features_path}: holds grids, but the architecture reads vectors; add feats.npy')
    assert not list(tmp_path.glob('m/*.npz'))
    captioner = Captioner.load(folder, images=False)
    for features in (np.ones((2, 6)), np.ones((2, 3, 6, 1)), (np.ones((2, 6)), np.ones((2, 3, 6)))):
        with pytest.raises(InputError, match='the model reads grids, features of 3 axes'):
            captioner.caption_features(features)
    with pytest.raises(InputError, match='has features of 7 numbers, but the model was trained on 6'):
        captioner.caption_features(np.ones((2, 3, 7)))
    vectors = Bundle(ShowAndTell(6, len(captioner.bundle.vocabulary), 4), captioner.bundle.vocabulary)
    with pytest.raises(InputError, match=r'model 2: reads vectors, but model 1 (reads )?grids'):
        Captioner([captioner.bundle, vectors])
    config = folder / 'config.json'
    text = config.read_text()
    config.write_text(text.replace('"reads": "grids"', '"reads": "vectors"'))
    with pytest.raises(InputError, match="\"reads\" is 'vectors', but the architecture attend reads grids"):
        Bundle.load(folder)
    config.write_text(text)


class AttendBoth(Attend):
    """Reads the vector as another location."""
    architecture, reads = 'attend', 'both'

    def locations(self, features):
        vectors, grids = features
        return super().locations(self.xp.concatenate([vectors[:, None], grids], axis=1))


def test_vectors_and_grids_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setitem(models.ARCHITECTURES, 'attend', AttendBoth)
    folder = write_grids(tmp_path / 'dataset')
    np.save(folder / 'feats.npy', np.load(folder / 'grids.npy').astype(np.float32).mean(axis=1))
    dataset = Dataset(folder)
    bundle = train(dataset, tmp_path / 'model', Settings(**{**SETTINGS, 'epochs': 20}))
    assert bundle.training['dataset'].keys() == {'captions', 'features', 'grids'}
    captioner = Captioner.load(tmp_path / 'model', images=False)
    assert all(right(dataset, captioner.caption_dataset(dataset, 'test', Sampling(top=1, temperature=0.1))))
    # Among vectors beside grids, a model of vectors is what it is without grids.
    few = Settings(epochs=1, hidden=4, min_count=1)
    train(dataset, tmp_path / 'beside', few)
    (folder / 'grids.npy').unlink()
    train(Dataset(folder), tmp_path / 'alone', few)
    assert (tmp_path / 'beside' / 'weights.npz').read_bytes() == (tmp_path / 'alone' / 'weights.npz').read_bytes()
    train(Dataset(folder), tmp_path / 'beside', few, resume=True)


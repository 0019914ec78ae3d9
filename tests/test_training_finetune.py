"""Fine-tuning: the image encoder learns together with the captioner, and the model has it from then on."""
import dataclasses
import json
import shutil
from types import SimpleNamespace

import chainer
import chainer.functions as F
import numpy as np
import pytest
from conftest import draw_images, left_by_training, write_dataset
from test_parallel import SCRIPTS, figures, together  # noqa: F401 (a fixture)
from test_training_objectives import share_of
from test_training_snapshots import stop_after

from chainer_caption import Bundle, Captioner, Dataset, InputError, Settings, train
from chainer_caption.data.batches import pack
from chainer_caption.features.encoders.stages import run_stages, split
from chainer_caption.features.extractor import Extractor, load_encoder, prepare
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.functions.word_loss import word_loss
from chainer_caption.models.bundle import WEIGHTS
from chainer_caption.models.familiarity import Familiarity, sample_rows
from chainer_caption.models.fine_tuned_encoder import ENCODER, NEXT
from chainer_caption.parallel import Processes
from chainer_caption.storage.archives import read_npz
from chainer_caption.training import make_optimizer
from chainer_caption.training.augmented_loader import LEAST, varied
from chainer_caption.training.objectives import set_up
from chainer_caption.training.online_features import OnlineFeatures, find_training_images

WORDS = Settings(epochs=1, hidden=8, batch_size=32)
SETTINGS = Settings(epochs=2, batch_size=18, finetune='fc6', score_every=2)
PROVENANCE = {'encoder': 'demo', 'preprocessing': 'demo'}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr('chainer_caption.training.extensions.curves._draw', lambda f, curves, measure: None)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with a dataset, its images and a model of its stored features, which say that they are the demo's."""
    home = tmp_path_factory.mktemp('finetune')
    write_dataset(home / 'dataset', images=24, dim=4096)
    (home / 'dataset' / 'vgg_feats.mat.json').write_text(json.dumps(PROVENANCE))
    draw_images(home / 'images' / 'in', 24)
    train(Dataset(home / 'dataset'), home / 'words', WORDS)
    train(Dataset(home / 'dataset'), home / 'merge', dataclasses.replace(WORDS, architecture='merge'))
    return home


def fine_tune(home, output, settings=SETTINGS, **kwargs):
    kwargs = {'start_from': home / 'words', **kwargs} if not kwargs.get('resume') else kwargs
    return train(Dataset(home / 'dataset'), output, settings, images=home / 'images', **kwargs)


@pytest.fixture(scope='module')
def undisturbed(home):
    """Six updates of four images an epoch; the model directory."""
    fine_tune(home, home / 'fine')
    return home / 'fine'


def begun(home, processes=None, say=print, model='words', **settings):
    """What a fine-tuning works with, before its first update."""
    dataset, paths, _ = find_training_images(Dataset(home / 'dataset'), home / 'images', say)
    current = Bundle.load(home / model)
    current.encoder, current.provenance = load_encoder('demo')[0], PROVENANCE
    settings = dataclasses.replace(SETTINGS, **settings).resolved()
    online_features = OnlineFeatures(dataset, current, settings, paths, chainer.get_device('@numpy'), Processes(),
                                     say=say)
    objective = set_up(settings.make_objective(), online_features.dataset, current, settings, online_features,
                       processes or Processes(), say)
    return SimpleNamespace(dataset=online_features.dataset, current=current, settings=settings,
                           online_features=online_features, objective=objective,
                           paths=paths)


def gradients(work, update, numbers):
    """The gradients of an update, by the names of what learns, and what is reported."""
    reporter, reported = chainer.Reporter(), {}
    reporter.add_observer('main', work.current.model)
    work.online_features.target.cleargrads()
    with reporter, reporter.scope(reported):
        work.objective.loss(update, numbers).backward()
    return ({name: param.grad.copy() for name, param in work.online_features.target.namedparams()},
            {name: float(getattr(value, 'array', value)) for name, value in reported.items()})


def test_the_familiarity_is_that_of_the_fine_tuned_encoder(undisturbed, home):
    dataset, folder = Dataset(home / 'dataset'), home / 'images' / 'in'
    images = sample_rows(dataset.images('train', 'restval'))        # their rows have the same numbers
    found = Bundle.load(undisturbed).familiarity

    def expected(weights):
        extractor = Extractor.load('demo', 'demo', weights)
        return Familiarity.fit(extractor([extractor.prepare(folder / f'{image:04}.png') for image in images]))
    own = expected(undisturbed / ENCODER)
    assert np.allclose(found.centers, own.centers, atol=1e-3) and np.allclose(found.levels, own.levels, atol=1e-4)
    assert not np.allclose(found.centers, expected(None).centers, atol=1e-3)


# ---- What it learns

@pytest.mark.parametrize('layer', ['conv5', 'all'])
def test_an_update_is_that_of_a_plain_chain(layer, home):
    work = begun(home, finetune=layer, encoder_learning_rate=0.0005, dropout=0.0)
    work.current.model.dropout = 0.0
    numbers = np.array([3, 0, 7])
    optimizer = make_optimizer(work.online_features.target, work.current.model.device, Processes(), work.settings,
                               work.online_features.encoder)
    optimizer.update(work.objective.loss, 0, numbers)

    # The same by Chainer's own links and functions, the whole encoder from the images on, each caption with its own
    # image; Adam with a rate for each of the two.
    model, encoder = Bundle.load(home / 'words').model, load_encoder('demo')[0]
    dataset = Dataset(home / 'dataset')
    images = dataset.images('train', 'restval')[numbers]
    captions = [(row, np.append(Bundle.load(home / 'words').vocabulary.encode(caption), np.int32(1)))
                for row, image in enumerate(images) for caption in dataset.references(image)]
    captions.sort(key=lambda pair: -len(pair[1]))
    x = np.stack([prepare(work.paths[int(dataset.captions.image_ids[image])], PREPROCESSINGS['demo'])
                  for image in images])
    words, targets, batch_sizes = pack([caption for _, caption in captions])
    with chainer.using_config('train', False):
        rows = [encoder(x[row:row + 1]) for row, _ in captions]
        h = model.outputs(F.concat(rows, axis=0), words, batch_sizes, (0, 0))
        loss, _ = word_loss(h, model.out_word.W, model.out_word.b, targets)
    model.cleargrads()
    encoder.cleargrads()
    loss.backward()
    learning = {id(param) for stage in split(encoder, layer)[1] for name in stage.links
                for param in encoder[name].params() if param.name != 'gamma'}
    for link, rate, own in (model, 0.001, work.current.model), (encoder, 0.0005, work.current.encoder):
        ours = dict(own.namedparams())
        for name, param in link.namedparams():
            if link is model or id(param) in learning:
                # Adam's first step has the rate for its length, whatever the gradient's is.
                expected = param.array - rate * param.grad / (np.abs(param.grad) + 1e-8 / 0.001 ** 0.5)
                sure = np.abs(param.grad) > 1e-3 * np.abs(param.grad).max()
                np.testing.assert_allclose(ours[name].array[sure], expected[sure], rtol=0, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(ours[name].array, param.array, err_msg=name)


def test_frozen_layers_do_not_change_and_the_others_do(undisturbed):
    before, after = dict(load_encoder('demo')[0].namedparams()), read_npz(undisturbed / ENCODER)
    for name, param in before.items():
        learns = name.startswith(('/fc', '/norm6')) and not name.endswith('gamma')
        assert np.array_equal(after[name[1:]], param.array) != learns, name
    np.testing.assert_array_equal(after['norm6/avg_mean'], load_encoder('demo')[0].norm6.avg_mean)


@pytest.mark.parametrize(('model', 'objective'), [('words', 'cross-entropy'), ('words',
                                                                                       'self-critical'),
                                                  ('merge', 'self-critical')])
@pytest.mark.parametrize(('size', 'count'), [(2, 4), (3, 2)])
def test_the_mean_of_the_shares_is_what_one_process_finds(model, objective, size, count, home):
    options = {'model': model, 'objective': objective, 'xe_weight': 0.5 if objective == 'self-critical' else 1.0}
    numbers = np.array([3, 0, 7, 11])[:count]
    found = []
    for processes in (None, *(share_of(rank, size) for rank in range(size))):
        work = begun(home, processes, **options)
        work.current.model.dropout = 0.0
        found.append(gradients(work, 2, numbers))
    (expected, reported), *shares = found
    assert any(name.startswith('/encoder') and gradient.any() for name, gradient in expected.items())
    for name, gradient in expected.items():
        mean = np.mean([share[name] for share, _ in shares], axis=0)
        np.testing.assert_allclose(mean, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max() + 1e-7, err_msg=name)
    for name, value in reported.items():
        assert np.mean([share[name] for _, share in shares]) == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_two_processes_train_as_one_does(together, home, tmp_path):  # noqa: F811
    for size in (1, 2):
        done = together(size, SCRIPTS / 'train.py', home / 'dataset', '-m', home / 'words', '-o', tmp_path / str(size),
                        '--finetune', 'fc7', '--images', home / 'images', '--epochs', '1', '--batch-size', '18',
                        '--dropout', '0')
        assert (done.returncode, done.stderr) == (0, '')
    for got, expected in zip(figures(tmp_path / '2'), figures(tmp_path / '1'), strict=True):
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_images_are_cut_and_mirrored_at_random():
    rows, columns = np.mgrid[:40, :60].astype(np.uint8)
    seen = [varied(np.stack([rows, columns, rows], axis=2), np.random.default_rng(seed)) for seed in range(40)]
    for part in seen:
        assert part.shape[0] >= LEAST * 40 and part.shape[1] >= LEAST * 60
        assert (np.diff(part[:, :, 0].astype(int), axis=0) == 1).all()
        assert (np.diff(part[:, :, 1].astype(int)) == (1 if part[0, 0, 1] < part[0, -1, 1] else -1)).all()
    assert {bool(part[0, 0, 1] < part[0, -1, 1]) for part in seen} == {True, False}
    assert len({part.shape for part in seen}) > 20 and len({part[0, 0].tobytes() for part in seen}) > 20


# ---- The model that comes of it

def test_images_are_captioned_as_their_features_are(undisturbed, home, call, tmp_path):
    images = home / 'images'
    assert call('extract_features', images, '-m', undisturbed, '-o', tmp_path / 'dataset')[0] == 0
    status, out, err = call('generate', '-m', undisturbed, images, '--beam-width', '3')
    assert (status, err) == (0, '')
    assert call('generate', '-m', undisturbed, '--dataset', tmp_path / 'dataset', '--beam-width', '3')[0] == 0
    results = list(Captioner.load(undisturbed).caption(images, width=3, top=1))
    stored = list(Captioner.load(undisturbed, images=False).caption_features(
        np.load(tmp_path / 'dataset' / 'feats.npy'), width=3, top=1))
    for result, (caption, *_) in zip(results, stored, strict=True):
        assert result.captions[0].tokens == caption.tokens and ' '.join(caption.tokens) in out
        assert result.captions[0].log_prob == pytest.approx(caption.log_prob, abs=1e-4)
    # And the features are those that the training has seen.
    name = Bundle.load(undisturbed).provenance['encoder']
    extractor, (encoder, *_) = (load(name, weights=undisturbed / ENCODER) for load in (Extractor.load, load_encoder))
    x = np.stack([extractor.prepare(result.path) for result in results[:3]])
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        np.testing.assert_allclose(run_stages(encoder.stages(), x).array,
                                   np.load(tmp_path / 'dataset' / 'feats.npy')[:3], atol=1e-5)


def test_a_fine_tuned_model_records_its_encoder_and_refuses_other_features(undisturbed, home, refused, call, tmp_path):
    config = json.loads((undisturbed / 'config.json').read_text())
    assert config['features'] == {'encoder': 'fine-tuned from demo', 'preprocessing': 'demo'}
    assert config['training']['encoder_learning_rate'] == pytest.approx(1e-4)
    name = Bundle.load(undisturbed).provenance['encoder']
    line = refused('generate', '-m', undisturbed, '--dataset', home / 'dataset')
    assert 'features of demo/demo' in line and name in line
    assert name in refused('train', home / 'dataset', '-m', undisturbed, '-o', tmp_path / 'more')
    unknown = shutil.copytree(home / 'dataset', tmp_path / 'unknown')
    (unknown / 'vgg_feats.mat.json').unlink()
    assert 'unknown provenance' in refused('generate', '-m', undisturbed, '--dataset', unknown)
    # A model of stored features of such an encoder wants that encoder, and no other.
    learned = shutil.copytree(undisturbed, tmp_path / 'learned')
    (learned / ENCODER).unlink()
    arrays = read_npz(learned / WEIGHTS)
    del arrays['encoder']
    np.savez(learned / WEIGHTS, **arrays)
    config['features']['encoder'] = name
    (learned / 'config.json').write_text(json.dumps(config))
    line = refused('generate', '-m', learned, home / 'images')
    assert f'not the weights of the encoder {name}' in line
    assert call('generate', '-m', learned, '-i', undisturbed / ENCODER, home / 'images')[0] == 0


def test_fine_tuning_starts_from_a_fine_tuned_encoder(undisturbed, home, tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=1, finetune='fc7', objective='self-critical', score_every=1,
                                   keep_best='loss')
    fine_tune(home, tmp_path / 'more', settings, start_from=undisturbed)
    before, after = read_npz(undisturbed / ENCODER), read_npz(tmp_path / 'more' / ENCODER)
    np.testing.assert_array_equal(before['fc6/W'], after['fc6/W'])
    assert (before['fc7/W'] != after['fc7/W']).any()
    assert Bundle.load(tmp_path / 'more').provenance['encoder'].startswith('fine-tuned from demo (')


def test_an_encoder_of_other_weights_is_refused_but_not_after_a_kill_between_the_two_files(undisturbed, tmp_path):
    model = shutil.copytree(undisturbed, tmp_path / 'model')
    (model / ENCODER).rename(model / NEXT)
    assert Bundle.load(model).encoder_path == model / NEXT
    shutil.copy(model / NEXT, model / ENCODER)
    for name in ENCODER, NEXT:
        (model / name).write_bytes((model / name).read_bytes()[:-1] + b'x')
    with pytest.raises(InputError, match=r'encoder\.npz: not the encoder that weights\.npz was trained with'):
        Bundle.load(model)


# ---- Stopped, and what is kept

@pytest.mark.parametrize('more', [{}, {'finetune': 'all', 'augment': True, 'average': 3}], ids=['kept', 'live'])
def test_resuming_within_an_epoch_gives_equal_weights(more, home, undisturbed, tmp_path):
    settings, whole = dataclasses.replace(SETTINGS, **more), undisturbed
    if more:
        settings = dataclasses.replace(settings, epochs=1, score_every=1)
        whole = tmp_path / 'whole'
        fine_tune(home, whole, settings)
    fine_tune(home, tmp_path / 'parts', settings, stop=stop_after(2))
    fine_tune(home, tmp_path / 'parts', settings, resume=True)
    whole, parts = left_by_training(whole), left_by_training(tmp_path / 'parts')
    assert any(name.startswith('encoder.npz') for name in whole)
    for name in whole.keys() & parts.keys() - {'files'}:
        assert parts[name] == whole[name], name


def test_frozen_layers_are_computed_once(home, monkeypatch, tmp_path):
    begun(home, finetune='conv4')
    read = []
    monkeypatch.setattr('chainer_caption.training.frozen_layers.prepare', lambda path, preprocessing: read.append(path))
    begun(home, finetune='conv4')
    assert not read


def test_images_that_are_missing_or_damaged_are_left_out(home, refused, tmp_path):
    for name in 'dataset', 'words', 'images':
        shutil.copytree(home / name, tmp_path / name)
    images = tmp_path / 'images'
    (images / 'in' / '0000.png').unlink()
    (images / 'in' / '0001.png').write_bytes(b'no image')
    lines = []
    work = begun(tmp_path, say=lines.append)
    assert len(lines) == 2 and '1 of 20' in lines[0] and '0000.png' in lines[0] and '0001.png' in lines[1]
    assert 'left out' in lines[1]
    assert set(work.objective._images.rows) == set(range(24)) - {0, 1} - {i for i in range(24) if i % 6 in (4, 5)}
    assert 'holds no image of the dataset' in refused(
        'train', home / 'dataset', '-m', home / 'words', '-o', tmp_path / 'model', '--finetune', 'fc6', '--images',
        tmp_path / 'words')


# ---- What is refused

@pytest.mark.parametrize(('options', 'names'), [
    (('--finetune', 'fc6'), '--images'), (('--images', '.'), '--finetune'), (('--augment',), 'finetune'),
    (('--encoder-learning-rate', '1e-4'), 'only for finetune'), (('--finetune', 'fc9', '--images', '{}'), 'or all'),
    (('--finetune', 'fc6', '--images', 'nowhere'), 'nowhere: no such folder')])
def test_contradicting_options_are_refused(options, names, refused, home, tmp_path):
    options = [option.replace('{}', str(home / 'images')) for option in options]
    assert names in refused('train', home / 'dataset', '-m', home / 'words', '-o', tmp_path / 'model', *options)
    assert not (tmp_path / 'model' / 'config.json').exists()


def test_resuming_with_other_settings_is_refused(home, undisturbed, refused, tmp_path):
    model = shutil.copytree(undisturbed, tmp_path / 'model')
    for settings, said in (dataclasses.replace(SETTINGS, finetune='fc7'), 'finetune fc6, not fc7'), \
            (dataclasses.replace(SETTINGS, encoder_learning_rate=1.0), 'encoder_learning_rate'):
        with pytest.raises(InputError, match=said):
            fine_tune(home, model, settings, resume=True)
    with pytest.raises(InputError, match='finetune fc6, not None'):
        train(Dataset(home / 'dataset'), model, dataclasses.replace(SETTINGS, finetune=None), resume=True)
    assert 'name it with -m' in refused('train', home / 'dataset', '-o', tmp_path / 'other', '--finetune', 'fc6',
                                        '--images', home / 'images')


@pytest.mark.gpu
def test_training_on_a_gpu_equals_training_on_a_cpu(home, undisturbed, tmp_path):
    fine_tune(home, tmp_path / 'gpu', device='@cupy:0')
    # The first entry is the model's that is started from.
    for got, expected in zip(*(json.loads((folder / 'log.json').read_text())[1:] for folder in (
            tmp_path / 'gpu', undisturbed)), strict=True):
        for name in 'main/loss', 'validation/main/loss':
            assert got[name] == pytest.approx(expected[name], rel=1e-3)
    for name in WEIGHTS, ENCODER:
        expected = read_npz(undisturbed / name)
        for key, array in read_npz(tmp_path / 'gpu' / name).items():
            if key != 'encoder':
                np.testing.assert_allclose(array, expected[key], rtol=1e-2, atol=1e-4, err_msg=key)

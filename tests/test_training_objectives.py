"""Self-critical training: its gradient, several processes, resuming."""
import json
from types import SimpleNamespace

import chainer
import numpy as np
import pytest
from conftest import left_by_training, write_dataset
from test_evaluation_metrics import coco_scores
from test_functions_sampling import captions_of, log_prob
from test_parallel import SCRIPTS, figures, together  # noqa: F401 (a fixture)
from test_report_gallery import Elements
from test_training import log, weights
from test_training_snapshots import stop_after

from chainer_caption import Bundle, Dataset, InputError, Settings, train
from chainer_caption.data.batches import PackCaptions
from chainer_caption.data.vocabulary import EOS
from chainer_caption.functions import mask_key
from chainer_caption.functions.dropout import apply_mask
from chainer_caption.parallel import Processes
from chainer_caption.storage.archives import read_npz
from chainer_caption.training import make_converter
from chainer_caption.training.objectives import set_up
from chainer_caption.training.objectives.self_critical import _CAPTIONS, _FEATURES, MAX_LENGTH, mean_of_others

# Four images an update, eight updates an epoch.
SETTINGS = Settings(epochs=2, batch_size=20, objective='self-critical')
OPTIONS = '--objective', 'self-critical', '--batch-size', '20'


@pytest.fixture(scope='module')
def dataset(dataset_dir):
    return Dataset(dataset_dir)


def share_of(rank, size):
    """What an objective asks of the processes, of one of several that are not there."""
    return SimpleNamespace(rank=rank, size=size, share=lambda items: items[rank::size], number=int,
                           one_after_another=lambda make: make())


def made(dataset, model_dir, processes=None, **settings):
    """A self-critical objective and the model that it trains."""
    processes = processes or Processes()
    current = Bundle.load(model_dir)
    converter = make_converter(dataset.features, chainer.get_device('@numpy'), processes)
    settings = Settings(**{'batch_size': 20, 'objective': 'self-critical', 'xe_weight': 0.0, **settings})
    objective = set_up(settings.make_objective(), dataset, current, settings, converter, processes, print)
    return objective, current


def losses(objective, model, update, images):
    """What is reported, and the gradients."""
    reporter, reported = chainer.Reporter(), {}
    reporter.add_observer('main', model)
    model.cleargrads()
    with reporter, reporter.scope(reported):
        loss = objective.loss(update, images)
    loss.backward()
    return ({name: float(getattr(value, 'array', value)) for name, value in reported.items()},
            {name: param.grad.copy() for name, param in model.namedparams()})


# ---- The baselines and the gradient

def test_the_baseline_is_the_mean_of_the_others_and_advantages_sum_to_zero():
    rewards = np.random.default_rng(0).random((7, 4))
    expected = [[np.mean([row[k] for k in range(4) if k != i]) for i in range(4)] for row in rewards]
    np.testing.assert_allclose(mean_of_others(rewards), expected, rtol=1e-14)
    np.testing.assert_allclose((rewards - mean_of_others(rewards)).sum(axis=1), 0, atol=1e-14)


def rewards_of(dataset, vocabulary, captions):
    """CIDEr-D by the public code: of one caption (word ids) for each of some training images, by their numbers."""
    images = dataset.images(*dataset.training_splits)
    references = [[[*words, '</S>'] for words in dataset.references(image)] for image in images]
    said = [vocabulary.decode(captions[i]) if i in captions else ['nothing'] for i in range(len(images))]
    return dict(zip(range(len(images)), coco_scores(references, said)[1]['CIDEr'], strict=True))


@pytest.fixture(scope='module')
def merge_dir(dataset, tmp_path_factory):
    """A model of the architecture `merge`."""
    folder = tmp_path_factory.mktemp('merge') / 'model'
    train(dataset, folder, Settings(epochs=2, batch_size=16, hidden=12, architecture='merge', score_every=0))
    return folder


@pytest.mark.parametrize(('folder', 'baseline', 'dropout'), [
    ('model_dir', 'others', 0.0), ('model_dir', 'others', 0.5), ('model_dir', 'greedy', 0.5),
    ('merge_dir', 'others', 0.5), ('merge_dir', 'greedy', 0.0)])
def test_an_update_is_that_of_a_plain_chain(folder, baseline, dropout, dataset, request):
    samples, images, update, model_dir = 3, np.array([5, 0, 17, 30]), 7, request.getfixturevalue(folder)
    objective, current = made(dataset, model_dir, baseline=baseline, samples=samples, seed=4, dropout=dropout)
    model = current.model
    reported, ours = losses(objective, model, update, images)
    rows = dataset.captions.image_ids[dataset.images(*dataset.training_splits)][images]
    features = np.asarray(dataset.features[rows], np.float32)
    if dropout:
        # One mask for all captions of an image; no other dropout.
        features = apply_mask(features, dropout, mask_key(4, update, _FEATURES))
        assert 0.3 < np.mean(features == 0) < 0.7
    drawn = captions_of(model.sample(np.repeat(features, samples, axis=0), mask_key(4, update, _CAPTIONS),
                                     MAX_LENGTH['words']))
    said = [drawn[i * samples:(i + 1) * samples] for i in range(len(images))]
    each = [rewards_of(dataset, current.vocabulary, dict(zip(images, own, strict=True)))
            for own in zip(*said, strict=True)]
    rewards = np.array([[of[image] for of in each] for image in images])
    if baseline == 'greedy':
        of = rewards_of(dataset, current.vocabulary, dict(zip(images, model.greedy(features,
                                                                                   MAX_LENGTH['words']),
                                                              strict=True)))
        baselines = np.array([[of[image]] * samples for image in images])
    else:
        baselines = np.array([[(row.sum() - own) / (samples - 1) for own in row] for row in rewards])
    assert rewards.any() and not np.allclose(rewards, baselines)
    model.cleargrads()
    plain = -sum(float(rewards[i, k] - baselines[i, k]) * log_prob(model, features[i], said[i][k])
                 for i in range(len(images)) for k in range(samples)) / rewards.size
    plain.backward()
    assert reported['main/loss'] == pytest.approx(float(plain.array), rel=1e-4, abs=1e-6)
    assert reported['main/reward'] == pytest.approx(rewards.mean(), rel=1e-9)
    assert reported['main/length'] == pytest.approx(np.mean([len(c) - (c[-1] == EOS) for own in said for c in own]))
    for name, param in model.namedparams():
        np.testing.assert_allclose(ours[name], param.grad, rtol=2e-4, atol=1e-5, err_msg=name)


def test_the_cross_entropy_term_is_that_of_one_reference_of_each_image(dataset, model_dir):
    images = np.array([5, 0, 17, 30])
    _, without = losses(*unpacked(made(dataset, model_dir)), 3, images)
    objective, current = made(dataset, model_dir, xe_weight=0.5)
    reported, beside = losses(objective, current.model, 3, images)
    assert set(reported) == {'main/loss', 'main/reward', 'main/length'}
    rng = np.random.default_rng((0, 3, 1002))
    own = [dataset.references(image) for image in dataset.images(*dataset.training_splits)[images]]
    tokens = [captions[rng.integers(0, len(captions))] for captions in own]
    rows = dataset.captions.image_ids[dataset.images(*dataset.training_splits)][images]
    model, words = current.model, sum(len(caption) + 1 for caption in tokens)
    model.cleargrads()
    pack = PackCaptions(dataset.features)
    with chainer.using_config('train', False):
        total = sum(model(*pack([(row, np.append(current.vocabulary.encode(caption), np.int32(EOS)))], None))
                    * ((len(caption) + 1) / words) for row, caption in zip(rows, tokens, strict=True))
    total.backward()
    for name, param in model.namedparams():
        np.testing.assert_allclose(beside[name] - without[name], 0.5 * param.grad, rtol=1e-3, atol=1e-6, err_msg=name)


def unpacked(objective_and_bundle):
    objective, current = objective_and_bundle
    return objective, current.model


# ---- Several processes

@pytest.mark.parametrize(('size', 'count'), [(2, 4), (3, 4), (3, 2)])
@pytest.mark.parametrize('options', [{}, {'baseline': 'greedy', 'xe_weight': 0.5}], ids=['others', 'greedy'])
def test_the_mean_of_the_shares_is_what_one_process_finds(size, count, options, dataset, model_dir):
    images = np.array([5, 0, 17, 30])[:count]
    reported, gradients = losses(*unpacked(made(dataset, model_dir, **options)), 2, images)
    shares = [losses(*unpacked(made(dataset, model_dir, share_of(rank, size), **options)), 2, images)
              for rank in range(size)]
    # Rewards and lengths are equal to rounding only if the very same captions were drawn.
    for name, expected in reported.items():
        assert np.mean([share[name] for share, _ in shares]) == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    for name, expected in gradients.items():
        np.testing.assert_allclose(np.mean([share[name] for _, share in shares], axis=0), expected, rtol=1e-4,
                                   atol=1e-6, err_msg=name)


def test_two_processes_train_as_one_does(together, dataset_dir, model_dir, tmp_path):  # noqa: F811
    for size in (1, 2):
        done = together(size, SCRIPTS / 'train.py', dataset_dir, '-m', model_dir, '-o', tmp_path / str(size), *OPTIONS,
                        '--epochs', '2', '--average', '5')
        assert (done.returncode, done.stderr) == (0, '')
    for got, expected in zip(figures(tmp_path / '2'), figures(tmp_path / '1'), strict=True):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    expected = read_npz(tmp_path / '1' / 'weights.npz')
    for name, array in read_npz(tmp_path / '2' / 'weights.npz').items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)


# ---- Whole trainings

def test_cider_on_val_improves(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / 'dataset', images=96))
    train(dataset, tmp_path / 'words', Settings(epochs=12, hidden=32, batch_size=16, dropout=0.2))
    before = log(tmp_path / 'words')[-1]['validation/main/cider']
    settings = Settings(epochs=8, batch_size=40, objective='self-critical', learning_rate=2e-3)
    train(dataset, tmp_path / 'better', settings, start_from=tmp_path / 'words')
    start, *entries = log(tmp_path / 'better')
    assert (start['epoch'], start['validation/main/cider']) == (0, before)
    assert max(entry['validation/main/cider'] for entry in entries) > 1.2 * before
    assert entries[-1]['main/reward'] > 1.2 * entries[0]['main/reward']
    # The best epoch by CIDEr is kept.
    best = max(entries, key=lambda entry: entry['validation/main/cider'])
    alone = train(dataset, tmp_path / 'alone', settings=Settings(**{**vars(settings), 'epochs': best['epoch']}),
                  start_from=tmp_path / 'words')
    np.testing.assert_array_equal(alone.model.out_word.W.array, weights(tmp_path / 'better')['out_word/W'])


def test_initial_weights_are_kept_where_no_epoch_is_better(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / 'dataset', images=96))
    train(dataset, tmp_path / 'words', Settings(epochs=12, hidden=32, batch_size=16, dropout=0.2, keep_best='cider'))
    # With such steps it unlearns all that it could say.
    train(dataset, tmp_path / 'worse', Settings(**{**vars(SETTINGS), 'learning_rate': 1.0}),
          start_from=tmp_path / 'words')
    start, *entries = [entry['validation/main/cider'] for entry in log(tmp_path / 'worse')]
    assert start > max(entries)
    words, kept = weights(tmp_path / 'words'), weights(tmp_path / 'worse')
    for name in words:
        np.testing.assert_array_equal(kept[name], words[name], err_msg=name)
    page = Elements((tmp_path / 'worse' / 'run.html').read_text('utf-8'))
    assert f'0, CIDEr {start:.3f}' in page.of('dd')


@pytest.mark.parametrize('update', [3, 8, 13])
def test_resuming_within_an_epoch_gives_equal_weights(update, dataset, model_dir, tmp_path):
    settings = Settings(**{**vars(SETTINGS), 'average': 6, 'xe_weight': 0.1})
    train(dataset, tmp_path / 'whole', settings, start_from=model_dir)
    train(dataset, tmp_path / 'parts', settings, start_from=model_dir, stop=stop_after(update))
    train(dataset, tmp_path / 'parts', settings, resume=True)
    whole, parts = left_by_training(tmp_path / 'whole'), left_by_training(tmp_path / 'parts')
    assert any('average' in name for name in whole)
    for name in whole.keys() & parts.keys() - {'files'}:
        assert parts[name] == whole[name], name


def test_it_can_replace_the_model_that_it_starts_from(dataset, dataset_dir, model_dir, call, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=2, batch_size=32, hidden=16))
    argv = dataset_dir, '-m', tmp_path / 'model', '-o', tmp_path / 'model', *OPTIONS, '--epochs', '1'
    assert call('train', *argv)[0] == 2
    status, out, _ = call('train', *argv, '--overwrite')
    assert status == 0 and 'main/reward' in out.splitlines()[0]
    assert Bundle.load(tmp_path / 'model').training['objective'] == 'self-critical'


def test_log_and_page_have_rewards_and_no_perplexity(dataset, model_dir, tmp_path):
    train(dataset, tmp_path / 'model', SETTINGS, start_from=model_dir)
    for entry in log(tmp_path / 'model')[1:]:
        assert {'main/loss', 'main/reward', 'main/length', 'validation/main/perplexity'} <= entry.keys()
        assert not {'main/accuracy', 'main/perplexity'} & entry.keys()
    page = (tmp_path / 'model' / 'run.html').read_text('utf-8')
    elements = Elements(page)
    headings = elements.of('th')
    assert 'reward' in headings and any(heading.startswith('words ') for heading in headings)
    assert 'Reward' in elements.of('figcaption')
    assert (tmp_path / 'model' / 'scores.png').exists()
    training = json.loads((tmp_path / 'model' / 'config.json').read_text())['training']
    assert (training['keep_best'], training['learning_rate'], training['samples']) == ('cider', 2e-4, 5)


def test_without_val_the_last_epoch_is_kept(make_dataset, model_dir, tmp_path):
    dataset = Dataset(make_dataset(splits=('train', 'train', 'test')))
    bundle = train(dataset, tmp_path / 'model', SETTINGS, start_from=model_dir)
    assert bundle.training['keep_best'] == 'cider' and len(log(tmp_path / 'model')) == 2


# ---- What is refused

def test_self_critical_training_needs_a_trained_model(refused, dataset_dir, model_dir, tmp_path):
    for more in (), ('--resume',):
        assert '-m' in refused('train', dataset_dir, '-o', tmp_path / 'model', *OPTIONS, *more)
    assert not (tmp_path / 'model' / 'config.json').exists()


@pytest.mark.parametrize(('options', 'names'), [
    ((*OPTIONS, '--samples', '1'), '--samples 1'), ((*OPTIONS, '--baseline', 'mean'), '--baseline mean'),
    (('--samples', '3'), 'only for objective self-critical'), (('--baseline', 'greedy'), 'only for objective'),
    (('--xe-weight', '0'), '--xe-weight 0.0: only for objective self-critical'),
    ((*OPTIONS, '--xe-weight', '-1'), '--xe-weight -1')])
def test_contradicting_options_are_refused(options, names, refused, dataset_dir, model_dir, tmp_path):
    assert names in refused('train', dataset_dir, '-m', model_dir, '-o', tmp_path / 'model', *options)


def test_a_single_training_image_is_refused(make_dataset, model_dir, tmp_path):
    dataset = Dataset(make_dataset(images=3, splits=('train', 'val', 'val')))
    with pytest.raises(InputError, match='CIDEr of a single image is 0'):
        train(dataset, tmp_path / 'model', SETTINGS, start_from=model_dir)


def test_one_sample_is_enough_with_the_greedy_baseline(dataset, model_dir, tmp_path):
    settings = Settings(**{**vars(SETTINGS), 'baseline': 'greedy', 'samples': 1, 'epochs': 1})
    train(dataset, tmp_path / 'model', settings, start_from=model_dir)
    assert [entry['epoch'] for entry in log(tmp_path / 'model')] == [0, 1]


def test_resuming_with_other_settings_is_refused(dataset, model_dir, tmp_path):
    train(dataset, tmp_path / 'model', SETTINGS, start_from=model_dir)
    for name, value in ('baseline', 'greedy'), ('average', 5), ('samples', 3):
        settings = Settings(**{**vars(SETTINGS), name: value})
        with pytest.raises(InputError, match=f'{name}.*resume with what it began with'):
            train(dataset, tmp_path / 'model', settings, resume=True)
    with pytest.raises(InputError, match='objective self-critical, not cross-entropy'):
        train(dataset, tmp_path / 'model', Settings(batch_size=20), resume=True)


@pytest.mark.gpu
@pytest.mark.parametrize('baseline', ['others', 'greedy'])
def test_training_on_a_gpu_equals_training_on_a_cpu(baseline, dataset, model_dir, tmp_path):
    settings = Settings(**{**vars(SETTINGS), 'baseline': baseline, 'average': 5, 'xe_weight': 0.1})
    for name, device in ('cpu', '@numpy'), ('gpu', '@cupy:0'):
        train(dataset, tmp_path / name, settings, start_from=model_dir, device=device)
    for got, expected in zip(figures(tmp_path / 'gpu'), figures(tmp_path / 'cpu'), strict=True):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    expected = weights(tmp_path / 'cpu')
    for name, array in weights(tmp_path / 'gpu').items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)

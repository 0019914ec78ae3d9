"""Training, resuming, captioning and evaluating take any architecture without knowing which."""
import json

import pytest
from conftest import left_by_training, write_dataset
from test_training import log, validation_loss, weights
from test_training_snapshots import stop_after

from chainer_caption import Captioner, Dataset, InputError, Settings, train
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.models import EncoderDecoder
from chainer_caption.storage.files import read_json

SIZES = {'merge': {'hidden': 12}, 'encoder_decoder': {'hidden': 12, 'max_positions': 7}}
OPTIONS = '--architecture', 'encoder_decoder', '--hidden', '8', '--epochs', '1'


@pytest.fixture(scope='module')
def dataset(dataset_dir):
    return Dataset(dataset_dir)


@pytest.fixture(scope='module', params=SIZES)
def trained(request, dataset, tmp_path_factory):
    """A model of each architecture, trained in one go."""
    folder = tmp_path_factory.mktemp(request.param) / 'model'
    return train(dataset, folder, settings_of(request.param)), folder


def settings_of(architecture, **more):
    return Settings(**{'epochs': 3, 'batch_size': 16, 'architecture': architecture, **SIZES[architecture], **more})


def test_a_model_directory_records_its_architecture(trained):
    bundle, folder = trained
    config = read_json(folder / 'config.json')
    name = bundle.model.architecture
    assert config['model'] == config['training']['architecture'] == name
    assert {key: config[key] for key in SIZES[name]} == SIZES[name]


@pytest.mark.parametrize('updates', [1, 5])
def test_stopped_after_any_update(trained, dataset, tmp_path, updates):
    bundle, folder = trained
    train(dataset, tmp_path / 'model', settings_of(bundle.model.architecture), stop=stop_after(updates))
    # What is not said again is what it was begun with.
    with pytest.raises(InputError, match=f'was trained with architecture {bundle.model.architecture}'):
        train(dataset, tmp_path / 'model', Settings(epochs=3, batch_size=16, architecture='show_and_tell'), resume=True)
    train(dataset, tmp_path / 'model', Settings(epochs=3, batch_size=16), resume=True)
    assert left_by_training(tmp_path / 'model') == left_by_training(folder)


def test_perplexity_is_that_of_each_caption_alone(trained, dataset):
    bundle, folder = trained
    captioners = (Captioner.load(folders, images=False) for folders in ([folder], [folder, folder]))
    one, two = (Evaluator(dataset, 'test').evaluate_model('m', captioner, top=3)[0].figures for captioner in captioners)
    loss = validation_loss(bundle, dataset, 'test')
    assert one['perplexity'] == pytest.approx(2.718281828459045 ** loss, rel=1e-5)
    assert two == pytest.approx(one, rel=1e-4)         # the same model twice, by way of the searches' decoders


def test_self_critical_training_of_any_architecture(trained, dataset, tmp_path):
    bundle, folder = trained
    name, layer = bundle.model.architecture, {'merge': 'joint/W', 'encoder_decoder': 'out_word/W'}
    settings = settings_of(name, objective='self-critical', epochs=2, samples=4, keep_best='loss')
    better = train(dataset, tmp_path / 'better', settings, start_from=folder)
    assert better.model.architecture == name
    assert [row['main/reward'] > 0 for row in log(tmp_path / 'better') if row['epoch']] == [True, True]
    train(dataset, tmp_path / 'stopped', settings, start_from=folder, stop=stop_after(3))
    train(dataset, tmp_path / 'stopped', settings, start_from=folder, resume=True)
    assert left_by_training(tmp_path / 'stopped') == left_by_training(tmp_path / 'better')
    settings = settings_of(name, objective='self-critical', epochs=1, samples=4, score_every=0, keep_best='loss')
    last = train(dataset, tmp_path / 'last', settings, start_from=folder)
    assert (last.model.configuration, last.training['samples']) == (bundle.model.configuration, 4)
    assert {*weights(tmp_path / 'last')} == {*weights(folder)} and layer[name] in weights(folder)


def test_training_from_a_model_keeps_its_architecture(trained, dataset, dataset_dir, refused, tmp_path):
    bundle, folder = trained
    again = train(dataset, tmp_path / 'model', Settings(epochs=1, batch_size=64), start_from=folder)
    assert again.model.configuration == bundle.model.configuration
    line = refused('train', dataset_dir, '-m', folder, '-o', tmp_path / 'm', '--architecture', 'show_and_tell')
    assert line.startswith(f'{folder}: a model of the architecture {bundle.model.architecture}; leave out')


@pytest.fixture
def long_captions(tmp_path):
    """A dataset with three captions of nine words, of train, val and test, where the others have four."""
    folder = write_dataset(tmp_path / 'dataset')
    data = json.loads((folder / 'dataset.json').read_text())
    for i in (0, 4, 5):
        data['images'][i]['sentences'][0]['tokens'] = list('abcdefghi')
    (folder / 'dataset.json').write_text(json.dumps(data))
    return folder


def test_captions_beyond_the_positions_are_refused(long_captions, trained, refused, tmp_path):
    folder = trained[1]
    before = left_by_training(folder)
    line = refused('train', long_captions, '-o', folder, '--overwrite', *OPTIONS, '--max-positions', '9')
    assert line == (f'{long_captions}/dataset.json: 2 captions have more words than the 8 for which 9 positions have '
                    'room beside </S>; --max-positions 10 has room for all')
    assert left_by_training(folder) == before


def test_perplexity_only_where_all_captions_fit_the_positions(long_captions, dataset_dir, call, tmp_path):
    assert call('train', long_captions, '-o', tmp_path / 'm', *OPTIONS, '--max-positions', '10')[0] == 0
    assert call('train', dataset_dir, '-o', tmp_path / 'n', *OPTIONS, '--max-positions', '5')[0] == 0
    found = {name: call('evaluate', long_captions, '-m', tmp_path / name, '--json') for name in 'mn'}
    assert 'perplexity' in json.loads(found['m'][1].splitlines()[-1])
    assert 'perplexity' not in json.loads(found['n'][1].splitlines()[-1])
    assert '1 captions of the split test have more words than the 4 that the model has room for' in found['n'][2]


def test_max_length_is_limited_by_the_positions(trained, dataset_dir, call):
    bundle, folder = trained
    status, _, err = call('generate', '-m', folder, '--dataset', dataset_dir, '--top', '1', '--min-length', '7')
    assert (status, '--min-length 7: the model has 7 positions, for 6 words and </S>' in err) == (
        (0, False) if bundle.model.max_positions is None else (2, True))


def test_a_model_of_endless_captions_is_refused():
    config = {**EncoderDecoder(3, 4, 5).configuration, 'max_positions': 2 ** 30}
    with pytest.raises(InputError, match='"max_positions" should be at most 4096'):
        EncoderDecoder.read_configuration(config, 'config.json')


@pytest.mark.parametrize(('wordings', 'least', 'most'), [(1, 0.9, 1), (3, 0, 0.5)])
def test_independent_positions_mix_several_wordings(dataset_dir, tmp_path, wordings, least, most):
    # Of a single wording each word follows from the image; of several, words of one stand beside words of another.
    data = read_json(dataset_dir / 'dataset.json')
    for image in data['images']:
        image['sentences'] = image['sentences'][1:2] if wordings == 1 else image['sentences']
    (tmp_path / 'dataset.json').write_text(json.dumps(data))
    dataset = Dataset(dataset=tmp_path / 'dataset.json', features=dataset_dir / 'vgg_feats.mat')
    train(dataset, tmp_path / 'model', Settings(
        epochs=25, batch_size=4 * wordings, architecture='encoder_decoder', hidden=24, max_positions=6, dropout=0,
        learning_rate=0.01, min_count=1, score_every=0))
    results = list(Captioner.load(tmp_path / 'model', images=False).caption_dataset(dataset, 'test', width=5))
    true = [result.captions[0].tokens in dataset.references(result.image_id) for result in results]
    assert least <= sum(true) / len(true) <= most

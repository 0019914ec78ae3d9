"""From a training to what is said and what is skipped: the commands, Python, the journal, an ensemble."""
import csv
import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from conftest import write_dataset
from serving import IMAGES, ask, running

from chainer_caption import Bundle, Captioner, Dataset, Settings, train
from chainer_caption.errors import InputError
from chainer_caption.evaluation.calibration import GOOD, calibrate, calibration_error
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.models import Architecture, ShowAndTell
from chainer_caption.models.familiarity import FAMILIARITY, Familiarity
from chainer_caption.storage.archives import read_npz

SETTINGS = Settings(epochs=4, batch_size=32, hidden=32, learning_rate=0.005, score_every=0)


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    """A dataset with enough images in `val` to fit a confidence; read-only."""
    return write_dataset(tmp_path_factory.mktemp('large') / 'dataset', 300, splits=('train', 'val', 'test'))


@pytest.fixture(scope='module')
def trained(large):
    """A model of it, some of whose captions are good; read-only."""
    folder = large.with_name('model')
    train(Dataset(large), folder, SETTINGS)
    return folder


@pytest.fixture(scope='module')
def confident(demo_model, tmp_path_factory):
    """An untrained model of images, whose confidences differ by chance; read-only."""
    folder = tmp_path_factory.mktemp('confident') / 'model'
    captioner = Captioner.load(demo_model)
    bundle, extractor = captioner.bundle, captioner.extractor
    features = extractor([extractor.prepare(path) for path in IMAGES[:40]])
    bundle.familiarity = Familiarity.fit(features)
    bundle.familiarity = bundle.familiarity.calibrate(
        bundle.familiarity.nearness(features), np.linspace(-4, 0, 40), np.arange(40) % 3 > 0)
    bundle.save(folder)
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of 12 images."""
    folder = tmp_path_factory.mktemp('images')
    for path in IMAGES[:12]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope='module')
def results(confident, images):
    return list(Captioner.load(confident).caption(images))


@pytest.fixture(scope='module')
def least(results):
    """A confidence that half of the images have."""
    confidences = sorted(result.confidence for result in results)
    assert confidences[5] < confidences[6]
    return round((confidences[5] + confidences[6]) / 2, 6)


def test_a_training_leaves_a_familiarity_and_a_confidence(large, trained):
    bundle, dataset = Bundle.load(trained), Dataset(large)
    features = dataset.features[dataset.captions.image_ids[dataset.images('train')]]
    assert np.allclose(np.sort(bundle.familiarity.nearness(features))[[0, -1]], [0.9, 1], atol=0.12)
    assert bundle.familiarity.calibration is not None
    evaluator = Evaluator(dataset, 'val')
    found, = evaluator.evaluate_model('m', Captioner(bundle))
    confidence = np.array([prediction.confidence for prediction in found.predictions])
    good = found.each['CIDEr'] >= GOOD
    # In the mean a logistic regression is right about what it was fitted to.
    assert 0.02 < good.mean() < 0.98 and abs(confidence.mean() - good.mean()) < 0.03
    assert found.figures['ECE'] == calibration_error(confidence, good) == found.to_json()['ECE']


def test_a_training_with_few_images_leaves_a_familiarity_alone(model_dir):
    familiarity = Bundle.load(model_dir).familiarity
    assert familiarity.calibration is None and familiarity.centers.shape[1] == 16
    captioner = Captioner.load(model_dir, images=False)
    result = next(captioner.caption_dataset(Dataset(model_dir.with_name('dataset')), 'test'))
    assert 0 <= result.familiarity <= 1 and result.confidence is None


def test_a_resumed_training_leaves_the_same(large, trained, tmp_path):
    updates = iter([False] * 15 + [True])
    train(Dataset(large), tmp_path, SETTINGS, stop=lambda: next(updates))
    assert (tmp_path / FAMILIARITY).read_bytes() != (trained / FAMILIARITY).read_bytes()
    train(Dataset(large), tmp_path, SETTINGS, resume=True)
    assert (tmp_path / FAMILIARITY).read_bytes() == (trained / FAMILIARITY).read_bytes()


def test_a_training_that_begins_has_none_of_the_one_before(large, trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / 'model')

    def killed():
        assert not (folder / FAMILIARITY).exists()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        train(Dataset(large), folder, dataclasses.replace(SETTINGS, epochs=5), resume=True, stop=killed)


def test_a_model_that_cannot_caption_is_kept_without_confidence(large, tmp_path, monkeypatch):
    monkeypatch.setattr(ShowAndTell, 'decoder', Architecture.decoder)
    notices = []
    train(Dataset(large), tmp_path, dataclasses.replace(SETTINGS, epochs=1), say=notices.append)
    assert notices[-1] == (f'{tmp_path}: its confidence is not fitted (ShowAndTell generates no captions: it has no '
                           'decoder())')
    assert Bundle.load(tmp_path).familiarity.calibration is None


def test_evaluate_fits_it_again(call, refused, large, trained, model_dir, tmp_path):
    folder = shutil.copytree(trained, tmp_path / 'model')
    (folder / FAMILIARITY).unlink()
    status, out, _ = call('evaluate', large, '-m', folder, '--split', 'val', '--calibrate', '--json')
    assert status == 0 and 0 <= json.loads(out)['ECE'] <= 0.2
    for name, array in read_npz(folder / FAMILIARITY).items():
        assert np.array_equal(array, read_npz(trained / FAMILIARITY)[name]), name
    before = (folder / FAMILIARITY).read_bytes()
    assert call('evaluate', large, '-m', folder, '--split', 'val', '--calibrate', '--beam-widths', 1)[0] == 0
    changed = read_npz(folder / FAMILIARITY)
    assert (folder / FAMILIARITY).read_bytes() != before and np.array_equal(
        changed['centers'], read_npz(trained / FAMILIARITY)['centers'])
    status, _, err = call('evaluate', model_dir.with_name('dataset'), '-m', folder, '--split', 'val', '--calibrate')
    assert status == 2 and '--calibrate needs 100' in err
    for options in ([], ['--split', 'val', '-m', folder], ['--split', 'val', '--beam-widths', '1,2']):
        assert '--calibrate is for one ' in refused('evaluate', large, '-m', folder, '--calibrate', *options)
    assert (folder / FAMILIARITY).read_bytes() != before


def test_scores_of_each_image_have_it(call, large, trained, tmp_path):
    assert call('evaluate', large, '-m', trained, '--per-image', tmp_path / 'each')[0] == 0
    rows = [json.loads(line) for line in (tmp_path / 'each').read_text().splitlines()]
    results = Captioner.load(trained, images=False).caption_dataset(Dataset(large), 'test', top=1)
    assert [(row['familiarity'], row['confidence']) for row in rows] == [
        (result.familiarity, result.confidence) for result in results]


def test_captions_below_a_confidence_are_left_out(confident, images, results, least):
    found = list(Captioner.load(confident).caption(images, min_confidence=least))
    for result, whole in zip(found, results, strict=True):
        kept = whole.confidence >= least
        assert (result.captions == whole.captions and result.skipped is None) if kept else (
            result.captions == [] and result.error is None and result.skipped.startswith('confidence 0.'))
        assert (result.familiarity, result.confidence) == (whole.familiarity, whole.confidence)
    assert sum(result.skipped is not None for result in found) == 6


@pytest.mark.parametrize('format', ['jsonl', 'json', 'csv', 'tsv', 'html', 'txt'])
def test_generate_skips_in_every_format(format, call, confident, images, results, least, tmp_path):
    path = tmp_path / f'c.{format}'
    status, _, err = call('generate', '-m', confident, images, '-o', path, '--min-confidence', least, '--top', 2)
    text = path.read_text()
    assert (status, err) == (0, '') and text.count('confidence 0.') == 6
    skipped = {result.filename for result in results if result.confidence < least}
    if format == 'jsonl':
        rows = [json.loads(line) for line in text.splitlines()]
        assert {row['filename'] for row in rows if row['captions'] == [] and row['skipped']} == skipped
    elif format in ('csv', 'tsv'):
        rows = [*csv.DictReader(text.splitlines(), delimiter=',' if format == 'csv' else '\t')]
        assert {row['filename'] for row in rows if not row['rank']} == skipped
        assert {float(row['confidence']) < least for row in rows if row['skipped']} == {True}
    elif format == 'txt':
        assert text.count('\n! skipped: confidence 0.') == 6


def test_no_sidecar_for_what_is_skipped(call, confident, images, results, least, tmp_path):
    status, *_ = call('generate', '-m', confident, images, '--sidecar', 'txt', '--output-dir', tmp_path / 'out',
                      '--min-confidence', least)
    assert status == 0
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(
        f'{pathlib.Path(result.path).stem}.txt' for result in results if result.confidence >= least)


def test_a_run_does_not_go_on_with_another_confidence(call, refused, confident, images, least, tmp_path, monkeypatch):
    from chainer_caption.captioning.resumable import CaptionFile
    command = 'generate', '-m', confident, images, '-o', tmp_path / 'c.jsonl'
    with monkeypatch.context() as patch:
        patch.setattr(CaptionFile, 'finish', lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        call(*command, '--min-confidence', least)
    assert (tmp_path / 'c.jsonl.part').exists()
    assert f'begun with min-confidence {least}, not {least / 2}' in refused(*command, '--min-confidence', least / 2)
    assert f'begun with min-confidence {least}, not None' in refused(*command)
    assert call(*command, '--min-confidence', least)[0] == 0
    # Nor with a model whose confidence has been fitted again.
    whole = (tmp_path / 'c.jsonl').read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(CaptionFile, 'finish', lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        call(*command)
    bundle = Bundle.load(confident)
    bundle.familiarity = Familiarity(bundle.familiarity.centers, bundle.familiarity.levels, np.array([1.0, 0, 0]))
    bundle.save(tmp_path / 'other')
    assert 'begun with another model' in refused('generate', '-m', tmp_path / 'other', *command[3:])
    assert (tmp_path / 'c.jsonl').read_bytes() == whole


def test_a_model_without_confidence_skips_nothing(refused, call, demo_model, images, model_dir):
    line = refused('generate', '-m', demo_model, images, '--min-confidence', 0.5)
    assert line.startswith(f'--min-confidence 0.5: the confidence of {demo_model} has not been fitted; ')
    assert 'has not been fitted' in refused('generate', '-m', model_dir, '--dataset', model_dir.with_name('dataset'),
                                            '--min-confidence', 0.5)
    row = json.loads(call('generate', '-m', demo_model, images, '--format', 'jsonl', '--limit', 1)[1])
    assert row.keys() == {'filename', 'captions'}


@pytest.mark.parametrize('value', ['-0.1', '1.5', 'nan'])
def test_a_confidence_is_a_probability(value, refused, confident, images):
    assert 'must be from 0 to 1' in refused('generate', '-m', confident, images, f'--min-confidence={value}')


def test_an_ensemble_has_the_mean(large, trained, tmp_path):
    other = Bundle.load(trained)
    other.familiarity = Familiarity(other.familiarity.centers, other.familiarity.levels / 2, np.array([-1.0, 0, 0]))
    other.save(tmp_path / 'other')
    one, two = ([*Captioner.load(folders, images=False).caption_dataset(Dataset(large), 'test')]
                for folders in (trained, [trained, tmp_path / 'other']))
    low = 1 / (1 + np.exp(1))
    for alone, both in zip(one, two, strict=True):      # the ensemble is of the same weights twice
        assert both.confidence == pytest.approx((alone.confidence + low) / 2, abs=2e-4)
        assert both.familiarity == pytest.approx((alone.familiarity + 1) / 2, abs=2e-4)
    (tmp_path / 'other' / FAMILIARITY).unlink()
    captioner = Captioner.load([trained, tmp_path / 'other'], images=False)
    result = next(captioner.caption_dataset(Dataset(large), 'test'))
    assert result.familiarity is result.confidence is None
    with pytest.raises(InputError, match=r'the confidence of .*other has not been fitted'):
        captioner.caption_dataset(Dataset(large), 'test', min_confidence=0.1)


def test_calibrating_needs_captions(large, trained, tmp_path):
    bundle = Bundle.load(trained)
    before = bundle.familiarity
    few = Dataset(large).without(Dataset(large).images('val')[:1])
    assert not calibrate(bundle, few) and bundle.familiarity is before
    assert calibrate(bundle, Dataset(large), search=Captioner(bundle).search(width=2))
    assert not np.array_equal(bundle.familiarity.calibration, before.calibration)


# ---- The service

@pytest.fixture
def port(confident):
    with running(Captioner.load(confident)) as port:
        yield port


def test_the_service_says_it_and_skips(port, results, least):
    for path, result in zip(IMAGES[:4], results, strict=False):
        row, = ask(port, '/v1/captions', path.read_bytes())[2]
        assert (row['familiarity'], row['confidence']) == (result.familiarity, result.confidence)
        assert 'skipped' not in row and row['captions']
        status, _, (row,) = ask(port, f'/v1/captions?min_confidence={least}', path.read_bytes())
        assert status == 200 and (row['captions'] == []) == ('skipped' in row) == (result.confidence < least)
    schema = ask(port, '/openapi.json')[2]['components']['schemas']['Row']['properties']
    assert row.keys() <= schema.keys() and schema['confidence']['maximum'] == 1


def test_a_service_without_confidence_refuses_the_option(served_captioner):
    with running(served_captioner) as port:
        status, _, answer = ask(port, '/v1/captions?min_confidence=0.5', IMAGES[0].read_bytes())
        assert (status, answer) == (400, {'error': 'min_confidence: the model has no confidence'})
        assert {'familiarity', 'confidence'}.isdisjoint(ask(port, '/v1/captions', IMAGES[0].read_bytes())[2][0])

"""Captions into files: however often the run is stopped, the file is the same to the byte, and nothing else is left."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import scipy.io

from chainer_caption import Bundle, Captioner, Dataset
from chainer_caption.captioning.resumable import CaptionFile, StoredFeatures
from chainer_caption.features.extractor import Extractor
from chainer_caption.functions.bfloat16 import available
from chainer_caption.storage.journal import MAGIC, Journal

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'

pytestmark = pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')

# A process that kills itself when it adds so many lines to its journal, with half of the last one written, or at one of
# two later moments.
KILLING = '''
import os, signal, sys
from chainer_caption import cli
from chainer_caption.storage import files
from chainer_caption.storage.journal import MAGIC, Journal

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

lines = 0
def append(self, row, append=Journal.append):
    global lines
    lines += 1
    if lines == int(sys.argv[1]):
        self._file.write(b'{"of": ["images/')
        self._file.flush()
        kill()
    append(self, row)

Journal.append = append
if sys.argv[2] == 'before it has its name':
    os.replace = lambda *names: kill()
if sys.argv[2] == 'when it has its name':
    Journal.remove = lambda self: kill()
sys.exit(cli.run('generate', sys.argv[3:], 'generate.py'))
'''


@pytest.fixture
def images(tmp_path):
    """40 images, a broken one in each batch of 16."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for path in sorted(UNSEEN.glob('*.png'))[:40]:
        shutil.copy(path, folder)
    for name in ('05.png', '20.png', '40.png'):
        (folder / name).write_bytes((folder / name).read_bytes()[:90])
    return folder


@pytest.fixture
def generate(call, demo_model, images, tmp_path):
    """Captions the images: (exit status, stdout, stderr)."""
    def run(output, *options, model=demo_model):
        return call('generate', '-m', model, images, '-o', tmp_path / output, '--beam-width', 4, *options)
    return run


@contextlib.contextmanager
def stopping(at):
    """Stops runs in this process, as Ctrl-C does, when they have added so many images to their journal."""
    appended = []

    def append(self, row, append=Journal.append):
        if 'of' in row:
            if len(appended) == at:
                raise KeyboardInterrupt
            appended.append(row)
        append(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, 'append', append)
        yield


def test_killed_again_and_again(generate, demo_model, images, package_environment, tmp_path):
    assert generate('expected.jsonl')[0] == 1
    for line, moment in ((1, ''), (8, ''), (38, ''), (0, 'before it has its name'), (0, 'when it has its name')):
        done = subprocess.run(
            [sys.executable, '-c', KILLING, str(line), moment, '-m', demo_model, images, '-o', 'captions.jsonl',
             '--beam-width', '4'], cwd=tmp_path, env=package_environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (tmp_path / 'captions.jsonl.part').exists()
        assert (tmp_path / 'captions.jsonl').exists() == (moment == 'when it has its name')
    status, out, err = generate('captions.jsonl')
    assert (status, out, err.count('\n')) == (1, '', 3)
    assert (tmp_path / 'captions.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()
    assert sorted(os.listdir(tmp_path)) == ['captions.jsonl', 'expected.jsonl', 'images'], 'nothing is left'


def test_captions_that_are_drawn_go_on(call, demo_model, images, package_environment, tmp_path):
    sampled = '--sample', '--top-p', '0.9', '--seed', '3'
    assert call('generate', '-m', demo_model, images, '-o', tmp_path / 'expected.jsonl', *sampled)[0] == 1
    for line in (8, 25):
        done = subprocess.run(
            [sys.executable, '-c', KILLING, str(line), '', '-m', demo_model, images, '-o', 'c.jsonl', *sampled],
            cwd=tmp_path, env=package_environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    refusal = call('generate', '-m', demo_model, images, '-o', tmp_path / 'c.jsonl', *sampled[:-1], '4')[2]
    assert 'begun with seed 3, not 4; ' in refusal
    assert 'begun with search Sampling, not BeamSearch; ' in call('generate', '-m', demo_model, images, '-o',
                                                                  tmp_path / 'c.jsonl')[2]
    assert call('generate', '-m', demo_model, images, '-o', tmp_path / 'c.jsonl', *sampled)[0] == 1
    assert (tmp_path / 'c.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()


@pytest.mark.parametrize('name', ['c.txt', 'c.jsonl', 'c.csv', 'c.html'])
def test_every_format_goes_on(name, generate, tmp_path):
    generate(f'expected-{name}')
    for at in (30, 2, 5):                               # the second and third begin after what the first had done
        with stopping(at):
            assert generate(name)[0] == 128 + signal.SIGINT
        assert not (tmp_path / name).exists()
    status, _, err = generate(name)
    assert status == 1 and [line.split(': ')[0][-6:] for line in err.splitlines()] == ['05.png', '20.png', '40.png']
    assert (tmp_path / name).read_bytes() == (tmp_path / f'expected-{name}').read_bytes()


def test_nothing_is_computed_twice(generate, monkeypatch):
    prepared = []

    def prepare(self, path, prepare=Extractor.prepare):
        prepared.append(os.path.basename(path))
        return prepare(self, path)
    with stopping(39):
        generate('c.jsonl')
    monkeypatch.setattr(Extractor, 'prepare', prepare)
    generate('c.jsonl')
    # 39 were done; what was begun of the last batch is begun again.
    assert sorted(prepared) == [f'{i:02}.png' for i in range(33, 41)]


def test_a_finished_file_is_kept_until_the_new_one_is_whole(generate, tmp_path):
    generate('c.csv', '--top', 1)
    before = (tmp_path / 'c.csv').read_bytes()
    with stopping(20):
        generate('c.csv', '--top', 2)
    assert (tmp_path / 'c.csv').read_bytes() == before
    generate('c.csv', '--top', 2)
    generate('expected.csv', '--top', 2)
    assert (tmp_path / 'c.csv').read_bytes() == (tmp_path / 'expected.csv').read_bytes() != before


def test_other_settings_are_refused(generate, demo_model, tmp_path):
    other = Bundle.load(demo_model)
    other.model.out_word.W.array[0, 0] += 1
    other.save(tmp_path / 'other')
    with stopping(20):
        generate('c.jsonl')
    before = (tmp_path / 'c.jsonl.part').read_bytes()
    for options, what in ((['--top', 3], 'top 4, not 3'), (['--allow-unk'], 'allow-unk False, not True'),
                          (['--no-exif'], 'EXIF True, not False'),
                          (['--max-pixels', 9], 'max-pixels 120000000, not 9'),
                          *([(['--precision', 'bf16'], 'device numpy, not numpy, bf16')] if available() else [])):
        status, out, err = generate('c.jsonl', *options)
        assert (status, out) == (2, '') and err.count('\n') == 1
        assert err.startswith(f'generate.py: {tmp_path}/c.jsonl.part: begun with {what}; ') and 'delete it' in err
    assert 'begun with another model' in generate('c.jsonl', model=tmp_path / 'other')[2]
    assert 'begun with another model' in generate('c.jsonl', '-m', tmp_path / 'other')[2]
    assert (tmp_path / 'c.jsonl.part').read_bytes() == before
    (tmp_path / 'c.jsonl.part').unlink()
    assert generate('c.jsonl', '--top', 3)[0] == 1


@pytest.mark.parametrize('change', [
    lambda folder: shutil.copy(folder / '01.png', folder / '99.png'),
    lambda folder: shutil.copy(folder / '01.png', folder / '00.png'),
    lambda folder: shutil.copy(folder / '01.png', folder / '20.png'),
    lambda folder: [path.unlink() for path in folder.glob('[34]?.png')],
], ids=['one more at the end', 'one more at the beginning', 'one mended', 'some gone'])
def test_a_changed_folder(change, generate, images, tmp_path):
    with stopping(38):
        generate('c.jsonl')
    change(images)
    generate('c.jsonl')
    generate('expected.jsonl')
    assert (tmp_path / 'c.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()


def test_a_run_without_results_may_get_other_settings(generate, tmp_path):
    assert generate('c.jsonl', '--top', 9)[0] == 2
    assert not list(tmp_path.glob('c.jsonl*'))
    with stopping(0):
        generate('c.jsonl', '--top', 1)
    assert generate('c.jsonl', '--top', 2)[0] == 1


def test_what_cannot_be_written(generate, tmp_path):
    with Journal(tmp_path / 'c.txt.part', {'model': 1}):
        assert 'another run is writing it' in generate('c.txt')[2]
    for notes in ('my notes\n', 'no end of line', '{"a": 1}', '{"a": 1}\n', '{"a": 1}\n{"b": 2}\n', '\0' * 5000):
        (tmp_path / 'd.txt.part').write_text(notes)
        status, _, err = generate('d.txt')
        assert status == 2 and err.startswith(f'generate.py: {tmp_path}/d.txt.part: ') and err.count('\n') == 1
        assert (tmp_path / 'd.txt.part').read_text() == notes, 'what another program wrote is never overwritten'
    (tmp_path / 'folder').mkdir()
    assert 'is a folder' in generate('folder')[2]
    assert 'cannot be written' in generate('nowhere/c.txt')[2]


def test_ctrl_c_tells_how_much_is_done(generate):
    with stopping(20):
        status, _, err = generate('c.jsonl')
    assert status == 130 and err.endswith('\n\ngenerate.py: 20 of 40 images done; the same command continues\n')


def test_a_limit_can_be_raised_later(generate, tmp_path):
    assert generate('c.jsonl', '--limit', 3)[0] == 0
    assert (tmp_path / 'c.jsonl').read_text().count('\n') == 3
    with stopping(20):
        generate('c.jsonl', '--limit', 32)
    generate('c.jsonl')
    generate('expected.jsonl')
    assert (tmp_path / 'c.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()


def test_a_journal_of_an_earlier_version_goes_on(tmp_path):
    path = tmp_path / 'journal'
    with Journal(path, {'a': 1}) as journal:
        journal.append({'row': 0})
    path.write_bytes(path.read_bytes().removeprefix(MAGIC))
    with Journal(path, {'a': 1}) as journal:
        assert list(journal.rows()) == [{'row': 0}]
        journal.cut(1)
        journal.append({'row': 1})
        assert list(journal.rows()) == [{'row': 0}, {'row': 1}]


# Stored features, of which 512 are searched together

@pytest.fixture
def dataset(make_dataset):
    return make_dataset(images=1240, splits=['test', 'val'])


@pytest.fixture
def generate_stored(call, model_dir, dataset, tmp_path):
    """Captions the 620 images of a split: (exit status, stdout, stderr)."""
    def run(output, *options):
        return call('generate', '-m', model_dir, '--dataset', dataset, '-o', tmp_path / output, '--beam-width', 2,
                    *options)
    return run


def test_stored_features_killed(generate_stored, model_dir, dataset, package_environment, tmp_path):
    assert generate_stored('expected.jsonl') == (0, '', '')
    for line, moment in ((1, ''), (300, ''), (600, ''), (0, 'before it has its name'), (0, 'when it has its name')):
        done = subprocess.run(
            [sys.executable, '-c', KILLING, str(line), moment, '-m', model_dir, '--dataset', dataset, '-o', 'c.jsonl',
             '--beam-width', '2'], cwd=tmp_path, env=package_environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (tmp_path / 'c.jsonl.part').exists()
        assert (tmp_path / 'c.jsonl').exists() == (moment == 'when it has its name')
    assert generate_stored('c.jsonl') == (0, '', '')
    assert (tmp_path / 'c.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()
    assert not (tmp_path / 'c.jsonl.part').exists()


@pytest.mark.parametrize('name', ['c.txt', 'c.csv', 'c.html'])
def test_stored_features_go_on_in_every_format(name, generate_stored, model_dir, dataset, tmp_path):
    (tmp_path / name).write_text('old')
    with stopping(550):
        assert generate_stored(name)[0] == 128 + signal.SIGINT
    assert (tmp_path / name).read_text() == 'old'
    captioner = Captioner.load(model_dir, images=False)
    with CaptionFile(StoredFeatures(captioner, Dataset(dataset), 'test'), tmp_path / name,
                     captioner.search(width=2)) as captions:
        assert captions.done == 512
    assert generate_stored(name) == (0, '', '')
    generate_stored(f'expected-{name}')
    assert (tmp_path / name).read_bytes() == (tmp_path / f'expected-{name}').read_bytes()


def test_other_stored_features(generate_stored, call, demo_model, dataset, images, tmp_path):
    with stopping(550):
        generate_stored('c.jsonl')
    before = (tmp_path / 'c.jsonl.part').read_bytes()
    assert 'begun with split test, not val; ' in generate_stored('c.jsonl', '--split', 'val')[2]
    assert 'begun with another ' in call('generate', '-m', demo_model, images, '-o', tmp_path / 'c.jsonl')[2]
    feats = scipy.io.loadmat(dataset / 'vgg_feats.mat')['feats']
    scipy.io.savemat(dataset / 'vgg_feats.mat', {'feats': feats[:, ::-1]})
    assert 'begun with another feature matrix; ' in generate_stored('c.jsonl')[2]
    assert (tmp_path / 'c.jsonl.part').read_bytes() == before


def test_stored_features_of_other_images(generate_stored, dataset, tmp_path):
    with stopping(550):
        generate_stored('c.jsonl')
    text = (dataset / 'dataset.json').read_text()
    (dataset / 'dataset.json').write_text(text.replace('"filename": "0006.png"', '"filename": "new.png"'))
    generate_stored('c.jsonl')
    generate_stored('expected.jsonl')
    assert 'new.png' in (tmp_path / 'c.jsonl').read_text()
    assert (tmp_path / 'c.jsonl').read_bytes() == (tmp_path / 'expected.jsonl').read_bytes()


def test_a_refusal_leaves_no_journal(call, make_dataset, model_dir, tmp_path):
    assert call('generate', '-m', model_dir, '--dataset', make_dataset(dim=17), '-o', tmp_path / 'c.jsonl')[0] == 2
    assert not list(tmp_path.glob('c.jsonl*'))


def test_a_pipe_takes_what_comes(generate, demo_model, images, package_environment, tmp_path):
    done = subprocess.run([sys.executable, '-c', 'from chainer_caption import cli; cli.main()', 'generate',
                           '-m', demo_model, images, '-o', '/dev/stdout', '--beam-width', '4'],
                          cwd=tmp_path, env=package_environment, capture_output=True, check=False)
    generate('expected.txt')
    assert done.stdout == (tmp_path / 'expected.txt').read_bytes()


def test_a_journal_that_lost_its_end(tmp_path):
    path = tmp_path / 'journal'
    with Journal(path, {'a': 1}) as journal:
        for i in range(5):
            journal.append({'row': i})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length] + b'\0' * 7 * (length % 2))
        with Journal(path, {'a': 1}) as journal:
            rows = list(journal.rows())
            assert rows == [{'row': i} for i in range(max(0, whole[:length].count(b'\n') - 2))]
            journal.cut(len(rows))
            journal.append({'row': 'new'})
            assert list(journal.rows()) == [*rows, {'row': 'new'}]

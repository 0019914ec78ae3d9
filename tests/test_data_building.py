"""extract_features: a folder becomes a dataset that training and captioning take, however often it was stopped."""
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from chainer_caption import Dataset, InputError
from chainer_caption.data import building
from chainer_caption.data.building import Splitting, extract_features
from chainer_caption.data.tokenization import tokenize_words
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_by_name, find_images
from chainer_caption.features.images import ImageError
from chainer_caption.storage.journal import stamp

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'
MADE = {'feats.npy', 'feats.npy.json', 'dataset.json'}

KILLING = '''
import os, signal, sys
from chainer_caption import cli
from chainer_caption.data import building
from chainer_caption.storage.journal import Journal

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def killing(function, calls):
    left = [calls]
    def call(*args, **kwargs):
        left[0] -= 1
        return function(*args, **kwargs) if left[0] >= 0 else kill()
    return call

calls = int(sys.argv[2])
if sys.argv[1] == 'Journal.append':
    Journal.append = killing(Journal.append, calls)
elif sys.argv[1] == 'Journal.remove':
    Journal.remove = killing(Journal.remove, calls)
else:
    setattr(building, sys.argv[1], killing(getattr(building, sys.argv[1]), calls))
sys.exit(cli.run('extract_features', sys.argv[3:], 'extract_features.py'))
'''


class FakeExtractor:
    """Stands for an encoder; the company that an image is computed in leaves its mark on its features."""
    dim = 8
    identity = {'encoder': 'fake', 'preprocessing': 'fake', 'weights': None}      # noqa: RUF012

    def __init__(self):
        self.prepared = []

    def prepare(self, path):
        self.prepared.append(path)
        if os.path.getsize(path) == 0:
            raise ImageError(path, 'the file is empty')
        return np.full((3, 2, 2), float(pathlib.Path(path).stem), np.float32)

    def __call__(self, batch):
        return np.repeat(np.stack(batch)[:, 0, 0, :1], self.dim, axis=1) + np.float32(len(batch) / 64)


@pytest.fixture
def folder(tmp_path):
    """40 files, those of 7 and 23 empty, in two folders."""
    for i in range(40):
        path = tmp_path / 'images' / ('a' if i < 20 else 'b') / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'' if i in (7, 23) else b'image')
    return tmp_path / 'images'


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(dataset):
    return json.loads((dataset / 'dataset.json').read_text(encoding='utf-8'))['images']


# Features

@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_a_folder_becomes_a_dataset(dtype, folder, tmp_path):
    reported, steps = {}, []
    failed = extract_features(folder, tmp_path / 'dataset', FakeExtractor(), dtype=dtype, report=reported.__setitem__,
                              progress=lambda *step: steps.append(step))
    assert failed == reported == {'a/7.png': 'the file is empty', 'b/23.png': 'the file is empty'}
    assert steps == [(0, 40), (16, 40), (32, 40), (40, 40)]
    assert files_of(tmp_path / 'dataset').keys() == MADE
    dataset = Dataset(tmp_path / 'dataset')
    assert dataset.features.dtype == dtype and dataset.features.shape == (40, 8)
    assert dataset.provenance == {'encoder': 'fake', 'preprocessing': 'fake'}
    names = sorted(f'{"a" if i < 20 else "b"}/{i}.png' for i in range(40))
    assert dataset.captions.filenames == [name for name in names if name not in failed]
    for name, row in zip(dataset.captions.filenames, dataset.captions.image_ids, strict=True):
        assert names[row] == name
        assert int(dataset.features[row, 0]) == int(pathlib.Path(name).stem)
    assert not dataset.features[names.index('a/7.png')].any()
    with pytest.raises(InputError, match='no image has a caption'):
        dataset.sentences('train')


def test_stopped_and_taken_up(folder, tmp_path):
    class Stopping(FakeExtractor):
        def __call__(self, batch):
            if len(self.prepared) > 33:
                raise KeyboardInterrupt
            return super().__call__(batch)

    extract_features(folder, tmp_path / 'expected', FakeExtractor())
    with pytest.raises(KeyboardInterrupt):
        extract_features(folder, tmp_path / 'dataset', Stopping())
    assert not (tmp_path / 'dataset' / 'dataset.json').exists()
    done = (tmp_path / 'dataset' / 'feats.npy.part.jsonl').read_bytes().count(b'\n') - 3      # three without rows
    reported, extractor, steps = {}, FakeExtractor(), []
    extract_features(folder, tmp_path / 'dataset', extractor, report=reported.__setitem__,
                     progress=lambda *step: steps.append(step))
    assert len(extractor.prepared) == 40 - 16 * done and steps[0] == (16 * done, 40)
    assert reported.keys() == {'a/7.png', 'b/23.png'}, 'those of the first run, too'
    made, expected = files_of(tmp_path / 'dataset'), files_of(tmp_path / 'expected')
    assert made['feats.npy'] == expected['feats.npy'] and made['feats.npy.json'] == expected['feats.npy.json']


@pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')
def test_killed_again_and_again(call, package_environment, tmp_path):
    shutil.copytree(UNSEEN, tmp_path / 'unseen')
    (tmp_path / 'unseen' / '20.png').write_text('no image')
    arguments = 'unseen', '-o', 'made/dataset', '--encoder', 'demo'
    for where, calls in (('_create', 0), ('Journal.append', 2), ('compute_batch', 0), ('Journal.remove', 0)):
        done = subprocess.run([sys.executable, '-c', KILLING, where, str(calls), *arguments], cwd=tmp_path,
                              env=package_environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    os.chdir(tmp_path)
    assert call('extract_features', *arguments)[0] == 1
    status, out, err = call('extract_features', 'unseen', '-o', 'expected/dataset', '--encoder', 'demo')
    assert (status, out, err.count('\n')) == (1, '', 1) and err.startswith('20.png: ')
    assert files_of(tmp_path / 'made/dataset') == files_of(tmp_path / 'expected/dataset')
    assert files_of(tmp_path / 'made/dataset').keys() == MADE
    extractor = Extractor.load('demo')
    dataset = Dataset('made/dataset')
    features = extractor(np.stack([extractor.prepare(UNSEEN / name) for name in dataset.captions.filenames]))
    np.testing.assert_allclose(dataset.features[dataset.captions.image_ids], features, atol=1e-5)


def test_a_finished_dataset_is_not_made_again(folder, tmp_path):
    extract_features(folder, tmp_path / 'dataset', FakeExtractor())
    before, extractor, reported = files_of(tmp_path / 'dataset'), FakeExtractor(), {}
    extract_features(folder, tmp_path / 'dataset', extractor, report=reported.__setitem__)
    assert files_of(tmp_path / 'dataset') == before and not extractor.prepared and len(reported) == 2


def change(folder, number, content=b'another image'):
    """Changes the image of this number."""
    path = folder / ('a' if number < 20 else 'b') / f'{number}.png'
    path.write_bytes(content)
    os.utime(path, ns=(0, number))                      # whatever the resolution of the clock


class ChangedExtractor(FakeExtractor):
    """Tells changed images from others; the features of an image do not depend on the others of its batch."""

    def __call__(self, batch):
        return super().__call__(batch) - np.float32(len(batch) / 64)

    def prepare(self, path):
        return super().prepare(path) + np.float32(1000 * (pathlib.Path(path).read_bytes() == b'another image'))


class Stopping(ChangedExtractor):
    """Stops the run at a batch."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def __call__(self, batch):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().__call__(batch)


def test_images_that_change_while_a_run_is_stopped(folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract_features(folder, tmp_path / 'dataset', Stopping(3))
    change(folder, 23)                                  # of the second batch; it could not be read
    extractor, reported = ChangedExtractor(), {}
    extract_features(folder, tmp_path / 'dataset', extractor, report=reported.__setitem__)
    assert len(extractor.prepared) == 8 + 1 and reported.keys() == {'a/7.png'}
    extract_features(folder, tmp_path / 'expected', ChangedExtractor())
    made, expected = files_of(tmp_path / 'dataset'), files_of(tmp_path / 'expected')
    assert all(made[name] == expected[name] for name in ('feats.npy', 'feats.npy.json'))


def test_images_that_change_back(folder, tmp_path):
    contents = b'image', b'another image', b'image'
    for at, content in zip((2, 2, 3), contents, strict=True):
        change(folder, 3, content)                      # of the first batch
        with pytest.raises(KeyboardInterrupt):
            extract_features(folder, tmp_path / 'dataset', Stopping(at))
    extract_features(folder, tmp_path / 'dataset', ChangedExtractor())
    extract_features(folder, tmp_path / 'expected', ChangedExtractor())
    assert files_of(tmp_path / 'dataset')['feats.npy'] == files_of(tmp_path / 'expected')['feats.npy']


@pytest.mark.parametrize(('stopped_at', 'left'), [(None, 2), (1, 2)])
def test_images_that_change_when_all_is_done(stopped_at, left, folder, tmp_path):
    said, reported, dataset = [], {}, tmp_path / 'dataset'
    extract_features(folder, dataset, ChangedExtractor())
    before = files_of(dataset)
    change(folder, 3, b'')                              # of the first batch
    change(folder, 23)
    if stopped_at is not None:
        with pytest.raises(KeyboardInterrupt):
            extract_features(folder, dataset, Stopping(stopped_at), say=said.append)
        assert all(files_of(dataset)[name] == before[name] for name in MADE), 'the old one stays until then'
    extractor = ChangedExtractor()
    extract_features(folder, dataset, extractor, report=reported.__setitem__, say=said.append)
    assert said == [f'{dataset}: 38 of 40 images are there already; 2 are new or have changed']
    assert len(extractor.prepared) == (left if stopped_at is None else 1) and reported.keys() == {'a/3.png', 'a/7.png'}
    extract_features(folder, tmp_path / 'expected', ChangedExtractor())
    made, expected = files_of(dataset), files_of(tmp_path / 'expected')
    assert made.keys() == MADE and made['feats.npy'] == expected['feats.npy'] != before['feats.npy']
    assert made['feats.npy.json'] == expected['feats.npy.json']
    assert 'b/23.png' in {image['filename'] for image in images_of(dataset)}
    again = ChangedExtractor()
    extract_features(folder, dataset, again)
    assert not again.prepared


def add(folder, *numbers):
    """Adds images, which sort before, among and behind the others."""
    for number in numbers:
        (folder / f'{"a" if number % 2 else "c"}').mkdir(exist_ok=True)
        (folder / f'{"a" if number % 2 else "c"}' / f'{number}.png').write_bytes(b'image')


@pytest.mark.parametrize('stopped_at', [None, 1, 2, 3])
def test_only_new_images_are_computed(stopped_at, folder, tmp_path):
    dataset = tmp_path / 'dataset'
    if stopped_at is None:
        extract_features(folder, dataset, ChangedExtractor())
        before = files_of(dataset)
    else:
        with pytest.raises(KeyboardInterrupt):
            extract_features(folder, dataset, Stopping(stopped_at))
    done = 40 if stopped_at is None else 16 * (stopped_at - 1)
    add(folder, 101, 102)
    (folder / 'a' / '19.png').unlink()                  # of the first batch, as 101.png
    gone = done > 0
    with pytest.raises(KeyboardInterrupt):
        extract_features(folder, dataset, Stopping(2))
    if stopped_at is None:
        assert all(files_of(dataset)[name] == before[name] for name in MADE), 'the old one stays until then'
    extractor, reported = ChangedExtractor(), {}
    extract_features(folder, dataset, extractor, report=reported.__setitem__)
    assert reported.keys() == {'a/7.png', 'b/23.png'} and files_of(dataset).keys() == MADE
    if stopped_at in (None, 3):
        new = {'a/101.png', 'c/102.png'} if stopped_at is None else {'a/101.png', 'c/102.png', *(
            name for name in sorted(f'b/{i}.png' for i in range(20, 40))[12:])}
        computed = {os.path.relpath(path, folder) for path in extractor.prepared}
        assert computed == new - {'a/101.png'}, 'the first new one was done before the second stop'
    extract_features(folder, tmp_path / 'expected', ChangedExtractor())
    made, expected = files_of(dataset), files_of(tmp_path / 'expected')
    assert all(made[name] == expected[name] for name in ('feats.npy', 'feats.npy.json')) and gone == (done > 0)
    add(folder, 104)
    extractor = ChangedExtractor()
    extract_features(folder, dataset, extractor)
    assert [os.path.relpath(path, folder) for path in extractor.prepared] == ['c/104.png']
    assert Dataset(dataset).features.shape == (42, 8)


def test_stopped_anywhere_after_a_change(folder, tmp_path, monkeypatch):
    """An exception before each step that writes, of a run in a finished dataset whose images have changed."""
    dataset, left = tmp_path / 'dataset', [0]
    extract_features(folder, dataset, ChangedExtractor())
    shutil.copytree(dataset, tmp_path / 'finished')
    add(folder, 101, 102)
    change(folder, 3)
    extract_features(folder, tmp_path / 'expected', ChangedExtractor())

    def stopping(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return function(*args, **kwargs)
        return call

    for owner, name in ((building.os, 'replace'), (building.os, 'fsync'), (building.Journal, 'append'),
                        (building.Journal, 'remove'), (building, 'write_json'), (pathlib.Path, 'unlink')):
        monkeypatch.setattr(owner, name, stopping(getattr(owner, name)))
    for at in itertools.count(1):
        shutil.rmtree(dataset)
        shutil.copytree(tmp_path / 'finished', dataset)
        left[0], stopped = at, False
        try:
            extract_features(folder, dataset, ChangedExtractor())
        except KeyboardInterrupt:
            stopped = True
        left[0] = 0
        add(folder, 104)
        extractor = ChangedExtractor()
        extract_features(folder, dataset, extractor)    # with yet another image
        assert len(extractor.prepared) <= 4
        (folder / 'c' / '104.png').unlink()
        extract_features(folder, dataset, ChangedExtractor())
        made, expected = files_of(dataset), files_of(tmp_path / 'expected')
        assert made.keys() == MADE and all(made[name] == expected[name] for name in ('feats.npy', 'feats.npy.json')), at
        if not stopped:
            break
    assert at > 10


def of_version_1(dataset, folder, stamps=True):
    """Changes the record of a dataset to that of version 1.0.0."""
    record = dataset / 'feats.npy.json'
    content = json.loads(record.read_text())
    paths = find_images(folder)
    del content['stamps']
    content['list of pictures'] = building._digest([os.path.relpath(path, folder) for path in paths])
    if stamps:
        content['stamps'] = [building._digest(list(map(stamp, paths[i:i + 16])))[:16] for i in range(0, len(paths), 16)]
    record.write_text(json.dumps(content))


@pytest.mark.parametrize('stamps', [False, True])
def test_a_dataset_of_version_1(stamps, folder, tmp_path):
    dataset = tmp_path / 'dataset'
    extract_features(folder, dataset, ChangedExtractor())
    of_version_1(dataset, folder, stamps)
    extractor, before = ChangedExtractor(), files_of(dataset)
    assert extract_features(folder, dataset, extractor).keys() == {'a/7.png', 'b/23.png'}
    assert not extractor.prepared and files_of(dataset) == before
    if stamps:
        change(folder, 3)
        extract_features(folder, dataset, extractor)
        assert len(extractor.prepared) == 16, 'one stamp for each batch'
        extract_features(folder, tmp_path / 'expected', ChangedExtractor())
        assert files_of(dataset)['feats.npy'] == files_of(tmp_path / 'expected')['feats.npy']
        of_version_1(dataset, folder)
    add(folder, 101)
    with pytest.raises(InputError, match='another list of images'):
        extract_features(folder, dataset, ChangedExtractor())


def test_what_does_not_belong_together_is_refused(folder, tmp_path, make_dataset):
    def refusal(output, extractor=None, **kwargs):
        before = files_of(output)
        with pytest.raises(InputError) as caught:
            extract_features(folder, output, extractor or FakeExtractor(), **kwargs)
        assert files_of(output) == before
        return str(caught.value)

    class Stopping(FakeExtractor):
        def prepare(self, path):
            if '/b/' in path:
                raise KeyboardInterrupt
            return super().prepare(path)

    class Other(FakeExtractor):
        identity = {**FakeExtractor.identity, 'preprocessing': 'other', 'weights': 'a' * 64}      # noqa: RUF012

    with pytest.raises(KeyboardInterrupt):
        extract_features(folder, tmp_path / 'begun', Stopping())
    extract_features(folder, tmp_path / 'done', FakeExtractor())
    for output in (tmp_path / 'begun', tmp_path / 'done'):
        assert 'dtype float32, not float16' in refusal(output, dtype='float16')
        assert 'preprocessing fake, not other' in refusal(output, Other())
    assert 'has a dataset.json that this command did not write' in refusal(make_dataset())
    for wrong, reason in ((tmp_path / 'none', 'no such folder'), (tmp_path / 'done', 'no images in there')):
        with pytest.raises(InputError, match=reason):
            extract_features(wrong, tmp_path / 'new', FakeExtractor())
    assert not (tmp_path / 'new').exists()


# Captions

def test_tokens_are_karpathys(shared):
    data = json.loads((shared / 'flickr8k' / 'dataset.json').read_text(encoding='utf-8'))
    for image in data['images'][::8]:
        for sentence in image['sentences']:
            assert tokenize_words(sentence['raw']) == sentence['tokens']


@pytest.mark.parametrize('caption, tokens', [
    ('A dog, running: fast!', 'a dog running fast'), ("The man's X-ray (2 of 3)", 'the man s x ray 2 of 3'),
    ('snake_case … „Größe“', 'snake case größe'), ('Một người đàn ông', 'một người đàn ông'),
    ('Mo\u0323\u0302t', 'm\u1ed9t'), ('एक कुत्ता दौड़ता है।', 'एक कुत्ता दौड़ता है'),
    ('می\u200cدود', 'می\u200cدود'), ('一只 狗。', '一只 狗'), ('?!', ''), ('', '')])
def test_tokens_of_other_alphabets(caption, tokens):
    assert tokenize_words(caption) == tokens.split()


def write_csv(path, rows, header='filename,caption'):
    path.write_text('\n'.join([header, *rows, '']), encoding='utf-8-sig')
    return path


def test_captions_in_csv(folder, tmp_path):
    said = []
    rows = [f'{i}.png,"An image, number {i}."' for i in range(30)] + ['3.png,"Again, number 3"', 'none.png,"?"']
    captions = write_csv(tmp_path / 'c.csv', rows)
    extract_features(folder, tmp_path / 'dataset', FakeExtractor(), captions, say=said.append)
    images = images_of(tmp_path / 'dataset')
    assert len(images) == 28 and len(said) == 2
    assert '1 of the 31 images it names are not in the folder' in said[0] and said[0].endswith('none.png')
    assert '10 images of the folder have no captions' in said[1]
    image = next(image for image in images if image['filename'] == 'a/3.png')
    assert [s['tokens'] for s in image['sentences']] == [['an', 'image', 'number', '3'], ['again', 'number', '3']]
    assert image['sentences'][0]['raw'] == 'An image, number 3.'
    assert image['sentids'] == [s['sentid'] for s in image['sentences']]
    assert {image['split'] for image in images} == {'train', 'val', 'test'}
    assert sum(image['split'] == 'val' for image in images) in (2, 3)
    counts, number = Dataset(tmp_path / 'dataset').word_counts('train', 'val', 'test')
    assert counts['number'] == number == 29


def test_captions_can_come_later(folder, tmp_path):
    extract_features(folder, tmp_path / 'dataset', FakeExtractor())
    extractor, captions = FakeExtractor(), write_csv(tmp_path / 'c.csv', ['1.png,one', '2.png,two', '7.png,empty'])
    extract_features(folder, tmp_path / 'dataset', extractor, captions, splitting=Splitting(val=0, test=0))
    assert not extractor.prepared
    assert [(image['filename'], image['split']) for image in images_of(tmp_path / 'dataset')] == \
        [('a/1.png', 'train'), ('a/2.png', 'train')]
    assert Dataset(tmp_path / 'dataset').references(1) == [['two']]


def test_splits_are_given_or_seeded(folder, tmp_path):
    def splits(rows, header='filename,caption', **kwargs):
        captions = write_csv(tmp_path / 'c.csv', rows, header)
        extract_features(folder, tmp_path / 'dataset', FakeExtractor(), captions, **kwargs)
        return [image['split'] for image in images_of(tmp_path / 'dataset')]

    assert splits(['1.png,one,test', '2.png,two,restval', '2.png,too,restval'], 'filename,caption,split') == \
        ['test', 'restval']
    rows = [f'{i}.png,x' for i in range(40)]
    assert splits(rows) == splits(rows) == splits(rows[::-1])
    assert splits(rows, splitting=Splitting(1)) != splits(rows)
    found = splits(rows, splitting=Splitting(2, 0.5, 0.25))
    assert 18 <= found.count('val') <= 20 and 8 <= found.count('test') <= 10
    assert Splitting(0, 0.5, 0.5).split(3).count('train') == 0
    for wrong in ({'seed': -1}, {'val': -0.1}, {'val': 0.6, 'test': 0.6}):
        with pytest.raises(InputError):
            Splitting(**wrong)


def test_captions_in_cocos_json(folder, tmp_path):
    captions = tmp_path / 'captions.json'
    captions.write_text(json.dumps({
        'info': {}, 'images': [{'id': 900 + i, 'file_name': f'{i}.png', 'width': 1} for i in range(5)],
        'annotations': [{'id': i, 'image_id': 900 + i % 4, 'caption': f'Caption {i}.'} for i in range(8)]}))
    extract_features(folder, tmp_path / 'dataset', FakeExtractor(), captions)
    dataset = Dataset(tmp_path / 'dataset')
    assert dataset.captions.coco_ids.tolist() == [900, 901, 902, 903]
    assert [s['raw'] for s in images_of(tmp_path / 'dataset')[1]['sentences']] == ['Caption 1.', 'Caption 5.']


def test_captions_of_other_images(folder, tmp_path):
    captions = write_csv(tmp_path / 'c.csv', ['x.png,x'])
    with pytest.raises(InputError, match=r'c\.csv: describes no image of the folder; the first it names is x\.png'):
        extract_features(folder, tmp_path / 'dataset', FakeExtractor(), captions)
    assert not (tmp_path / 'dataset').exists()


def test_names_find_their_images():
    names = ['cats/1.jpg', 'cats/2.jpg', 'dogs/2.jpg', '3.jpg', 'deep/er/4.jpg']
    assert find_by_name(['./cats/1.jpg', '2.jpg', 'val/3.jpg', 'er/4.jpg', 'r/4.jpg', 'birds/2.jpg'], names) == {
        './cats/1.jpg': 'cats/1.jpg', 'val/3.jpg': '3.jpg', 'er/4.jpg': 'deep/er/4.jpg'}
    assert find_by_name(['1.jpg', 'cats/1.jpg'], names) == {'cats/1.jpg': 'cats/1.jpg'}
    assert find_by_name(['a/3.jpg', 'b/3.jpg'], names) == {}


# The command

@pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')
def test_from_ones_own_images_to_captions(call, demo_model, tmp_path):
    captions = write_csv(tmp_path / 'c.csv', [f'{i:02}.png,A {c} thing' for i in range(1, 49) for c in ('red', 'big')])
    dataset, model = tmp_path / 'dataset', tmp_path / 'model'
    assert call('extract_features', UNSEEN, '-o', dataset, '--encoder', 'demo', '--val', 0.2) == (2, '', (
        'extract_features.py: --split-seed, --val and --test belong to --captions\n'))
    assert call('extract_features', UNSEEN, '-o', dataset, '--encoder', 'demo') == (0, '', '')
    status, out, _ = call('generate', '-m', demo_model, '--dataset', dataset, '--top', 1)
    assert status == 0 and out.count('# ') == 48
    status, _, err = call('train', dataset, '-o', model, '--epochs', 1)
    assert status == 2 and err.endswith('dataset.json: no image has a caption, so there is nothing to learn from\n')
    assert call('extract_features', UNSEEN, '-o', dataset, '--encoder', 'demo', '--captions', captions) == (0, '', '')
    assert call('train', dataset, '-o', model, '--epochs', 1, '--hidden', 8)[0] == 0
    assert json.loads((model / 'config.json').read_text())['features'] == {'encoder': 'demo', 'preprocessing': 'demo'}
    assert call('generate', '-m', model, UNSEEN / '01.png', '--top', 1)[0] == 0

"""Datasets: what they hold, what the cache keeps of them, and what is refused."""
import json
import os
import shutil
import time

import numpy as np
import pytest
import scipy.io

import chainer_caption.data.captions
from chainer_caption import Dataset, InputError
from chainer_caption.data import record_provenance
from chainer_caption.data.captions import read_captions
from chainer_caption.storage.cache import cache_folder

VIETNAMESE = ['một', 'người', 'đàn', 'ông', 'ệ']


def image(imgid=0, split='train', sentences=(('a', 'dog'),), **more):
    return {'filename': f'{imgid}.jpg', 'imgid': imgid, 'split': split,
            'sentences': [{'tokens': list(tokens), 'raw': ' '.join(tokens)} for tokens in sentences], **more}


def write(folder, images, rows=None, **more):
    """A dataset of just these images; row i of the features is i, i, i."""
    folder.mkdir(exist_ok=True)
    (folder / 'dataset.json').write_text(json.dumps({'images': images, **more}), encoding='utf-8')
    rows = 1 + max(i['imgid'] for i in images) if rows is None else rows
    np.save(folder / 'feats.npy', np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1))
    return folder


def state_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob('*')]}


def refusal(action, name):
    """The message of a refusal, without the file's name, with which it begins."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert '\n' not in message and message.startswith(str(name)), message
    return message.removeprefix(str(name))


def sentences_of(dataset, *splits):
    rows, tokens, bounds = dataset.sentences(*splits)
    words = [dataset.captions.words[i] for i in tokens]
    return [(int(row), words[a:b]) for row, a, b in zip(rows, bounds[:-1], bounds[1:], strict=True)]


# Content

def test_the_row_of_an_image_is_its_imgid(tmp_path):
    folder = write(tmp_path / 'r', [image(5, sentences=[['five']]), image(0, 'val'), image(3, sentences=[['three']])],
                   rows=9)
    dataset = Dataset(folder)
    assert dataset.captions.image_ids.tolist() == [5, 0, 3] and dataset.captions.filenames[0] == '5.jpg'
    assert dataset.feature_size == 3 and dataset.features[5].tolist() == [5, 5, 5]
    assert sentences_of(dataset, 'train') == [(5, ['five']), (3, ['three'])]
    assert [dataset.references(p) for p in dataset.images('train')] == [[['five']], [['three']]]


def test_splits(tmp_path):
    splits = ['train', 'restval', 'val', 'test', 'train']
    dataset = Dataset(write(tmp_path / 'r', [image(i, split, [[split]]) for i, split in enumerate(splits)]))
    assert dataset.images('train').tolist() == [0, 4]
    assert dataset.images('train', 'restval').tolist() == [0, 1, 4]
    assert sentences_of(dataset, 'restval', 'test') == [(1, ['restval']), (3, ['test'])]
    assert dataset.word_counts('train', 'restval') == ({'train': 2, 'restval': 1}, 3)


def test_restval_trains_by_default(tmp_path):
    from chainer_caption import Settings, train
    splits = ['train', 'restval', 'val', 'test']
    dataset = Dataset(write(tmp_path / 'r', [image(i, split, [[split]]) for i, split in enumerate(splits)]))
    bundle = train(dataset, tmp_path / 'm', Settings(epochs=0, hidden=4, min_count=1))
    assert bundle.vocabulary.words[3:] == ['restval', 'train']


def test_empty_sentences_are_left_out(tmp_path):
    dataset = Dataset(write(tmp_path / 'r', [image(0, sentences=[[], ['a'], []]), image(1, sentences=[]),
                                             image(2, sentences=[['b', 'c'], []])]))
    assert sentences_of(dataset, 'train') == [(0, ['a']), (2, ['b', 'c'])]
    assert dataset.word_counts('train') == ({'a': 1, 'b': 1, 'c': 1}, 2)
    assert dataset.references(1) == [] and dataset.references(2) == [['b', 'c'], []]


@pytest.mark.parametrize('tokens', [
    VIETNAMESE, ['😀', '👨\u200d👩\u200d👧', '\u0301'], ['\ud83d', 'a\udc00b'], ['two words', ' ', '', '\n', '\u2028'],
    ['<S>', '</S>', '<UNK>']], ids=['vietnamese', 'emoji', 'lone surrogates', 'spaces', 'special'])
def test_tokens_are_any_text(tokens, tmp_path):
    folder = write(tmp_path / 'r', [image(0, sentences=[tokens, tokens[::-1]], filename=tokens[0])])
    for _ in range(2):                                  # parsed, then from the cache
        dataset = Dataset(folder)
        assert dataset.references(0) == [tokens, tokens[::-1]]
        assert dataset.captions.filenames == [tokens[0]]


def test_byte_order_mark_and_unescaped_text(tmp_path):
    folder = write(tmp_path / 'r', [image()])
    text = json.dumps({'images': [image(0, sentences=[VIETNAMESE])]}, ensure_ascii=False)
    (folder / 'dataset.json').write_text(text, encoding='utf-8-sig')
    assert Dataset(folder).references(0) == [VIETNAMESE]


def test_unknown_keys_are_ignored_and_cocoid_is_kept(tmp_path):
    images = [image(0, cocoid=391895, sentids=[1], filepath='val2014', new={'a': []}), image(1)]
    images[0]['sentences'][0].update(imgid=7, sentid=9, mood='good')
    for _ in range(2):
        dataset = Dataset(write(tmp_path / 'r', images, dataset='coco', info={}))
        assert dataset.captions.coco_ids.tolist() == [391895, -1]
        assert dataset.references(0) == [['a', 'dog']]


def test_provenance_is_recorded_beside_the_matrix(make_dataset):
    folder = make_dataset()
    assert Dataset(folder).provenance is None
    sidecar = folder / 'vgg_feats.mat.json'
    sidecar.write_text('{"encoder": "vgg16", "preprocessing": "karpathy", "date": "2015"}')
    assert Dataset(folder).provenance == {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    for damaged in ('[]', '{"encoder": "vgg16"}', '{"encoder": "vgg16", "preprocessing": 3}', '{"encoder"'):
        sidecar.write_text(damaged)
        refusal(lambda: Dataset(folder), sidecar)


def test_files_named_one_by_one(make_dataset, tmp_path):
    folder = make_dataset()
    dataset = Dataset(dataset=folder / 'dataset.json', features=str(folder / 'vgg_feats.mat'))
    np.testing.assert_array_equal(dataset.features, Dataset(folder).features)
    assert dataset.digest == Dataset(folder).digest
    np.save(tmp_path / 'other.npy', np.ones((48, 9), np.float32))
    assert Dataset(folder, features=tmp_path / 'other.npy').feature_size == 9
    for arguments in ({}, {'dataset': 'dataset.json'}, {'features': 'vgg_feats.mat'}):
        refusal(lambda arguments=arguments: Dataset(**arguments), 'a dataset is a folder, or')


@pytest.mark.parametrize('name', ['vgg_feats_hdf5.mat', 'vgg_feats.npy', 'feats.npz'])
def test_other_names_of_matrices(name, make_dataset):
    folder = make_dataset()
    features = Dataset(folder).features
    (folder / 'vgg_feats.mat').unlink()
    with open(folder / name, 'wb') as f:
        np.savez(f, feats=features) if name.endswith('npz') else np.save(f, features)
    np.testing.assert_array_equal(Dataset(folder).features, features)


def test_vectors_grids_and_both(tmp_path):
    folder = write(tmp_path / 'r', [image(5), image(0, 'val'), image(3)], rows=9)
    grids = np.random.default_rng(0).random((9, 4, 3)).astype(np.float16)
    vectors = Dataset(folder)
    assert vectors.grids is None and vectors.reading('vectors') is vectors
    assert vectors.inputs('vectors') is vectors.features and set(vectors.digest) == {'captions', 'features'}
    for reads in ('grids', 'both'):
        assert refusal(lambda reads=reads: vectors.inputs(reads), folder / 'feats.npy') == (
            f': holds vectors, but the architecture reads {reads}; add grids.npy with grids, or choose an architecture '
            'that reads vectors')
    np.save(folder / 'grids.npy', grids)
    both = Dataset(folder)
    assert (both.digest, both.features_path) == (vectors.digest, folder / 'feats.npy'), 'a model of vectors resumes'
    assert isinstance(both.grids, np.memmap) and both.grids.dtype == np.float16
    of_grids = both.reading('grids')
    assert of_grids.features_path == folder / 'grids.npy' and set(of_grids.digest) == {'captions', 'grids'}
    assert set(both.reading('both').digest) == {'captions', 'features', 'grids'}
    first, second = both.inputs('both')
    assert first is both.features and second is both.grids is both.inputs('grids') and both.feature_size == 3
    np.testing.assert_array_equal(second, grids)
    with pytest.raises(InputError, match='reads pixels: must be one of vectors, grids, both'):
        both.inputs('pixels')
    np.save(folder / 'grids.npy', grids[..., :2])
    assert Dataset(folder).reading('grids').feature_size == 2
    assert 'has 2 numbers at a location, but' in refusal(lambda: Dataset(folder).inputs('both'), folder / 'grids.npy')
    np.save(folder / 'grids.npy', grids[:5])
    assert 'which needs 6' in refusal(lambda: Dataset(folder), folder / 'grids.npy')


@pytest.mark.parametrize('name', ['grids.npy', 'grids.npz', 'elsewhere'])
def test_grids_alone(name, tmp_path):
    folder = write(tmp_path / 'r', [image(1), image(0, 'val')])
    (folder / 'feats.npy').unlink()
    grids = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    path = (tmp_path if name == 'elsewhere' else folder) / name
    with open(path, 'wb') as f:
        np.savez(f, grids=grids) if name.endswith('npz') else np.save(f, grids)
    dataset = Dataset(folder, features=path if name == 'elsewhere' else None)
    assert dataset.features is None and dataset.features_path == path and dataset.feature_size == 3
    np.testing.assert_array_equal(dataset.inputs('grids'), grids)
    assert 'holds grids, but the architecture reads both' in refusal(lambda: dataset.inputs('both'), path)

    def record(encoder):
        (tmp_path / f'{path}.json').write_text(json.dumps({'encoder': encoder, 'preprocessing': 'karpathy'}))
        return Dataset(folder, features=path if name == 'elsewhere' else None)
    # Whether a vector is the mean of its grid is a matter of the encoder, and unknown is no.
    assert 'the architecture reads vectors' in refusal(lambda: dataset.inputs('vectors'), path)
    for encoder in ('vgg19', 'mine', 'fine-tuned from vgg16'):
        assert 'the architecture reads vectors' in refusal(lambda e=encoder: record(e).inputs('vectors'), path)
    for encoder in ('efficientnet_lite0', 'resnet101', 'resnet101_torchvision', 'fine-tuned from resnet101'):
        dataset = record(encoder)
        np.testing.assert_array_equal(dataset.inputs('vectors'), grids.mean(axis=1))
        assert dataset.reading('vectors').provenance == {'encoder': encoder, 'preprocessing': 'karpathy'}
        np.testing.assert_array_equal(dataset.inputs('grids'), grids)


def test_vectors_and_grids_have_records_of_their_own(tmp_path):
    folder = write(tmp_path / 'r', [image(1), image(0, 'val')])
    np.save(folder / 'grids.npy', np.ones((2, 4, 3), np.float32))
    records = [{'encoder': encoder, 'preprocessing': 'karpathy'} for encoder in ('resnet101', 'vgg19')]
    record_provenance(folder / 'grids.npy', **records[0], shape=(2, 4, 3))
    assert json.loads((folder / 'grids.npy.json').read_text()) == {**records[0], 'shape': [2, 4, 3]}
    dataset = Dataset(folder)
    assert [dataset.reading(reads).provenance for reads in ('vectors', 'grids', 'both')] == [None, records[0], None]
    record_provenance(folder / 'feats.npy', **records[1])
    dataset = Dataset(folder)
    assert [dataset.reading(reads).provenance for reads in ('vectors', 'grids')] == records[::-1]
    assert 'needs the same encoder' in refusal(lambda: dataset.inputs('both'), folder / 'grids.npy')
    record_provenance(folder / 'feats.npy', **records[0])
    assert Dataset(folder).reading('both').provenance == records[0]
    np.save(folder / 'grids.npy', np.ones((2, 5, 3), np.float32))
    assert ': records the shape [2, 4, 3], but' in refusal(lambda: Dataset(folder), folder / 'grids.npy.json')


def test_a_transposed_matrix_is_refused_by_every_command(tmp_path, refused):
    folder = write(tmp_path / 'r', [image(i) for i in range(30)])
    np.save(folder / 'feats.npy', np.random.default_rng(0).random((51, 30)).astype(np.float32))
    for command in (['describe', folder], ['train', folder, '-o', tmp_path / 'm']):
        line = refused(*command)
        assert line.startswith(f'{folder}/feats.npy: it looks transposed, 51 rows for 30 images and an axis of 30')
        assert f'record {{"shape": [51, 30]}} in {folder}/feats.npy.json' in line


@pytest.mark.parametrize('name, images, dim, counts', [
    ('vi2932', 2927, 1280, {'sentences': 14648}), ('flickr8k_96_vgg16', 96, 4096, {'sentences': 480})])
def test_genuine_datasets(name, images, dim, counts, shared):
    dataset = Dataset(shared / name)
    assert dataset.features.shape == (images, dim) and len(dataset.captions.filenames) == images
    assert len(dataset.captions.bounds) - 1 == counts['sentences']
    data = json.loads((shared / name / 'dataset.json').read_text(encoding='utf-8'))
    for place in (0, images // 2, images - 1):
        assert dataset.references(place) == [s['tokens'] for s in data['images'][place]['sentences']]
        column = scipy.io.loadmat(shared / name / 'vgg_feats.mat')['feats'][:, data['images'][place]['imgid']]
        np.testing.assert_array_equal(dataset.features[dataset.captions.image_ids[place]], column)


# Cache

def same(dataset, other):
    a, b = dataset.captions, other.captions
    assert (a.filenames, a.words, a.digest) == (b.filenames, b.words, b.digest)
    for name in ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    np.testing.assert_array_equal(dataset.features, other.features)
    return True


@pytest.fixture
def sources_closed(monkeypatch):
    def forbid():
        def fail(*args, **kwargs):
            raise AssertionError('the source was read again')
        monkeypatch.setattr(scipy.io, 'loadmat', fail)
        monkeypatch.setattr(scipy.io, 'whosmat', fail)
        monkeypatch.setattr(chainer_caption.data.captions, 'read_json', fail)
    return forbid


def test_second_opening_reads_the_cache(make_dataset, cache, sources_closed):
    folder = make_dataset()
    first = Dataset(folder)
    assert len(list(cache.iterdir())) == 2
    sources_closed()
    assert same(Dataset(folder), first)
    assert same(Dataset(os.path.relpath(folder)), first)


@pytest.mark.parametrize('name', ['dataset.json', 'vgg_feats.mat'])
def test_changed_files_are_noticed(name, make_dataset, cache, sources_closed):
    folder = make_dataset(dtype=np.float64)
    before = Dataset(folder)
    digest = before.digest
    times = os.stat(folder / name)
    content = (folder / name).read_bytes()
    if name == 'dataset.json':
        (folder / name).write_bytes(content.replace(b'circle', b'square'))
    else:
        scipy.io.savemat(folder / name, {'feats': before.features.T[:, ::-1].astype(np.float64)}, do_compression=True)
    # Even with the old time: the size or the content of head, middle and tail tell.
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = Dataset(folder)
    if name == 'dataset.json':
        assert 'circle' in before.captions.words and 'circle' not in after.captions.words
    else:
        np.testing.assert_array_equal(after.features, before.features[::-1])
    assert digest != after.digest
    assert len(list(cache.iterdir())) == 2, 'what the file was before is deleted'
    sources_closed()
    assert same(Dataset(folder), after)


def test_newer_files_are_read_again(make_dataset, cache):
    # A change amid gigabytes leaves no other trace than the time.
    folder = make_dataset()
    Dataset(folder)
    entries = set(cache.iterdir())
    for name in ('dataset.json', 'vgg_feats.mat'):
        os.utime(folder / name, ns=(0, os.stat(folder / name).st_mtime_ns + 1))
    Dataset(folder)
    assert len(set(cache.iterdir())) == 2 and not entries & set(cache.iterdir())


def test_datasets_do_not_share_entries(make_dataset, tmp_path, cache):
    one = make_dataset(tmp_path / 'one')
    shutil.copytree(one, tmp_path / 'two')
    other = make_dataset(tmp_path / 'three', seed=1)
    a, b, c = Dataset(one), Dataset(tmp_path / 'two'), Dataset(other)
    assert len(list(cache.iterdir())) == 6
    assert same(a, b) and same(Dataset(one), a) and same(Dataset(other), c) and a.digest != c.digest
    assert a.digest == b.digest, 'what a dataset is does not depend on where it lies'


def test_cache_that_cannot_be_written(make_dataset, tmp_path, monkeypatch, capfd):
    folder = make_dataset()
    expected = Dataset(folder)
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file' / 'below'))
    for _ in range(2):
        assert same(Dataset(folder), expected)
    if os.getuid():                                     # root may write anywhere
        locked = tmp_path / 'locked'
        locked.mkdir(mode=0o500)
        monkeypatch.setenv('XDG_CACHE_HOME', str(locked))
        assert same(Dataset(folder), expected)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(b''), lambda path: path.write_bytes(b'\x93NUMPY\x01\x00\x02\x00{\n' * 9),
    lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(path.read_bytes()[:99]),
    lambda path: path.unlink(), lambda path: shutil.rmtree(path.parent, ignore_errors=True)],
    ids=['empty', 'nonsense', 'cut', 'cut early', 'gone', 'folder gone'])
def test_damaged_cache_is_made_again(damage, make_dataset, cache, sources_closed):
    folder = make_dataset()
    expected = Dataset(folder)
    entries = [path for path in cache.rglob('*') if path.is_file()]
    assert {path.name for path in entries} == {'captions.npz', 'features.npy', 'source'}
    features = np.array(expected.features)
    for path in entries:
        damage(path)
    mended = Dataset(folder)
    np.testing.assert_array_equal(mended.features, features)
    assert mended.captions.words == expected.captions.words
    sources_closed()
    assert same(Dataset(folder), mended)


@pytest.mark.parametrize(('days', 'gone', 'kept'), [
    (0, True, True), (6, True, True), (8, True, False), (8, False, True), (89, False, True), (91, False, False)])
def test_unused_entries_are_deleted(days, gone, kept, make_dataset, tmp_path, cache):
    Dataset(make_dataset(tmp_path / 'old'))
    (cache / 'compiled').mkdir()
    entries = {path.name for path in cache.iterdir()}
    last = time.time() - 86_400 * days
    for path in cache.iterdir():
        os.utime(path, (last, last))
    if gone:
        shutil.rmtree(tmp_path / 'old')
    Dataset(make_dataset(tmp_path / 'new', seed=1))
    left = {path.name for path in cache.iterdir()}
    assert entries & left == (entries if kept else {'compiled'}) and len(left - entries) == 2


def test_entries_in_use_stay(make_dataset, tmp_path, cache, sources_closed):
    folder = make_dataset(tmp_path / 'old')
    expected = Dataset(folder)
    last = time.time() - 86_400 * 80
    for path in cache.iterdir():
        os.utime(path, (last, last))
    Dataset(folder)
    assert all(path.stat().st_mtime > last + 86_400 for path in cache.iterdir())
    sources_closed()
    assert same(Dataset(folder), expected)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    for value, expected in (('', tmp_path / '.cache'), ('not/absolute', tmp_path / '.cache'),
                            (str(tmp_path / 'x'), tmp_path / 'x')):
        monkeypatch.setenv('XDG_CACHE_HOME', value)
        assert cache_folder() == expected / 'chainer_caption'
    # An account that the system has no entry of, as containers have: `~` stays what it is.
    monkeypatch.delenv('HOME')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr('pwd.getpwuid', lambda uid: {}[uid])
    assert not cache_folder().exists()
    with pytest.raises(OSError):
        cache_folder().mkdir(parents=True)


@pytest.mark.parametrize('matrix', ['vgg_feats.mat', 'feats.npy', 'feats.npz'])
def test_nothing_is_written_into_the_dataset(matrix, make_dataset):
    folder = make_dataset()
    features = Dataset(folder).features
    if matrix != 'vgg_feats.mat':
        (folder / 'vgg_feats.mat').unlink()
        with open(folder / matrix, 'wb') as f:
            np.savez(f, feats=features) if matrix == 'feats.npz' else np.save(f, features)
    folder.chmod(0o500)
    before = state_of(folder)
    for _ in range(2):
        with pytest.raises(ValueError, match='read-only'):
            Dataset(folder).features[0, 0] = 1
    assert state_of(folder) == before


# Refusals

@pytest.mark.parametrize('change, where, reason', [
    (lambda images: images[1].pop('filename'), 'images[1]', 'no string "filename"'),
    (lambda images: images[1].update(filename=7), 'images[1]', 'no string "filename"'),
    (lambda images: images[1].pop('imgid'), 'images[1]', 'no whole number "imgid"'),
    (lambda images: images[1].update(imgid='1'), 'images[1]', 'no whole number "imgid"'),
    (lambda images: images[1].update(imgid=1.5), 'images[1]', 'no whole number "imgid"'),
    (lambda images: images[1].update(imgid=True), 'images[1]', 'no whole number "imgid"'),
    (lambda images: images[1].update(imgid=-1), 'images[1]', 'imgid -1'),
    (lambda images: images[1].update(imgid=10 ** 30), 'images[1]', 'imgid 1000'),
    (lambda images: images[1].pop('split'), 'images[1]', 'no string "split"'),
    (lambda images: images[1].update(split='training'), 'images[1]', '"training" is none of train, restval, val, test'),
    (lambda images: images[1].pop('sentences'), 'images[1]', 'no list "sentences"'),
    (lambda images: images[1].update(sentences={}), 'images[1]', 'no list "sentences"'),
    (lambda images: images[1]['sentences'].append('a dog'), 'images[1].sentences[1]', 'no object'),
    (lambda images: images[1]['sentences'][0].pop('tokens'), 'images[1].sentences[0]', 'no list "tokens"'),
    (lambda images: images[1]['sentences'][0].update(tokens='a dog'), 'images[1].sentences[0]', 'no list "tokens"'),
    (lambda images: images[1]['sentences'][0].update(tokens=['a', 1]), 'images[1].sentences[0]', 'the token 1'),
    (lambda images: images.__setitem__(1, 'dog.jpg'), 'images[1]', 'no object'),
    (lambda images: images[1].update(imgid=0), '', 'two images have the imgid 0'),
    (lambda images: images.clear(), '', 'no images'),
])
def test_wrong_records_are_named_by_their_index(change, where, reason, tmp_path):
    images = [image(0), image(1)]
    folder = write(tmp_path / 'r', images)
    change(images)
    (folder / 'dataset.json').write_text(json.dumps({'images': images}))
    message = refusal(lambda: Dataset(folder), folder / 'dataset.json')
    assert message.startswith(f': {where}') and reason in message, message


@pytest.mark.parametrize('content, reason', [
    ('', 'cut short'), ('{"images": ', 'cut short'), ('{"images": [{"filename": "a do', 'cut short'),
    ('{"images": ["ệ'.encode()[:-1], 'cut short'), ('no JSON', 'no JSON at line 1, column 1'),
    ('{"images": []} {}', 'column 16'), ('{\n"images": [,]}', 'line 2, column 12'), ('[]', 'no list "images"'),
    ('{}', 'no list "images"'), ('{"images": {}}', 'no list "images"'), ('null', 'no list "images"'),
    ('[' * 100000, 'nested'), (f'[{"1" * 5000}]', 'digits'), ('{"a": "é"}'.encode('latin-1'), 'UTF-8'),
    ('{}'.encode('utf-16'), 'UTF-8'), (bytes(100), 'no JSON')])
def test_what_is_no_dataset(content, reason, make_dataset):
    folder = make_dataset()
    (folder / 'dataset.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(lambda: Dataset(folder), folder / 'dataset.json')
    assert reason in message, message


def test_every_cut_is_refused(tmp_path):
    folder = write(tmp_path / 'r', [image(0, sentences=[VIETNAMESE])])
    content = (folder / 'dataset.json').read_bytes()
    for length in range(len(content) - 1):
        (folder / 'dataset.json').write_bytes(content[:length])
        refusal(lambda: read_captions(folder / 'dataset.json'), folder / 'dataset.json')


def test_missing_files(make_dataset, tmp_path):
    assert refusal(lambda: Dataset(tmp_path / 'nowhere'), tmp_path / 'nowhere') == ': no such folder'
    folder = make_dataset()
    assert 'not a folder' in refusal(lambda: Dataset(folder / 'dataset.json'), folder / 'dataset.json')
    refusal(lambda: Dataset(folder, features=folder / 'other.mat'), folder / 'other.mat')
    refusal(lambda: Dataset(folder, dataset=folder / 'other.json'), folder / 'other.json')
    (folder / 'vgg_feats.mat').unlink()
    assert 'no feature matrix' in refusal(lambda: Dataset(folder), folder)
    make_dataset()
    (folder / 'dataset.json').unlink()
    assert refusal(lambda: Dataset(folder), folder / 'dataset.json') == ': no such file'


def test_imgid_without_a_column(make_dataset):
    folder = make_dataset(images=8)
    data = json.loads((folder / 'dataset.json').read_text())
    data['images'][3]['imgid'] = 8
    (folder / 'dataset.json').write_text(json.dumps(data))
    assert 'go up to imgid 8, which needs 9' in refusal(lambda: Dataset(folder), folder / 'vgg_feats.mat')


def test_splits_without_captions(tmp_path):
    folder = write(tmp_path / 'r', [image(0), image(1), image(2, 'val', [[]])])
    dataset = Dataset(folder)
    message = refusal(lambda: dataset.images('test'), folder / 'dataset.json')
    assert message == ': no image is of the split test (there are: 2 train, 1 val)'
    assert 'have no captions' in refusal(lambda: dataset.sentences('val'), folder / 'dataset.json')

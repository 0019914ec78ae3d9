"""A release opened: what it says, what it keeps for the next time, and what it refuses."""
import json
import os
import shutil
import time

import numpy as np
import pytest
import scipy.io

import chainer_caption.data.captions
from chainer_caption import InputError, Release
from chainer_caption.data.captions import read_captions
from chainer_caption.storage.cache import cache_folder

VIETNAMESE = ['một', 'người', 'đàn', 'ông', 'ệ']


def image(imgid=0, split='train', sentences=(('a', 'dog'),), **more):
    return {'filename': f'{imgid}.jpg', 'imgid': imgid, 'split': split,
            'sentences': [{'tokens': list(tokens), 'raw': ' '.join(tokens)} for tokens in sentences], **more}


def write(folder, images, rows=None, **more):
    """A release of just these images; row i of the features is i, i, i."""
    folder.mkdir(exist_ok=True)
    (folder / 'dataset.json').write_text(json.dumps({'images': images, **more}), encoding='utf-8')
    rows = 1 + max(i['imgid'] for i in images) if rows is None else rows
    np.save(folder / 'feats.npy', np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1))
    return folder


def state_of(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [folder, *folder.rglob('*')]}


def refusal(action, name):
    """What a refusal says behind the name of the file, which it begins with."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert '\n' not in message and message.startswith(str(name)), message
    return message.removeprefix(str(name))


def spoken(release, *splits):
    rows, tokens, bounds = release.sentences(*splits)
    words = [release.captions.words[i] for i in tokens]
    return [(int(row), words[a:b]) for row, a, b in zip(rows, bounds[:-1], bounds[1:], strict=True)]


# What it says

def test_the_row_of_a_picture_is_its_imgid(tmp_path):
    folder = write(tmp_path / 'r', [image(5, sentences=[['five']]), image(0, 'val'), image(3, sentences=[['three']])],
                   rows=9)
    release = Release(folder)
    assert release.captions.image_ids.tolist() == [5, 0, 3] and release.captions.filenames[0] == '5.jpg'
    assert release.feature_size == 3 and release.features[5].tolist() == [5, 5, 5]
    assert spoken(release, 'train') == [(5, ['five']), (3, ['three'])]
    assert [release.references(p) for p in release.pictures('train')] == [[['five']], [['three']]]


def test_splits(tmp_path):
    splits = ['train', 'restval', 'val', 'test', 'train']
    release = Release(write(tmp_path / 'r', [image(i, split, [[split]]) for i, split in enumerate(splits)]))
    assert release.pictures('train').tolist() == [0, 4]
    assert release.pictures('train', 'restval').tolist() == [0, 1, 4]
    assert spoken(release, 'restval', 'test') == [(1, ['restval']), (3, ['test'])]
    assert release.word_counts('train', 'restval') == ({'train': 2, 'restval': 1}, 3)


def test_restval_trains_by_default(tmp_path):
    from chainer_caption import Settings, train
    splits = ['train', 'restval', 'val', 'test']
    release = Release(write(tmp_path / 'r', [image(i, split, [[split]]) for i, split in enumerate(splits)]))
    bundle = train(release, tmp_path / 'm', Settings(epochs=0, hidden=4, min_count=1))
    assert bundle.vocabulary.words[3:] == ['restval', 'train']


def test_empty_sentences_describe_nothing(tmp_path):
    release = Release(write(tmp_path / 'r', [image(0, sentences=[[], ['a'], []]), image(1, sentences=[]),
                                             image(2, sentences=[['b', 'c'], []])]))
    assert spoken(release, 'train') == [(0, ['a']), (2, ['b', 'c'])]
    assert release.word_counts('train') == ({'a': 1, 'b': 1, 'c': 1}, 2)
    assert release.references(1) == [] and release.references(2) == [['b', 'c'], []]


@pytest.mark.parametrize('tokens', [
    VIETNAMESE, ['😀', '👨\u200d👩\u200d👧', '\u0301'], ['\ud83d', 'a\udc00b'], ['two words', ' ', '', '\n', '\u2028'],
    ['<S>', '</S>', '<UNK>']], ids=['vietnamese', 'emoji', 'lone surrogates', 'spaces', 'special'])
def test_tokens_are_any_text(tokens, tmp_path):
    folder = write(tmp_path / 'r', [image(0, sentences=[tokens, tokens[::-1]], filename=tokens[0])])
    for _ in range(2):                                  # parsed, then from the cache
        release = Release(folder)
        assert release.references(0) == [tokens, tokens[::-1]]
        assert release.captions.filenames == [tokens[0]]


def test_byte_order_mark_and_unescaped_text(tmp_path):
    folder = write(tmp_path / 'r', [image()])
    text = json.dumps({'images': [image(0, sentences=[VIETNAMESE])]}, ensure_ascii=False)
    (folder / 'dataset.json').write_text(text, encoding='utf-8-sig')
    assert Release(folder).references(0) == [VIETNAMESE]


def test_unknown_keys_are_ignored_and_cocoid_is_kept(tmp_path):
    images = [image(0, cocoid=391895, sentids=[1], filepath='val2014', new={'a': []}), image(1)]
    images[0]['sentences'][0].update(imgid=7, sentid=9, mood='good')
    for _ in range(2):
        release = Release(write(tmp_path / 'r', images, dataset='coco', info={}))
        assert release.captions.coco_ids.tolist() == [391895, -1]
        assert release.references(0) == [['a', 'dog']]


def test_origin_is_recorded_beside_the_matrix(make_release):
    folder = make_release()
    assert Release(folder).origin is None
    sidecar = folder / 'vgg_feats.mat.json'
    sidecar.write_text('{"network": "vgg16", "profile": "karpathy", "date": "2015"}')
    assert Release(folder).origin == {'network': 'vgg16', 'profile': 'karpathy'}
    for damaged in ('[]', '{"network": "vgg16"}', '{"network": "vgg16", "profile": 3}', '{"network"'):
        sidecar.write_text(damaged)
        refusal(lambda: Release(folder), sidecar)


def test_files_named_one_by_one(make_release, tmp_path):
    folder = make_release()
    release = Release(dataset=folder / 'dataset.json', features=str(folder / 'vgg_feats.mat'))
    np.testing.assert_array_equal(release.features, Release(folder).features)
    assert release.digest == Release(folder).digest
    np.save(tmp_path / 'other.npy', np.ones((48, 9), np.float32))
    assert Release(folder, features=tmp_path / 'other.npy').feature_size == 9
    for arguments in ({}, {'dataset': 'dataset.json'}, {'features': 'vgg_feats.mat'}):
        refusal(lambda arguments=arguments: Release(**arguments), 'a release is a folder, or')


@pytest.mark.parametrize('name', ['vgg_feats_hdf5.mat', 'vgg_feats.npy', 'feats.npz'])
def test_other_names_of_matrices(name, make_release):
    folder = make_release()
    features = Release(folder).features
    (folder / 'vgg_feats.mat').unlink()
    with open(folder / name, 'wb') as f:
        np.savez(f, feats=features) if name.endswith('npz') else np.save(f, features)
    np.testing.assert_array_equal(Release(folder).features, features)


@pytest.mark.parametrize('name, pictures, dim, counts', [
    ('vi2932', 2927, 1280, {'sentences': 14648}), ('flickr8k_96_vgg16', 96, 4096, {'sentences': 480})])
def test_genuine_releases(name, pictures, dim, counts, shared):
    release = Release(shared / name)
    assert release.features.shape == (pictures, dim) and len(release.captions.filenames) == pictures
    assert len(release.captions.bounds) - 1 == counts['sentences']
    data = json.loads((shared / name / 'dataset.json').read_text(encoding='utf-8'))
    for place in (0, pictures // 2, pictures - 1):
        assert release.references(place) == [s['tokens'] for s in data['images'][place]['sentences']]
        column = scipy.io.loadmat(shared / name / 'vgg_feats.mat')['feats'][:, data['images'][place]['imgid']]
        np.testing.assert_array_equal(release.features[release.captions.image_ids[place]], column)


# What it keeps

def same(release, other):
    a, b = release.captions, other.captions
    assert (a.filenames, a.words, a.digest) == (b.filenames, b.words, b.digest)
    for name in ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    np.testing.assert_array_equal(release.features, other.features)
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


def test_second_opening_reads_the_cache(make_release, cache, sources_closed):
    folder = make_release()
    first = Release(folder)
    assert len(list(cache.iterdir())) == 2
    sources_closed()
    assert same(Release(folder), first)
    assert same(Release(os.path.relpath(folder)), first)


@pytest.mark.parametrize('name', ['dataset.json', 'vgg_feats.mat'])
def test_changed_files_are_noticed(name, make_release, cache, sources_closed):
    folder = make_release(dtype=np.float64)
    before = Release(folder)
    digest = before.digest
    times = os.stat(folder / name)
    content = (folder / name).read_bytes()
    if name == 'dataset.json':
        (folder / name).write_bytes(content.replace(b'circle', b'square'))
    else:
        scipy.io.savemat(folder / name, {'feats': before.features.T[:, ::-1].astype(np.float64)}, do_compression=True)
    # Even with the old time: the size or the content of head, middle and tail tell.
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = Release(folder)
    if name == 'dataset.json':
        assert 'circle' in before.captions.words and 'circle' not in after.captions.words
    else:
        np.testing.assert_array_equal(after.features, before.features[::-1])
    assert digest != after.digest
    assert len(list(cache.iterdir())) == 2, 'what the file was before is deleted'
    sources_closed()
    assert same(Release(folder), after)


def test_newer_files_are_read_again(make_release, cache):
    # A change amid gigabytes leaves no other trace than the time.
    folder = make_release()
    Release(folder)
    entries = set(cache.iterdir())
    for name in ('dataset.json', 'vgg_feats.mat'):
        os.utime(folder / name, ns=(0, os.stat(folder / name).st_mtime_ns + 1))
    Release(folder)
    assert len(set(cache.iterdir())) == 2 and not entries & set(cache.iterdir())


def test_releases_do_not_share_entries(make_release, tmp_path, cache):
    one = make_release(tmp_path / 'one')
    shutil.copytree(one, tmp_path / 'two')
    other = make_release(tmp_path / 'three', seed=1)
    a, b, c = Release(one), Release(tmp_path / 'two'), Release(other)
    assert len(list(cache.iterdir())) == 6
    assert same(a, b) and same(Release(one), a) and same(Release(other), c) and a.digest != c.digest
    assert a.digest == b.digest, 'what a release is does not depend on where it lies'


def test_cache_that_cannot_be_written(make_release, tmp_path, monkeypatch, capfd):
    folder = make_release()
    expected = Release(folder)
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file' / 'below'))
    for _ in range(2):
        assert same(Release(folder), expected)
    if os.getuid():                                     # root may write anywhere
        locked = tmp_path / 'locked'
        locked.mkdir(mode=0o500)
        monkeypatch.setenv('XDG_CACHE_HOME', str(locked))
        assert same(Release(folder), expected)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(b''), lambda path: path.write_bytes(b'\x93NUMPY\x01\x00\x02\x00{\n' * 9),
    lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(path.read_bytes()[:99]),
    lambda path: path.unlink(), lambda path: shutil.rmtree(path.parent, ignore_errors=True)],
    ids=['empty', 'nonsense', 'cut', 'cut early', 'gone', 'folder gone'])
def test_damaged_cache_is_made_again(damage, make_release, cache, sources_closed):
    folder = make_release()
    expected = Release(folder)
    entries = [path for path in cache.rglob('*') if path.is_file()]
    assert {path.name for path in entries} == {'captions.npz', 'features.npy', 'source'}
    features = np.array(expected.features)
    for path in entries:
        damage(path)
    mended = Release(folder)
    np.testing.assert_array_equal(mended.features, features)
    assert mended.captions.words == expected.captions.words
    sources_closed()
    assert same(Release(folder), mended)


@pytest.mark.parametrize(('days', 'gone', 'kept'), [
    (0, True, True), (6, True, True), (8, True, False), (8, False, True), (89, False, True), (91, False, False)])
def test_entries_that_nobody_uses_are_forgotten(days, gone, kept, make_release, tmp_path, cache):
    Release(make_release(tmp_path / 'old'))
    (cache / 'compiled').mkdir()
    entries = {path.name for path in cache.iterdir()}
    last = time.time() - 86_400 * days
    for path in cache.iterdir():
        os.utime(path, (last, last))
    if gone:
        shutil.rmtree(tmp_path / 'old')
    Release(make_release(tmp_path / 'new', seed=1))
    left = {path.name for path in cache.iterdir()}
    assert entries & left == (entries if kept else {'compiled'}) and len(left - entries) == 2


def test_entries_in_use_stay(make_release, tmp_path, cache, sources_closed):
    folder = make_release(tmp_path / 'old')
    expected = Release(folder)
    last = time.time() - 86_400 * 80
    for path in cache.iterdir():
        os.utime(path, (last, last))
    Release(folder)
    assert all(path.stat().st_mtime > last + 86_400 for path in cache.iterdir())
    sources_closed()
    assert same(Release(folder), expected)


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
def test_nothing_is_written_into_the_release(matrix, make_release):
    folder = make_release()
    features = Release(folder).features
    if matrix != 'vgg_feats.mat':
        (folder / 'vgg_feats.mat').unlink()
        with open(folder / matrix, 'wb') as f:
            np.savez(f, feats=features) if matrix == 'feats.npz' else np.save(f, features)
    folder.chmod(0o500)
    before = state_of(folder)
    for _ in range(2):
        with pytest.raises(ValueError, match='read-only'):
            Release(folder).features[0, 0] = 1
    assert state_of(folder) == before


# What it refuses

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
def test_wrong_records_are_told_by_their_place(change, where, reason, tmp_path):
    images = [image(0), image(1)]
    folder = write(tmp_path / 'r', images)
    change(images)
    (folder / 'dataset.json').write_text(json.dumps({'images': images}))
    message = refusal(lambda: Release(folder), folder / 'dataset.json')
    assert message.startswith(f': {where}') and reason in message, message


@pytest.mark.parametrize('content, reason', [
    ('', 'cut short'), ('{"images": ', 'cut short'), ('{"images": [{"filename": "a do', 'cut short'),
    ('{"images": ["ệ'.encode()[:-1], 'cut short'), ('no JSON', 'no JSON at line 1, column 1'),
    ('{"images": []} {}', 'column 16'), ('{\n"images": [,]}', 'line 2, column 12'), ('[]', 'no list "images"'),
    ('{}', 'no list "images"'), ('{"images": {}}', 'no list "images"'), ('null', 'no list "images"'),
    ('[' * 100000, 'nested'), (f'[{"1" * 5000}]', 'digits'), ('{"a": "é"}'.encode('latin-1'), 'UTF-8'),
    ('{}'.encode('utf-16'), 'UTF-8'), (bytes(100), 'no JSON')])
def test_what_is_no_dataset(content, reason, make_release):
    folder = make_release()
    (folder / 'dataset.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(lambda: Release(folder), folder / 'dataset.json')
    assert reason in message, message


def test_every_cut_is_refused(tmp_path):
    folder = write(tmp_path / 'r', [image(0, sentences=[VIETNAMESE])])
    content = (folder / 'dataset.json').read_bytes()
    for length in range(len(content) - 1):
        (folder / 'dataset.json').write_bytes(content[:length])
        refusal(lambda: read_captions(folder / 'dataset.json'), folder / 'dataset.json')


def test_missing_files(make_release, tmp_path):
    assert refusal(lambda: Release(tmp_path / 'nowhere'), tmp_path / 'nowhere') == ': no such folder'
    folder = make_release()
    assert 'not a folder' in refusal(lambda: Release(folder / 'dataset.json'), folder / 'dataset.json')
    refusal(lambda: Release(folder, features=folder / 'other.mat'), folder / 'other.mat')
    refusal(lambda: Release(folder, dataset=folder / 'other.json'), folder / 'other.json')
    (folder / 'vgg_feats.mat').unlink()
    assert 'no feature matrix' in refusal(lambda: Release(folder), folder)
    make_release()
    (folder / 'dataset.json').unlink()
    assert refusal(lambda: Release(folder), folder / 'dataset.json') == ': no such file'


def test_imgid_without_a_column(make_release):
    folder = make_release(pictures=8)
    data = json.loads((folder / 'dataset.json').read_text())
    data['images'][3]['imgid'] = 8
    (folder / 'dataset.json').write_text(json.dumps(data))
    assert 'go up to imgid 8, which needs 9' in refusal(lambda: Release(folder), folder / 'vgg_feats.mat')


def test_splits_without_captions(tmp_path):
    folder = write(tmp_path / 'r', [image(0), image(1), image(2, 'val', [[]])])
    release = Release(folder)
    message = refusal(lambda: release.pictures('test'), folder / 'dataset.json')
    assert message == ': no image is of the split test (there are: 2 train, 1 val)'
    assert 'have no captions' in refusal(lambda: release.sentences('val'), folder / 'dataset.json')

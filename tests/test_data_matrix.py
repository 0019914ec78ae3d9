"""Feature files: every format gives the same rows, and damaged or hostile files are refused."""
import errno
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from chainer_caption import Dataset, InputError
from chainer_caption.data.matrix import grid_means, open_matrix, provenance_path

ROWS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16).astype(np.float64)   # exact in every dtype


def mat5(path, value, **kwargs):
    scipy.io.savemat(path, {'feats': value}, **kwargs)


def mat73(path, value, name='feats', **kwargs):
    """As MATLAB writes it: 512 bytes of its own, then HDF5, where dimensions are reversed."""
    with h5py.File(path, 'w', userblock_size=512) as f:
        f.create_dataset(name, data=value, **kwargs)
    with open(path, 'r+b') as f:
        f.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64'.ljust(116) + bytes(8) + b'\x00\x02IM')


FORMATS = {
    'mat compressed double': lambda path: mat5(path, ROWS.T, do_compression=True),
    'mat plain double': lambda path: mat5(path, ROWS.T),
    'mat compressed single': lambda path: mat5(path, ROWS.T.astype('f'), do_compression=True),
    'mat plain single': lambda path: mat5(path, ROWS.T.astype('f')),
    'mat 4': lambda path: mat5(path, ROWS.T, format='4'),
    'mat 7.3 single': lambda path: mat73(path, ROWS.astype('f')),
    'mat 7.3 double': lambda path: mat73(path, ROWS),
    'mat 7.3 compressed': lambda path: mat73(path, ROWS, chunks=(2, 5), compression='gzip', shuffle=True),
    'npy': lambda path: path.write_bytes(npy(ROWS.astype('f'))),
    'npy in Fortran order': lambda path: path.write_bytes(npy(np.asfortranarray(ROWS.astype('f')))),
    'npy double': lambda path: path.write_bytes(npy(ROWS)),
    'npy double in Fortran order': lambda path: path.write_bytes(npy(np.asfortranarray(ROWS))),
    'npy big-endian': lambda path: path.write_bytes(npy(ROWS.astype('>f4'))),
    'npz': lambda path: save_npz(path, feats=ROWS.astype('f')),
    'npz double': lambda path: save_npz(path, feats=ROWS, other=np.arange(3)),
    'npz beside objects': lambda path: save_npz(path, feats=ROWS, names=np.array(['a', None], object)),
    'npz compressed': lambda path: save_npz(path, np.savez_compressed, feats=np.asfortranarray(ROWS)),
}
HALF_FORMATS = {
    'npy': lambda path: path.write_bytes(npy(ROWS.astype(np.float16))),
    'npy in Fortran order': lambda path: path.write_bytes(npy(np.asfortranarray(ROWS.astype(np.float16)))),
    'npz': lambda path: save_npz(path, feats=ROWS.astype(np.float16)),
    'mat 7.3': lambda path: mat73(path, ROWS.astype(np.float16)),
}


def npy(value):
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


def save_npz(path, save=np.savez, **arrays):
    with open(path, 'wb') as f:
        save(f, **arrays)


def npy_of(header, body=b'', version=1):
    length = struct.pack('<H' if version == 1 else '<I', len(header))
    return b'\x93NUMPY' + bytes([version, 0]) + length + header.encode() + body


def npy_claiming(shape, body=bytes(80)):
    return npy_of(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n", body)


def npz_of(member):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr('feats.npy', member)
    return stream.getvalue()


def mat_claiming(rows, columns):
    stream = io.BytesIO()
    mat5(stream, ROWS.T)
    content = stream.getvalue()
    assert content.count(struct.pack('<ii', 5, 7)) == 1
    return content.replace(struct.pack('<ii', 5, 7), struct.pack('<ii', rows, columns))


def refusal(path, images=None, axes=(2,)):
    """The message of a refusal, without the file's name."""
    with pytest.raises(InputError) as caught:
        open_matrix(path, images, axes)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    return message.removeprefix(f'{path}: ')


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_gives_the_same_rows(name, tmp_path):
    path = tmp_path / 'file.without_a_telling_name'
    FORMATS[name](path)
    for _ in range(2):                                  # read, then from the cache
        matrix = open_matrix(path)
        assert matrix.dtype == np.float32 and not matrix.flags.writeable
        np.testing.assert_array_equal(matrix, ROWS)


@pytest.mark.parametrize('name', HALF_FORMATS)
def test_half_precision_stays_half_the_size(name, tmp_path):
    HALF_FORMATS[name](tmp_path / 'feats')
    for _ in range(2):
        matrix = open_matrix(tmp_path / 'feats')
        assert matrix.dtype == np.float16
        np.testing.assert_array_equal(matrix, ROWS)


@pytest.mark.parametrize('dim', [1, 3, 1280, 2048])
def test_any_dimension(dim, tmp_path):
    mat5(tmp_path / 'vgg_feats.mat', np.ones((dim, 4), np.float32))
    assert open_matrix(tmp_path / 'vgg_feats.mat', 4).shape == (4, dim)


def test_more_rows_than_are_copied_at_a_time(tmp_path):
    rows = np.random.default_rng(1).random((5000, 2)).astype(np.float32)
    mat5(tmp_path / 'vgg_feats.mat', rows.T)
    np.testing.assert_array_equal(open_matrix(tmp_path / 'vgg_feats.mat'), rows)
    rows[4321, 1] = np.nan
    np.save(tmp_path / 'feats.npy', rows)
    assert refusal(tmp_path / 'feats.npy').startswith('feature 1 of image 4321 is nan')
    mat5(tmp_path / 'vgg_feats.mat', rows.T)
    assert refusal(tmp_path / 'vgg_feats.mat').startswith('feature 1 of image 4321 is nan')


def test_row_major_npy_is_mapped_where_it_lies(tmp_path, cache):
    np.save(tmp_path / 'feats.npy', ROWS.astype(np.float32))
    assert open_matrix(tmp_path / 'feats.npy').filename == tmp_path / 'feats.npy'
    assert not list(cache.rglob('*.npy'))


def test_genuine_matrix(shared):
    matrix = open_matrix(shared / 'karpathy_examples' / 'vgg_feats.mat')
    assert matrix.shape == (16, 4096) and matrix.dtype == np.float32
    assert round((matrix == 0).mean() * 100, 1) == 70.6
    norms = np.linalg.norm(matrix, axis=1)
    assert round(float(norms.mean()), 1) == 78.3
    assert (round(float(norms.min())), round(float(norms.max()))) == (59, 103)


@pytest.mark.parametrize('value, reason', [
    (np.nan, 'nan'), (np.inf, 'inf'), (-np.inf, '-inf'), (1e300, 'inf')])
@pytest.mark.parametrize('save', [
    lambda path, rows: mat5(path, rows.T), lambda path, rows: path.write_bytes(npy(rows)),
    lambda path, rows: save_npz(path, feats=rows), mat73], ids=['mat', 'npy', 'npz', 'mat 7.3'])
def test_values_that_are_not_finite(save, value, reason, tmp_path, cache):
    rows = ROWS.copy()
    rows[6, 3] = value
    save(tmp_path / 'feats', rows)
    for _ in range(2):                                  # the refusal is not forgotten
        assert refusal(tmp_path / 'feats') == \
            f'feature 3 of image 6 is {reason}; every value must be a finite number'
    assert {path.name for path in cache.rglob('*') if path.is_file()} <= {'source'}


@pytest.mark.parametrize('name', ['mat compressed single', 'mat plain double', 'mat 7.3 single', 'mat 7.3 compressed',
                                  'npy', 'npz', 'npz compressed'])
def test_cut_short(name, tmp_path):
    path = tmp_path / 'feats'
    FORMATS[name](path)
    content = path.read_bytes()
    step = max(1, len(content) // (10 if 'mat' in name else 40))        # MATLAB's files take a process each
    for length in [*range(0, len(content) - 1, step), len(content) - 1]:
        path.write_bytes(content[:length])
        refusal(path)


def test_too_few_columns(tmp_path):
    mat5(tmp_path / 'vgg_feats.mat', ROWS.T)
    assert open_matrix(tmp_path / 'vgg_feats.mat', 7).shape == (7, 5)
    assert refusal(tmp_path / 'vgg_feats.mat', 8) == (
        'features of 7 images, 5 numbers each, but the captions go up to imgid 7, which needs 8')


@pytest.mark.parametrize('save', [
    lambda path: mat5(path, ROWS), lambda path: path.write_bytes(npy(ROWS.T)),
    lambda path: save_npz(path, feats=ROWS.T), lambda path: mat73(path, ROWS.T)], ids=['mat', 'npy', 'npz', 'mat 7.3'])
def test_transposed(save, tmp_path):
    save(tmp_path / 'feats')
    assert 'it looks transposed' in refusal(tmp_path / 'feats', 7)


def test_transposed_with_more_numbers_than_images(tmp_path):
    (tmp_path / 'feats').write_bytes(npy(np.ones((4096, 60), np.float32)))
    assert 'it looks transposed' in refusal(tmp_path / 'feats', 60)


@pytest.mark.parametrize('save, shape', [
    (lambda path: path.write_bytes(npy(np.ones((40, 16), np.float32))), [40, 16]),
    (lambda path: mat5(path, np.ones((16, 40), np.float32)), [40, 16]),
    (lambda path: save_npz(path, feats=np.ones((40, 16))), [40, 16]),
    (lambda path: path.write_bytes(npy(np.ones((40, 16, 5), np.float32))), [40, 16, 5])],
    ids=['npy', 'mat', 'npz', 'grids'])
def test_what_may_be_transposed_is_refused_unless_its_shape_is_recorded(save, shape, tmp_path):
    # 16 images of 40 numbers each, transposed; or 40 images of which the first 16 have captions, and 16 numbers each.
    path, axes = tmp_path / 'feats', (len(shape),)
    save(path)
    assert refusal(path, 16, axes) == (
        f'it looks transposed, 40 rows for 16 images and an axis of 16; write it with a row for each image, or if it '
        f'has one, record {{"shape": {shape}}} in {path}.json')
    provenance_path(path).write_text(json.dumps({'encoder': 'vgg19', 'preprocessing': 'karpathy'}))
    assert 'it looks transposed' in refusal(path, 16, axes), 'VGG-19 gives 4096 numbers'
    provenance_path(path).write_text(json.dumps({'shape': shape}))
    assert list(open_matrix(path, 16, axes).shape) == shape
    provenance_path(path).write_text(json.dumps({'shape': shape[::-1]}))
    with pytest.raises(InputError, match=re.escape(f'{path}.json: records the shape {shape[::-1]}, but {path} has')):
        open_matrix(path, 16, axes)


def test_the_recorded_encoder_settles_what_may_be_transposed(tmp_path):
    np.save(tmp_path / 'feats.npy', np.ones((1300, 1280), np.float16))
    assert 'it looks transposed' in refusal(tmp_path / 'feats.npy', 1280)
    record = {'encoder': 'efficientnet_lite0', 'preprocessing': 'lite'}
    provenance_path(tmp_path / 'feats.npy').write_text(json.dumps(record))
    assert open_matrix(tmp_path / 'feats.npy', 1280).shape == (1300, 1280)


GRIDS = np.random.default_rng(1).normal(size=(7, 3, 5)).astype(np.float16)
GRID_FORMATS = {
    'npy': lambda path, dtype: path.write_bytes(npy(GRIDS.astype(dtype))),
    'npy in Fortran order': lambda path, dtype: path.write_bytes(npy(np.asfortranarray(GRIDS.astype(dtype)))),
    'npz': lambda path, dtype: save_npz(path, grids=GRIDS.astype(dtype), feats=ROWS),
}


@pytest.mark.parametrize('name', GRID_FORMATS)
@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_grids(name, dtype, tmp_path, cache):
    path = tmp_path / 'grids'
    GRID_FORMATS[name](path, dtype)
    for _ in range(2):
        grids = open_matrix(path, 7, (3,))
        assert isinstance(grids, np.memmap) and not grids.flags.writeable
        assert grids.dtype == (np.float16 if dtype == np.float16 else np.float32)
        np.testing.assert_array_equal(grids, GRIDS)
        means = grid_means(path, grids)
        np.testing.assert_allclose(means, GRIDS.astype(np.float64).mean(axis=1), rtol=1e-5, atol=1e-6)
        assert isinstance(means, np.memmap) and means.dtype == np.float32
    if name == 'npz':
        np.testing.assert_array_equal(open_matrix(path, 7), ROWS)
    assert 'which needs 8' in refusal(path, 8, (3,))


def test_what_is_no_grid(tmp_path):
    path = tmp_path / 'grids.npy'
    for value, reason in ((ROWS, 'features are grids, N x L x D; this is an array of shape'),
                          (np.ones((2, 0, 3)), 'shape'), (np.full((2, 2), 'text'), 'real numbers'),
                          (np.ones((2, 3, 4, 5)), 'shape')):
        path.write_bytes(npy(value))
        assert reason in refusal(path, 2, (3,))
    grids = GRIDS.copy()
    grids[4, 2, 1] = np.inf
    for save in (lambda: path.write_bytes(npy(grids)), lambda: save_npz(path, grids=grids)):
        save()
        assert refusal(path, 7, (3,)) == 'feature 2, 1 of image 4 is inf; every value must be a finite number'


UNMAPPED = {'plain': lambda array: array, 'half': lambda array: array.astype(np.float16),
            'Fortran': np.asfortranarray, 'double': lambda array: array.astype(np.float64)}


@pytest.mark.parametrize('as_saved', UNMAPPED.values(), ids=UNMAPPED)
@pytest.mark.parametrize('cached', [True, False])
def test_a_matrix_that_cannot_be_mapped(as_saved, cached, tmp_path, cache, monkeypatch):
    rows = as_saved(np.random.default_rng(0).random((3000, 3)).astype(np.float32))
    path = tmp_path / 'feats.npy'
    np.save(path, rows)
    memmap = np.memmap

    def refuse(name, *args):
        if not cached or os.fspath(name) == os.fspath(path):
            raise OSError(errno.ENODEV, 'No such device')
        return memmap(name, *args)
    monkeypatch.setattr(np, 'memmap', refuse)
    monkeypatch.setattr('chainer_caption.data.matrix._BLOCK', 5000)
    for _ in range(2):
        matrix = open_matrix(path, 3000)
        np.testing.assert_array_equal(matrix, rows.astype(matrix.dtype))
        assert isinstance(matrix, memmap) == cached and not matrix.flags.writeable
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert 'it is cut short' in refusal(path)
    rows[2999, 1] = np.nan
    np.save(path, rows)
    assert refusal(path).startswith('feature 1 of image 2999 is nan')


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists('/dev/fuse'), reason='needs root and /dev/fuse')
def test_a_mount_that_refuses_mmap(shared, tmp_path, make_dataset):
    program = shared.parent / 'cases' / 'unreadable' / 'minifuse.py'
    if not program.exists():
        pytest.skip('needs the file system in ../shared/cases/unreadable')
    folder, mount = make_dataset(), tmp_path / 'mount'
    expected = np.array(Dataset(folder).features)
    (folder / 'vgg_feats.mat').unlink()
    np.save(folder / 'feats.npy', expected)
    np.save(folder / 'grids.npy', np.repeat(expected[:, None], 3, axis=1))
    mount.mkdir()
    server = subprocess.Popen([sys.executable, program, mount, folder, 'direct_io'], stdout=subprocess.DEVNULL)
    try:
        while not os.path.ismount(mount):
            if server.poll() is not None:
                pytest.skip('cannot mount here')
            time.sleep(0.01)
        with open(mount / 'feats.npy', 'rb') as f, pytest.raises(OSError, match='No such device'):
            np.memmap(f, np.float32, 'r')
        for _ in range(2):
            dataset = Dataset(mount)
            np.testing.assert_array_equal(dataset.features, expected)
            np.testing.assert_array_equal(dataset.grids[:, 2], expected)
    finally:
        subprocess.run(['umount', '-l', mount], check=False)
        server.kill()
        server.wait()


CELLS = np.array([[1, 'a'], [2, 'b']], object)


@pytest.mark.parametrize('save, reason', [
    (lambda path: scipy.io.savemat(path, {'other': 1.0, 'names': 2.0}), r'no variable "feats" \(found: other, names\)'),
    (lambda path: scipy.io.savemat(path, {}), r'no variable "feats" \(found: none\)'),
    (lambda path: mat5(path, CELLS), 'cell'),
    (lambda path: mat5(path, 'text'), 'char'),
    (lambda path: mat5(path, {'a': 1}), 'struct'),
    (lambda path: mat5(path, scipy.sparse.eye_array(4)), 'sparse'),
    (lambda path: mat5(path, np.ones((4, 4), complex)), 'real numbers'),
    (lambda path: mat5(path, np.ones((4, 4), np.int32)), 'int32'),
    (lambda path: mat5(path, np.ones((2, 3, 4))), 'shape'),
    (lambda path: mat5(path, np.ones((0, 4))), 'shape'),
    (lambda path: mat5(path, np.ones((4, 0))), 'shape'),
    (lambda path: mat73(path, ROWS, name='other'), r'no array "feats" \(found: other\)'),
    (lambda path: mat73(path, np.ones((2, 3, 4))), 'shape'),
    (lambda path: mat73(path, np.ones((0, 4))), 'shape'),
    (lambda path: mat73(path, h5py.Empty('f')), 'shape'),
    (lambda path: mat73(path, 'text'), 'real numbers'),
    (lambda path: path.write_bytes(npy(np.ones(4))), 'shape'),
    (lambda path: path.write_bytes(npy(np.ones((2, 3, 4)))), 'shape'),
    (lambda path: path.write_bytes(npy(np.ones((0, 4), np.float32))), 'shape'),
    (lambda path: path.write_bytes(npy(np.float32(1))), 'shape'),
    (lambda path: path.write_bytes(npy(np.ones((4, 4), complex))), 'real numbers'),
    (lambda path: path.write_bytes(npy(np.ones((4, 4), bool))), 'real numbers'),
    (lambda path: path.write_bytes(npy(np.full((2, 2), 'text'))), 'real numbers'),
    (lambda path: save_npz(path, other=ROWS), 'no array "feats"'),
    (lambda path: save_npz(path, feats=np.ones((2, 3, 4))), 'shape'),
    (lambda path: path.write_text('"feats": no matrix at all'), 'not a sound'),
    (lambda path: path.write_bytes(b''), 'not a sound'),
    (lambda path: path.mkdir(), 'directory'),
    (lambda path: None, '^no such file$'),
])
def test_what_is_no_matrix(save, reason, tmp_path):
    save(tmp_path / 'feats')
    message = refusal(tmp_path / 'feats', 2)
    assert re.search(reason, message), message


@pytest.mark.parametrize('content', [
    npy_claiming('(1000000000, 4096)'), npy_claiming('(10000000000000000000000, 4096)'),
    npy_claiming('(2305843009213693952, 4)'), npy_claiming('(40, 1)'), npy_claiming('(-5, 4)'),
    npy_claiming('(True, 4)'), npy_claiming("'ab'"), npy_of("{'descr': '<f4', 'shape': (5, 4\n"), npy_of('{\n'),
    npy_of('(' * 3000), npy_of(' ' * 20000), npy_of("{'descr': 'nonsense', 'shape': (5, 4)}\n"),
    npy_claiming('(5, 4)').replace(b'NUMPY\1', b'NUMPY\7'),
], ids=['terabytes', 'beyond 64 bits', 'overflowing', 'too many', 'negative', 'truth', 'text', 'unclosed', 'brace',
        'deep', 'long', 'dtype', 'version'])
def test_headers_that_lie(content, tmp_path):
    for name, made in (('feats.npy', content), ('feats.npz', npz_of(content))):
        (tmp_path / name).write_bytes(made)
        refusal(tmp_path / name)


def test_mat_headers_that_lie(tmp_path, cache):
    path = tmp_path / 'vgg_feats.mat'
    for shape in ((4096, 2 ** 31 - 1), (-5, -7), (5, 8), (5, 6)):
        path.write_bytes(mat_claiming(*shape))
        refusal(path)
    with h5py.File(path, 'w') as f:                     # HDF5 stores no chunk that was never written
        f.create_dataset('feats', shape=(10 ** 9, 4096), dtype='f', chunks=(64, 64))
    assert 'claims 16,384,000,000,000 bytes' in refusal(path)
    assert not list(cache.rglob('*.npy*'))


def test_damaged_archives(tmp_path):
    path = tmp_path / 'feats.npz'
    for flag, value in ((6, 1), (8, 99)):               # encrypted; an unknown compression
        save_npz(path, feats=ROWS)
        content = bytearray(path.read_bytes())
        content[flag] = content[content.index(b'PK\1\2') + flag + 2] = value
        path.write_bytes(content)
        refusal(path)
    save_npz(path, feats=ROWS)
    content = bytearray(path.read_bytes())
    content[220] ^= 0xff
    path.write_bytes(content)
    assert 'CRC' in refusal(path)


def test_damaged_chunk(tmp_path):
    path = tmp_path / 'vgg_feats.mat'
    mat73(path, np.random.default_rng(0).random((1000, 64)), chunks=(100, 64), compression='gzip')
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 500] = bytes(500)
    path.write_bytes(content)
    assert 'damaged at image' in refusal(path)


@pytest.mark.parametrize('save', [
    lambda path, payload: path.write_bytes(npy(np.array([[payload]], object))),
    lambda path, payload: save_npz(path, feats=np.array([[payload]], object)),
    lambda path, payload: path.write_bytes(npz_of(pickle.dumps(payload))),
    lambda path, payload: path.write_bytes(pickle.dumps(payload)),
], ids=['npy', 'npz', 'npz member', 'bare'])
def test_pickles_are_refused_and_nothing_runs(save, payload, tmp_path):
    save(tmp_path / 'feats', payload)
    refusal(tmp_path / 'feats')
    assert not payload.ran
    pickle.loads(pickle.dumps(payload))
    assert payload.ran, 'it would have run'

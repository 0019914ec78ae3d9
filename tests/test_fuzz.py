"""Untrusted files are read or refused in one line, within bounds of memory and time: known bombs, and a short run of
`fuzz.py`."""
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import read_image
from PIL import Image

from chainer_caption import Bundle, Dataset, InputError
from chainer_caption.data.caption_parsers import read_caption_file
from chainer_caption.data.matrix import open_matrix
from chainer_caption.evaluation.predictions import read_predictions
from chainer_caption.features.caffemodel import read_caffemodel
from chainer_caption.features.encoders.vgg import VGG
from chainer_caption.features.images import ImageError
from chainer_caption.features.torch_weights import TorchWeights
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.journal import MAGIC, Journal
from chainer_caption.storage.torch_files import read_state_dict

LINK = VGG((1, 1), 2, 5, 8)


@contextlib.contextmanager
def little_memory(mebibytes=100):
    """The block raises the memory peak of this process by no more than this."""
    try:
        pathlib.Path('/proc/self/clear_refs').write_text('5')       # resets the peak
    except OSError:
        yield
        return
    before = _kibibytes('VmRSS')
    yield
    taken = (_kibibytes('VmHWM') - before) / 1024
    assert taken < mebibytes, f'{taken:.0f} MiB were taken'


def _kibibytes(what):
    return int(re.search(rf'{what}:\s+(\d+)', pathlib.Path('/proc/self/status').read_text())[1])


def refusal(read, path, *args):
    """The message that refuses a file, one printable line, without the file's name."""
    with little_memory(), pytest.raises((InputError, ImageError)) as caught:
        read(path, *args)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 2100
    return message.removeprefix(f'{path}: ')


def test_a_short_run_of_the_fuzzer(package_environment):
    done = subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), 'fuzz.py'), '--inputs', '1000'],
                          env={**package_environment, 'NUMBA_NUM_THREADS': '1'}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


# ---- Sizes are checked before memory is taken

def npy_of(shape, descr='<f4', body=bytes(80), length=None):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b'\x93NUMPY\2\0' + struct.pack('<I', len(header) if length is None else length) + header + body


def npz_of_zeros(path, shape, names=('feats',)):
    """A compressed archive of zeros: a thousand floats take four bytes."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f'{name}.npy', 'w') as f:
                f.write(npy_of(shape, body=b''))
                left = 4 * int(np.prod(shape))
                while left:
                    left -= f.write(bytes(min(left, 2 ** 22)))
    return path


def mat5_claiming(rows, columns):
    stream = io.BytesIO()
    scipy.io.savemat(stream, {'feats': np.ones((5, 7))})
    return stream.getvalue().replace(struct.pack('<ii', 5, 7), struct.pack('<ii', rows, columns))


def test_a_matrix_of_ten_terabytes(tmp_path):
    path = tmp_path / 'feats'
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, 'w') as archive:
        archive.writestr('feats.npy', npy_of((10 ** 9, 2500)))
    for content in (npy_of((10 ** 9, 2500)), npz.getvalue(), mat5_claiming(2500, 10 ** 9)):
        path.write_bytes(content)
        assert '(1000000000, 2500)' in refusal(open_matrix, path) or 'claims' in refusal(open_matrix, path)
    with h5py.File(path, 'w') as f:
        f.create_dataset('feats', shape=(10 ** 9, 2500), dtype='f', chunks=(64, 64))
    assert 'claims 10,000,000,000,000 bytes' in refusal(open_matrix, path)


def test_zip_bomb_as_matrix_and_as_weights(tmp_path, model_dir):
    path = npz_of_zeros(tmp_path / 'feats.npz', (10_000, 4096))
    for read in (open_matrix, npz_shapes, read_npz):
        assert 'claims 163,84' in refusal(read, path)
    model = shutil.copytree(model_dir, tmp_path / 'model')
    shutil.copy(path, model / 'weights.npz')
    with little_memory(), pytest.raises(InputError, match='claims'):
        Bundle.load(model)


def test_members_that_share_their_bytes(tmp_path):
    path = tmp_path / 'feats.npz'
    content = npz_of_zeros(path, (1000, 4096)).read_bytes()
    start, end = content.index(b'PK\1\2'), content.index(b'PK\5\6')
    entries = b''.join(content[start:end].replace(b'feats.npy', b'%05d.npy' % i) for i in range(500))
    path.write_bytes(content[:start] + entries + content[end:end + 8] + struct.pack(
        '<HHII', 500, 500, len(entries), start) + content[-2:])
    assert 'do not fit into it' in refusal(read_npz, path)


def test_header_bombs(tmp_path):
    path = tmp_path / 'feats.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('feats.npy', 'w') as f:
        f.write(b'\x93NUMPY\2\0' + struct.pack('<I', 60_000_000) + b'{')
        f.write(b' ' * 60_000_000)
    for read in (open_matrix, read_npz):
        assert 'header of an array is damaged' in refusal(read, path)
    (tmp_path / 'feats.npy').write_bytes(npy_of('(' * 3000 + ')' * 3000))
    assert 'header of an array is damaged' in refusal(open_matrix, tmp_path / 'feats.npy')


def test_zlib_bomb_within_a_matlab_file(tmp_path):
    """5 x 7 numbers in an element that unpacks to 200 MB, which stays in the child process."""
    body = mat5_claiming(5, 7)[128:]
    at = body.index(struct.pack('<II', 9, 280))
    bomb = zlib.compressobj(1)
    packed = bomb.compress(struct.pack('<II', 14, 200_000_056) + body[8:at] + struct.pack('<II', 9, 200_000_000))
    packed += b''.join(bomb.compress(bytes(4_000_000)) for _ in range(50)) + bomb.flush()
    path = tmp_path / 'vgg_feats.mat'
    path.write_bytes(mat5_claiming(5, 7)[:128] + struct.pack('<II', 15, len(packed)) + packed)
    with little_memory(), contextlib.suppress(InputError):
        assert open_matrix(path).shape == (7, 5)


def test_compressed_hdf5_bomb(tmp_path):
    path = tmp_path / 'vgg_feats.mat'
    with h5py.File(path, 'w') as f:
        f.create_dataset('feats', shape=(6000, 4096), dtype='f', chunks=(1000, 4096), compression='gzip')
        for at in range(0, 6000, 1000):
            f['feats'][at:at + 1000] = 0
    assert 'claims 98,304,000 bytes' in refusal(open_matrix, path)


@pytest.mark.parametrize('opening', ['[', '{"a":'])
def test_json_of_a_million_levels(opening, tmp_path, model_dir, dataset_dir):
    bomb = opening * 1_000_000
    path = tmp_path / 'bomb.json'
    path.write_text(bomb)
    assert 'nested too deeply' in refusal(read_caption_file, path)
    assert 'nested too deeply' in refusal(Dataset, None, path, dataset_dir / 'vgg_feats.mat')
    dataset = Dataset(dataset_dir)
    refusal(read_predictions, path, dataset, dataset.images('test'))
    for name in ('config.json', 'vocabulary.json'):
        model = shutil.copytree(model_dir, tmp_path / f'model of {name}')
        (model / name).write_text(bomb)
        with little_memory(), pytest.raises(InputError, match='nested too deeply'):
            Bundle.load(model)
    path.write_text(MAGIC.decode() + json.dumps({'a': 1}) + '\n' + bomb + '\n')
    with Journal(path, {'a': 2}) as journal:            # no row can be read
        assert list(journal.rows()) == []


def test_moderately_deep_json(tmp_path, model_dir):
    """It parses, but recursive code would run out of stack."""
    model = shutil.copytree(model_dir, tmp_path / 'model')
    config = json.loads((model / 'config.json').read_text())
    for depth in (33, 500, 900):
        (model / 'config.json').write_text(json.dumps({**config, 'hidden': 0}).replace(
            '"hidden": 0', '"hidden": ' + '[' * depth + ']' * depth))
        with pytest.raises(InputError):
            Bundle.load(model)


@pytest.mark.parametrize('size', [(20_000, 10_000), (2 ** 31 - 1, 2 ** 31 - 1)])
def test_image_of_200_megapixels(size, tmp_path):
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    path = tmp_path / 'bomb.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>II5B', *size, 8, 2, 0, 0, 0))
                     + chunk(b'IDAT', zlib.compress(bytes(10 ** 7))) + chunk(b'IEND', b''))
    assert 'pixels are more than the limit' in refusal(read_image, path)


def test_jpeg_of_endless_scans(tmp_path):
    stream = io.BytesIO()
    Image.new('L', (4000, 4000)).save(stream, 'JPEG', progressive=True)
    content = stream.getvalue()
    scan, end = content.rindex(b'\xff\xda'), content.rindex(b'\xff\xd9')
    (tmp_path / 'good.jpg').write_bytes(content)
    (tmp_path / 'bomb.jpg').write_bytes(content[:end] + content[scan:end] * 400 + content[end:])
    assert read_image(tmp_path / 'good.jpg').shape == (4000, 4000, 3)
    assert 'more than 312 scans' in refusal(read_image, tmp_path / 'bomb.jpg')


def test_jpeg_2000_of_endless_tiles(tmp_path):
    stream = io.BytesIO()
    Image.new('RGB', (255, 255)).save(stream, 'JPEG2000', no_jp2=True)
    content = bytearray(stream.getvalue())
    at = content.index(b'\xff\x51') + 6
    content[at + 16:at + 24] = struct.pack('>II', 1, 1)             # the tile size
    (tmp_path / 'bomb.j2k').write_bytes(content)
    assert 'tiles' in refusal(read_image, tmp_path / 'bomb.j2k')


def test_sparse_file_of_terabytes_with_an_image_header(tmp_path):
    with open(tmp_path / 'bomb.webp', 'wb') as f:
        f.write(b'RIFF\xff\xff\xff\x7fWEBPVP8 ')
        f.truncate(2 ** 40)
    assert 'is no image' in refusal(read_image, tmp_path / 'bomb.webp')


@pytest.mark.parametrize('content', [
    b'\x80' * 5_000_000,                                                    # an endless number
    b'\xa2\6' + b'\xff' * 8 + b'\x7f' + b'x' * 100,                         # a layer of 9 exabytes
    b'\xa2\6\x20\x0a\1a\x3a\x1b\x3a\x14\x0a\x12' + b'\xff' * 8 + b'\x7f' + b'\xff' * 8 + b'\1' + b'\x2a\4' + bytes(9),
    b'\xa2\6\x06\x0a\1a\x3a\xff\xff\x7f', b'\x08\1' * 2_000_000], ids=range(5))
def test_invalid_caffemodels(content, tmp_path):
    (tmp_path / 'a.caffemodel').write_bytes(content)
    assert 'no caffemodel' in refusal(read_caffemodel, tmp_path / 'a.caffemodel')


def safetensors_of(header, length=None, body=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + body


@pytest.mark.parametrize('content', [
    safetensors_of({}, 2 ** 60), safetensors_of({}, 2 ** 63), safetensors_of(b'[' * 1_000_000),
    safetensors_of({'features.0.weight': {'dtype': 'F32', 'shape': [10 ** 12], 'data_offsets': [0, 4 * 10 ** 12]}}),
    safetensors_of({'features.0.weight': {'dtype': 'F32', 'shape': [2 ** 62, 2], 'data_offsets': [0, 16]}})],
    ids=range(5))
def test_invalid_safetensors(content, tmp_path):
    (tmp_path / 'a.safetensors').write_bytes(content)
    refusal(TorchWeights, tmp_path / 'a.safetensors', LINK, {})


def test_safetensors_with_a_layer_number_of_5000_digits(tmp_path):
    entry = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
    (tmp_path / 'a.safetensors').write_bytes(safetensors_of({f'features.{"9" * 5000}.weight': entry}))
    assert TorchWeights(tmp_path / 'a.safetensors', LINK, {}).shapes == {}


def test_captions_whose_metrics_take_quadratic_time(tmp_path, dataset_dir):
    dataset = Dataset(dataset_dir)
    line = json.dumps({'image_id': 5, 'caption': 'a word ' * 1400})
    (tmp_path / 'a.jsonl').write_text(line)
    assert 'a caption of 2,800 words' in refusal(
        read_predictions, tmp_path / 'a.jsonl', dataset, dataset.images('test'))
    (tmp_path / 'a.csv').write_text('filename,caption\n1.png,' + 'a\u0301\u0323' * 30_000, encoding='utf-8')
    assert 'a caption of 90,000 letters' in refusal(read_caption_file, tmp_path / 'a.csv')


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for read in (open_matrix, read_npz, read_caffemodel, read_image, read_caption_file, read_state_dict):
        assert 'not a regular file' in refusal(read, tmp_path / 'pipe')
    assert 'not a regular file' in refusal(TorchWeights, tmp_path / 'pipe', LINK, {})
    os.mkfifo(tmp_path / 'dataset.json')
    with pytest.raises(InputError, match='not a regular file'):
        Dataset(None, tmp_path / 'dataset.json', tmp_path / 'pipe')

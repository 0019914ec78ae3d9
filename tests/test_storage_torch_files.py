"""PyTorch weights files are read exactly, without PyTorch, and no code in them is executed."""
import io
import pickle
import zipfile

import numpy as np
import pytest
from test_fuzz import little_memory
from torch_writer import WRITERS, call, many, name, number, ordered, storage, tensor, text, write_state_dict, write_zip

from chainer_caption.errors import InputError
from chainer_caption.storage.pickles import ForbiddenCall, read_pickle
from chainer_caption.storage.torch_files import read_state_dict

both = pytest.mark.parametrize('style', WRITERS)


def arrays_of(path):
    return {key: stored.read() for key, stored in read_state_dict(path).items()}


def refusal(path):
    with little_memory(), pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and message.isprintable()
    return message


@both
@pytest.mark.parametrize('rebuild', ['_rebuild_tensor', '_rebuild_tensor_v2'])
def test_arrays_of_every_type(style, rebuild, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f'layer.{dtype}': rng.integers(0, 2, (3, 4, 2)).astype(dtype)
              for dtype in ('float32', 'float64', 'float16', 'int64', 'uint8', 'bool')}
    arrays |= {'scalar': np.array(7), 'empty': np.zeros((0, 5), np.float32), 'Umlaute: ä': rng.random(9)}
    write_state_dict(tmp_path / 'a.pth', arrays, style, rebuild)
    described = read_state_dict(tmp_path / 'a.pth')
    assert {key: (stored.shape, stored.dtype) for key, stored in described.items()} == {
        key: (array.shape, array.dtype) for key, array in arrays.items()}
    for key, array in arrays_of(tmp_path / 'a.pth').items():
        assert array.dtype == arrays[key].dtype and array.flags.c_contiguous
        np.testing.assert_array_equal(array, arrays[key], strict=True)


@both
def test_views_of_one_storage(style, tmp_path):
    whole = np.arange(24, dtype=np.float32)
    stored = storage('FloatStorage', 'w', 24, style == 'old')
    views = {'all': (0, (4, 6), (6, 1)), 'transposed': (0, (6, 4), (1, 6)), 'part': (7, (2, 3), (6, 1)),
             'column': (3, (4,), (6,)), 'last': (23, (), ())}
    WRITERS[style](tmp_path / 'a.pth', ordered({key: tensor(stored, *view) for key, view in views.items()}),
                   {'w': whole})
    square = whole.reshape(4, 6)
    expected = {'all': square, 'transposed': square.T, 'part': square[1:3, 1:4], 'column': square[:, 3],
                'last': np.float32(23)}
    for key, array in arrays_of(tmp_path / 'a.pth').items():
        np.testing.assert_array_equal(array, expected[key])


def test_a_part_of_a_storage_in_the_old_format(tmp_path):
    view = many(text('v'), number(4), number(6))
    stored = many(text('storage'), name('torch', 'LongStorage'), text('w'), text('cpu'), number(12), view) + b'Q'
    WRITERS['old'](tmp_path / 'a.pth', ordered({'a': tensor(stored, 1, (5,), (1,))}), {'w': np.arange(12)})
    np.testing.assert_array_equal(arrays_of(tmp_path / 'a.pth')['a'], np.arange(5, 10))


@both
def test_parameters_and_checkpoints(style, tmp_path):
    data = tensor(storage('FloatStorage', '0', 3, style == 'old'), 0, (3,), (1,))
    rebuilt = call(name('torch._utils', '_rebuild_parameter'), data, b'\x88', call(name('collections', 'OrderedDict')))
    older = name('torch.nn.parameter', 'Parameter') + many(data) + b'\x81' + many(b'\x88', b'N') + b'b'
    inner = ordered({'rebuilt': rebuilt, 'older': older, 'epoch': number(5)})
    outer = b'}(' + text('epoch') + number(5) + text('state_dict') + inner + b'u'
    WRITERS[style](tmp_path / 'a.pth', outer, {'0': np.arange(3, dtype=np.float32)})
    found = arrays_of(tmp_path / 'a.pth')
    assert found.keys() == {'rebuilt', 'older'}
    for array in found.values():
        np.testing.assert_array_equal(array, [0, 1, 2])


# ---- What no state dict needs

@both
@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_runs_something(style, protocol, payload, tmp_path):
    harmful = pickle.dumps({'weight': payload}, protocol)[:-1]
    WRITERS[style](tmp_path / 'a.pth', harmful, {})
    assert 'would call posix.mkdir, and that could do anything; refused' in refusal(tmp_path / 'a.pth')
    assert not payload.ran
    pickle.loads(harmful + b'.')
    assert payload.ran                                  # as PyTorch would have, until it learned better


@both
@pytest.mark.parametrize('value', [
    name('builtins', 'eval'), name('torch._utils', '_rebuild_tensor_v3'), name('torch', 'load'),
    name('numpy._core.multiarray', '_reconstruct'), name('torch.storage', '_load_from_bytes')])
def test_names_that_are_not_known(style, value, tmp_path):
    WRITERS[style](tmp_path / 'a.pth', value, {})
    assert 'would call' in refusal(tmp_path / 'a.pth')


@pytest.mark.parametrize('value', [
    name('collections', 'OrderedDict') + many() + many() + b'R',        # what is no function is called
    name('torch', 'FloatStorage') + many() + b'R',                      # nor is a type
    text('a') + b'}(' + text('b') + number(1) + b'ub0', b'}' + many() * 2 + b's', b'](NNu', b'}(NNe',
    b'}' + b')\x85' + b'\x85' * 100_000 + b'Ns',   # a key as deep as that
    b'N' * 600_000, b'h\x07', b'0', b'a', b'R', b'b', b't', b'Q', b'\x8b' + bytes([0, 0, 0, 127]), b'i' + b'a\nb\n',
    b'\x82\x01', b'\x97', b'\x8f', b''], ids=lambda value: value[:16].hex())
def test_pickles_that_are_none(value):
    with little_memory(), pytest.raises(ValueError) as caught:
        read_pickle(io.BytesIO(b'\x80\x02' + value + b'.'), {'collections.OrderedDict': lambda: {}, 'torch.x': 1})
    assert isinstance(caught.value, ForbiddenCall) == (b'FloatStorage' in value)


@both
@pytest.mark.parametrize('offset, shape, strides', [
    (0, (25,), (1,)), (1, (24,), (1,)), (0, (2, 2), (23, 1)), (0, (4,), (-1,)), (-1, (4,), (1,)), (0, (-4,), (1,)),
    (0, (10 ** 6,), (0,)), (0, (2 ** 40, 2 ** 40), (1, 1)), (24, (1,), (1,)), (0, (4, 6), (1,)),
    (0, (1,) * 40, (1,) * 40), (2 ** 62, (1,), (1,))])
def test_tensors_outside_of_their_storage(style, offset, shape, strides, tmp_path):
    value = tensor(storage('FloatStorage', '0', 24, style == 'old'), offset, shape, strides)
    WRITERS[style](tmp_path / 'a.pth', ordered({'a': value}), {'0': np.arange(24, dtype=np.float32)})
    refusal(tmp_path / 'a.pth')


@both
@pytest.mark.parametrize('claimed', [25, 10 ** 6, 2 ** 31 - 1, 2 ** 60])
def test_storages_that_claim_more_than_there_is(style, claimed, tmp_path):
    value = tensor(storage('FloatStorage', '0', claimed, style == 'old'), 0, (24,), (1,))
    WRITERS[style](tmp_path / 'a.pth', ordered({'a': value}), {'0': np.arange(24, dtype=np.float32)})
    assert 'storage 0 has not the' in refusal(tmp_path / 'a.pth')


@both
def test_files_that_are_cut_or_damaged(style, tmp_path):
    path = tmp_path / 'a.pth'
    write_state_dict(path, {'a': np.arange(2000.0), 'b': np.arange(5.0)}, style)
    whole = path.read_bytes()
    for length in (0, 1, 2, 10, 100, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refusal(path)
    path.unlink()
    assert refusal(path).endswith('no such file')


def test_a_file_that_becomes_shorter(tmp_path):
    write_state_dict(tmp_path / 'a.pth', {'a': np.arange(2000.0)}, 'old')
    stored = read_state_dict(tmp_path / 'a.pth')['a']
    (tmp_path / 'a.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:-1])
    with pytest.raises(EOFError):
        stored.read()


def test_archives_that_are_refused(tmp_path):
    value = ordered({'a': tensor(storage('FloatStorage', '0', 24, False), 0, (24,), (1,))})
    storages = {'0': np.zeros(24, np.float32)}
    write_zip(tmp_path / 'a.pth', value, storages, byteorder=b'big')
    assert 'another order of bytes' in refusal(tmp_path / 'a.pth')
    write_zip(tmp_path / 'a.pth', value, storages, zipfile.ZIP_LZMA)
    assert 'compressed' in refusal(tmp_path / 'a.pth')
    write_zip(tmp_path / 'a.pth', value, {'1': storages['0']})
    assert 'data/0' in refusal(tmp_path / 'a.pth')
    write_zip(tmp_path / 'a.pth', call(name('collections', 'OrderedDict')), {})
    assert 'holds no state dict' in refusal(tmp_path / 'a.pth')
    write_zip(tmp_path / 'a.pth', value.replace(b'FloatStorage', b'BFloat16Storage'), storages)
    assert 'BFloat16; save them as float32' in refusal(tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a.txt', 'x')
    refusal(tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02' + b'(' * 2 ** 26)      # 65 kB of them
    refusal(tmp_path / 'a.pth')

"""Pickles of any Python and NumPy are read exactly, and no code in them is executed."""
import argparse
import io
import pickle

import numpy as np
import pytest
from test_fuzz import little_memory

from chainer_caption.errors import InputError
from chainer_caption.storage.pickle_files import PickledArray, PickledNamespace, read_pickle_file
from chainer_caption.storage.pickles import read_pickle

every = pytest.mark.parametrize('protocol', range(5))

# What Python 2.7's cPickle and NumPy 1.9 made, in protocol 0, of {'a': numpy.array([[1, 2], [3, .1]], order='F'),
# u'\xe9': 'na\xc3\xafve', 'latin': 'na\xefve', 'it\'s': numpy.float64(.1), 'n': [7L, True, None, -1.5]} with
# argparse.Namespace(x=3) as 'opt'.
OF_PYTHON_2 = (
    b"(dp1\nS'a'\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntS'b'\ntRp4\n(I1\n(I2\nI2\n"
    b"tcnumpy\ndtype\np5\n(S'f8'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI01\n"
    b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x08@\\x00\\x00\\x00\\x00\\x00\\x00\\x00@\\x9a\\x99\\x99\\x99\\x99\\x99\\xb9?'\n"
    b"tbsS'opt'\np7\nccopy_reg\n_reconstructor\np8\n(cargparse\nNamespace\np9\nc__builtin__\nobject\np10\nNtRp11\n"
    b'(dp12\nS\'x\'\nI3\nsbsS\'latin\'\np13\nS\'na\\xefve\'\np14\nsV\xe9\nS\'na\\xc3\\xafve\'\np15\nsS"it\'s"\n'
    b"p16\ncnumpy.core.multiarray\nscalar\np17\n(g6\nS'\\x9a\\x99\\x99\\x99\\x99\\x99\\xb9?'\ntRp18\nsS'n'\n(lp19\n"
    b'L7L\naI01\naNaF-1.5\nas.')


def refusal(path):
    with little_memory(), pytest.raises(InputError) as caught:
        read_pickle_file(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and message.isprintable()
    return message


def read(path, data):
    path.write_bytes(data)
    return read_pickle_file(path)


@every
def test_arrays_of_every_type_and_order(protocol, tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, (3, 4)).astype(dtype) for dtype in ('f2', 'f4', 'f8', 'i1', 'i4', 'i8', 'u2', '?')]
    arrays += [rng.random((3, 4)).astype('>f8'), np.asfortranarray(rng.random((3, 4))), rng.random(7), np.array(2.5),
               np.zeros((0, 5)), np.frombuffer(b'readable', np.uint8)]
    found = read(tmp_path / 'a.p', pickle.dumps(arrays, protocol))
    for array, expected in zip(found, arrays, strict=True):
        assert isinstance(array, PickledArray) and (array.shape, array.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(array.read(), expected, strict=True)


@every
def test_plain_values_and_namespaces(protocol, tmp_path):
    plain = {'text': 'naïve ', 3: [1, -2 ** 40, 1.5, None, True, ('x', ())], 'same': 'naïve '}
    value = {**plain, 'opt': argparse.Namespace(size=3, names=['a']), 'n': np.float64(0.1), 'i': np.int32(-7)}
    found = read(tmp_path / 'a.p', pickle.dumps(value, protocol))
    assert isinstance(found['opt'], PickledNamespace) and found['opt'].values == {'size': 3, 'names': ['a']}
    assert (found['n'], found['i']) == (0.1, -7) and {key: found[key] for key in plain} == plain


def test_what_python_2_wrote(tmp_path):
    found = read(tmp_path / 'a.p', OF_PYTHON_2)
    np.testing.assert_array_equal(found.pop('a').read(), [[1, 2], [3, 0.1]])
    assert found.pop('opt').values == {'x': 3}
    assert found == {'é': 'naïve', 'latin': b'na\xefve', "it's": 0.1, 'n': [7, True, None, -1.5]}


@pytest.mark.parametrize('data', [b"S'na\\xefve'\np0\n.", b'U\x05na\xefve.', b'T\x05\0\0\0na\xefve.'])
def test_strings_that_are_no_text_are_bytes(data):
    assert read_pickle(io.BytesIO(data), {}) == b'na\xefve'
    assert read_pickle(io.BytesIO(data.replace(b'\\xef', b'\\x65').replace(b'\xef', b'e')), {}) == 'naeve'


@every
def test_a_pickle_that_runs_something(protocol, payload, tmp_path):
    harmful = pickle.dumps({'model': {'We': np.zeros((2, 2)), 'x': payload}}, protocol)
    (tmp_path / 'a.p').write_bytes(harmful)
    assert 'would call posix.mkdir, and that could do anything; refused' in refusal(tmp_path / 'a.p')
    assert not payload.ran
    pickle.loads(harmful)
    assert payload.ran


@pytest.mark.parametrize('value', [
    np.array([object()]), np.array(['text']), np.zeros(2, [('a', 'f4')]), {1, 2}, argparse.ArgumentParser, print,
    np.zeros(3, complex), pickle.PickleBuffer])
def test_values_that_are_not_known(value, tmp_path):
    (tmp_path / 'a.p').write_bytes(pickle.dumps(value, 2))
    refusal(tmp_path / 'a.p')


@pytest.mark.parametrize('old, new', [
    (b'I3\nI4\n', b'I3\nI5\n'), (b'I3\nI4\n', b'I-3\nI-4\n'), (b'I3\nI4\n', b'I4000000000\nI4\n'), (b'I4\n', b'F4\n'),
    (b'Vf8', b'VO8'), (b'Vf8', b'V(f4,f4)'), (b'Vf8', b'Vf4'), (b'(I1\n', b'('), (b'Vlatin1', b'Vzip'), (b'V<', b'V?')])
def test_arrays_that_lie(old, new, tmp_path):
    data = pickle.dumps(np.arange(12.0).reshape(3, 4), 0)
    read(tmp_path / 'a.p', data)
    assert old in data
    (tmp_path / 'a.p').write_bytes(data.replace(old, new))
    refusal(tmp_path / 'a.p')


def test_files_that_are_cut_or_missing(tmp_path):
    data = pickle.dumps({'a': np.arange(20.0), 'opt': argparse.Namespace(x=1)}, 2)
    for length in (0, 1, 2, 20, 100, len(data) // 2, len(data) - 1):
        (tmp_path / 'a.p').write_bytes(data[:length])
        refusal(tmp_path / 'a.p')
    assert refusal(tmp_path / 'b.p').endswith('no such file')
    with open(tmp_path / 'a.p', 'wb') as f:
        f.truncate(2 ** 40)
    assert 'too many for such a file' in refusal(tmp_path / 'a.p')

"""Writes what `torch.save` writes, in both formats, instruction by instruction: state dicts, sound ones and others.

From PyTorch's description of its formats (`torch/serialization.py`, `torch/_utils.py`) and from the instructions of
pickle's protocol 2 (`Lib/pickletools.py`).
"""
import io
import struct
import zipfile

import numpy as np

STORAGES = {'float32': 'FloatStorage', 'float64': 'DoubleStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage',
            'uint8': 'ByteStorage', 'bool': 'BoolStorage'}
MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
VERSION = b'\x80\x02M\xe9\x03.'


def text(value):
    data = value.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def number(value):
    return b'J' + struct.pack('<i', value) if abs(value) < 2 ** 31 else b'\x8a\x09' + value.to_bytes(9, 'little')


def many(*values):
    return b'(' + b''.join(values) + b't'


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def call(function, *arguments):
    return function + many(*arguments) + b'R'


def storage(kind, key, size, old):
    described = [text('storage'), name('torch', kind), text(key), text('cpu'), number(size)]
    return many(*described, *([b'N'] if old else [])) + b'Q'


def tensor(stored, offset, shape, strides, rebuild='_rebuild_tensor_v2'):
    more = [b'\x89', call(name('collections', 'OrderedDict'))] if rebuild.endswith('2') else []
    return call(name('torch._utils', rebuild), stored, number(offset), many(*map(number, shape)),
                many(*map(number, strides)), *more)


def ordered(items):
    filled = b'(' + b''.join(text(key) + value for key, value in items.items()) + b'u' if items else b''
    # PyTorch leaves versions of its modules in an attribute.
    return call(name('collections', 'OrderedDict')) + filled + b'}(' + text('_metadata') + b'}ub'


def pickled(value):
    return b'\x80\x02' + value + b'.'


def write_old(path, value, storages):
    """The format before PyTorch 1.6. `storages` is `{key: array}`; `value` a pickle without its ends, as below."""
    machine = b'}(' + text('protocol_version') + number(1001) + text('little_endian') + b'\x88u'
    listed = b'](' + b''.join(map(text, storages)) + b'e'
    with open(path, 'wb') as f:
        f.write(MAGIC + VERSION + pickled(machine) + pickled(value) + pickled(listed))
        for array in storages.values():
            f.write(struct.pack('<q', array.size) + array.tobytes())


def write_zip(path, value, storages, compression=zipfile.ZIP_STORED, byteorder=b'little'):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', pickled(value))
        archive.writestr('archive/byteorder', byteorder)
        for key, array in storages.items():
            info = zipfile.ZipInfo(f'archive/data/{key}')
            info.compress_type, info.extra = compression, b'FB\x06\0ZZZZZZ'             # padding, as PyTorch aligns it
            archive.writestr(info, array.tobytes())
        archive.writestr('archive/version', '3\n')
    with open(path, 'wb') as f:
        f.write(stream.getvalue())


WRITERS = {'old': write_old, 'zip': write_zip}


def write_state_dict(path, arrays, style='zip', rebuild='_rebuild_tensor_v2', within=None):
    """Writes `{name: array}` as `torch.save` writes a module's state dict; each array has a storage of its own. With a
    key `within` it is in a checkpoint, beside an epoch and options."""
    items, storages = {}, {}
    for key, array in arrays.items():
        number_of_it = str(len(storages))
        storages[number_of_it] = array
        strides = [stride // array.itemsize for stride in np.zeros(array.shape, array.dtype).strides]
        items[key] = tensor(storage(STORAGES[str(array.dtype)], number_of_it, array.size, style == 'old'), 0,
                            array.shape, strides, rebuild)
    value = ordered(items)
    if within is not None:
        options = name('argparse', 'Namespace') + b')\x81}(' + text('lr') + number(1) + b'ub'
        value = b'}(' + text('epoch') + number(5) + text('args') + options + text(within) + value + b'u'
    WRITERS[style](path, value, storages)

"""The fuzzer's reader of image encoders in ONNX files: valid networks, and hostile changes below protobuf's lengths."""
import pathlib

import fuzz_inputs as inputs
import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper
from onnx_networks import network

from chainer_caption.features.extractor import Extractor
from chainer_caption.features.onnx_settings import checked, find_preprocessing, preprocessing_of
from chainer_caption.storage.files import read_json

_IMAGES = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
_TEXTS = [text for text in inputs.TEXTS if text.isascii() and len(text) < 300]
_WHOLE = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}


def onnx_seeds(folder):
    """The bytes of networks of several layouts, types and outputs."""
    path = pathlib.Path(folder) / 'seed.onnx'
    branch = helper.make_graph([helper.make_node('Neg', ['features'], ['negated'])], 'branch', [], [
        helper.make_tensor_value_info('negated', TensorProto.FLOAT, None)])
    conditional = [helper.make_node('ReduceMax', ['features'], ['most'], keepdims=0),
                   helper.make_node('Cast', ['most'], ['is_so'], to=TensorProto.BOOL),
                   helper.make_node('If', ['is_so'], ['own'], then_branch=branch, else_branch=branch)]
    return [network(path, **options).read_bytes() for options in (
        {}, {'outputs': ['tokens', 'features'], 'batch': 2}, {'outputs': ['grid'], 'layout': 'NHWC', 'batch': 1},
        {'dtype': TensorProto.FLOAT16, 'outputs': ['pooled']},
        {'outputs': ['own'], 'declared': {'own': ['N', 5]}, 'nodes': conditional})]


def use(path):
    """Opens a file as an encoder and computes features."""
    Extractor.load(str(path), say=lambda line: None)(_IMAGES)


SETTINGS = [b'{"size": 8, "crop_pct": 1, "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "layout": "NCHW", "output": "a"}',
            b'{"size": [9, 8], "resize": "squash", "pixel_max": 255, "channels": "BGR", "interpolation": "lanczos"}',
            b'{"preprocessing": "demo"}']


def use_settings(path):
    """Prepares an image by the settings of a file, and again by what is recorded of them."""
    found = preprocessing_of(checked(read_json(path), path), (8, 8))
    if np.max(found.size) < 500:
        image = np.full((9, 7, 3), 200, np.uint8)
        np.testing.assert_array_equal(found.prepare(image), find_preprocessing(found.name).prepare(image))


def hostile(rng, seeds):
    """One of the networks with some of its fields replaced, removed or repeated."""
    model = onnx.ModelProto.FromString(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        messages = _messages(model)
        _change(rng, rng.choice(messages), messages)
    return model.SerializeToString()


def _messages(message):
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                found += _messages(part)
    return found


def _change(rng, message, messages):
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.8 else message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None:
        others = [other for other in messages if other.DESCRIPTOR is field.message_type]
        if isinstance(value, Message):
            message.ClearField(field.name) if not others or rng.random() < 0.5 else value.CopyFrom(_copy(rng, others))
        elif len(value) and rng.random() < 0.5:
            del value[rng.randrange(len(value))]
        elif others:
            value.append(_copy(rng, others))
    elif isinstance(value, int | float | str | bytes):
        setattr(message, field.name, _scalar(rng, field, value, messages))
    elif len(value) and rng.random() < 0.7:
        at = rng.randrange(len(value))
        value[at] = _scalar(rng, field, value[at], messages)
    else:
        value.extend([_scalar(rng, field, 0, messages)] * rng.choice((1, 1, 3, 100)))


def _copy(rng, others):
    other = rng.choice(others)                          # it may contain the place where its copy goes
    return type(other).FromString(other.SerializeToString())


def _scalar(rng, field, value, messages):
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    if field.cpp_type in _WHOLE:
        number = rng.choice((*inputs.NUMBERS, 3, 4, 5, 7, 8, 16, 17, 224)) if rng.random() < 0.7 else value + 1
        bits = _WHOLE[field.cpp_type]
        number = (number % 2 ** bits ^ 2 ** (bits - 1)) - 2 ** (bits - 1)
        return -number if rng.random() < 0.2 and number > -2 ** (bits - 1) else number
    if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
        return rng.choice(inputs.NUMBERS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return inputs.mutate(rng, [value if isinstance(value, bytes) else b''])
        names = [getattr(other, key) for other in messages for key in ('name', 'op_type') if getattr(other, key, '')]
        return rng.choice(names) if names and rng.random() < 0.6 else rng.choice(_TEXTS)
    return rng.choice((0.0, -1.0, 1e30, float('nan'), float('inf'), 0.5))

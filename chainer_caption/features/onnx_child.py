"""Reader of an ONNX image network, in a child process (`storage/child.py`): the arguments PATH REQUEST.

REQUEST is JSON: `size`, [height, width] or null, and `layout`, "NCHW", "NHWC" or null; null is what the network's
input declares. The network is parsed, checked, loaded, and run on zeros. The one frame is JSON: `digest`, the SHA-256
of the file, followed by those with its external data, sorted by name; `input`, `dtype`, `layout` and `size` of the
images; `batch`, the images that it takes at a time, 1 if it takes any; and `outputs`, objects of `name`, `shape`
(after the batch axis; null where the first axis is no batch), and `finite`."""
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

KIND = 'ONNX file'

# Bytes that a network may take beyond eight times its file: it is held as a message, as tensors, and prepared.
_MEMORY = 2 ** 31
_LARGEST, _PIXELS = 4096, 2 ** 24           # pixels of an image's side, and of a batch
_DOMAINS = '', 'ai.onnx', 'ai.onnx.ml', 'com.microsoft'
_DTYPES = {'tensor(float)': 'float32', 'tensor(float16)': 'float16'}


def read(child: Any, path: str, request: str) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401 (used later)
    except ImportError as e:
        raise child.Refusal(f'needs {e.name}, which is not installed: pip install onnx onnxruntime') from e
    wanted = json.loads(request)
    model = onnx.load(path, format='protobuf', load_external_data=False)
    external = _external_files(child, path, model)
    size = sum(map(os.path.getsize, [path, *external]))
    child.limit(_MEMORY + 8 * size, 4 * size)
    _check_operators(child, model)
    onnx.checker.check_model(path)
    declared = {output.name: _declared_shape(output) for output in model.graph.output}
    del model
    child.send(json.dumps({'digest': _digest([path, *external]), **_tried(child, path, declared, wanted)}).encode())


def _parts(model: Any) -> tuple[list, list]:
    # All nodes and all tensors, also those of functions and of subgraphs.
    nodes, tensors = [], []
    graphs, bodies = [model.graph], [function.node for function in model.functions]
    while graphs or bodies:
        if graphs:
            graph = graphs.pop()
            tensors += graph.initializer
            tensors += [part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)]
            bodies.append(graph.node)
            continue
        for node in bodies.pop():
            nodes.append(node)
            for attribute in node.attribute:
                graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField('g') else [])]
                tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField('t') else [])]
                tensors += [part for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor)
                            for part in (sparse.values, sparse.indices)]
    return nodes, tensors


def _external_files(child: Any, path: str, model: Any) -> list[str]:
    folder, found = os.path.dirname(path), {}
    for tensor in _parts(model)[1]:
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get('location', '')
        there = os.path.join(folder, location)
        if not location or '\0' in location or os.path.isabs(location) or os.path.commonpath(
                [os.path.realpath(there), os.path.realpath(folder)]) != os.path.realpath(folder):
            raise child.Refusal(f'its weights are said to lie in {location!r}, outside its folder; put them beside it')
        if not os.path.isfile(there):
            raise child.Refusal(f'its weights lie in {location!r}, which is missing; put that file beside it')
        if int(entries.get('offset') or 0) + int(entries.get('length') or 0) > os.path.getsize(there):
            raise child.Refusal(f'{location!r}, with its weights, is cut short; fetch the file again')
        found[location] = there
    return [there for _, there in sorted(found.items())]


def _check_operators(child: Any, model: Any) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for node in _parts(model)[0]:
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
            raise child.Refusal(f'uses the operator {node.op_type!r} of the domain {node.domain!r}, which ONNX does '
                                'not define; export the network with standard operators')


def _declared_shape(value: Any) -> list[int | None] | None:
    tensor = value.type.tensor_type
    return [dim.dim_value if dim.HasField('dim_value') else None for dim in tensor.shape.dim] \
        if tensor.HasField('shape') else None


def _digest(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, 'rb') as f:
            while block := f.read(2 ** 20):
                digest.update(block)
    return digest.hexdigest()


def _tried(child: Any, path: str, declared: dict, wanted: dict) -> dict[str, Any]:
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    except Exception as e:
        raise child.Refusal(f'ONNX Runtime cannot load it ({e})') from e
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        raise child.Refusal('an encoder has one input, images N x 3 x H x W or N x H x W x 3 of floats; this network '
                            f'has {", ".join(_text(one.name, one.shape, one.type) for one in inputs) or "none"}')
    failure = None
    for layout in _layouts(child, inputs[0].shape, wanted['layout']):
        size = _size(child, inputs[0].shape, layout, wanted['size'])
        batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else 1
        if not 1 <= batch * size[0] * size[1] <= _PIXELS:
            raise child.Refusal(f'takes {batch} images of {size[0]} x {size[1]} pixels at a time')
        try:
            return {'input': inputs[0].name, 'dtype': _DTYPES[inputs[0].type], 'layout': layout, 'size': size,
                    'batch': batch, 'outputs': _run(child, session, layout, size, batch, declared)}
        except child.Refusal:
            raise
        except Exception as e:
            failure = e
    raise child.Refusal(f'fails on a black image ({failure})')


def _text(name: str, shape: Any, kind: str) -> str:
    return f'{name!r} ({" x ".join(map(str, shape))}, {kind})'


def _layouts(child: Any, shape: list, wanted: str | None) -> Iterator[str]:
    found = [layout for layout, axis in (('NCHW', 1), ('NHWC', 3)) if shape[axis] == 3] or \
        [layout for layout, axis in (('NCHW', 1), ('NHWC', 3)) if not isinstance(shape[axis], int)]
    if not found or wanted not in (None, *found):
        raise child.Refusal(f'its input is {" x ".join(map(str, shape))}, which is no batch of colour images '
                            f'({wanted or "NCHW or NHWC"})')
    return iter([wanted] if wanted else found)


def _size(child: Any, shape: list, layout: str, wanted: list[int] | None) -> list[int]:
    declared = shape[2:] if layout == 'NCHW' else shape[1:3]
    known = [side if isinstance(side, int) else None for side in declared]
    if wanted is None and None in known:
        raise child.Refusal('takes images of any size; say which')
    size: Any = wanted or known
    if any(side not in (None, given) for side, given in zip(known, size, strict=True)):
        raise child.Refusal(f'takes images of {" x ".join(map(str, declared))} pixels, not {size[0]} x {size[1]}')
    if not all(1 <= side <= _LARGEST for side in size):
        raise child.Refusal(f'takes images of {size[0]} x {size[1]} pixels; an encoder takes 1 to {_LARGEST} a side')
    return size


def _run(child: Any, session: Any, layout: str, size: list[int], batch: int, declared: dict) -> list[dict[str, Any]]:
    import numpy as np
    described = session.get_inputs()[0]
    shape = (batch, 3, *size) if layout == 'NCHW' else (batch, *size, 3)
    found = []
    floats = [output for output in session.get_outputs() if output.type in _DTYPES]
    values = session.run([output.name for output in floats], {
        described.name: np.zeros(shape, _DTYPES[described.type])}) if floats else []
    for output, value in zip(floats, values, strict=True):
        said = declared.get(output.name)
        if said is not None and (len(said) != value.ndim or any(
                dim not in (None, real) for dim, real in zip(said, value.shape, strict=True))):
            raise child.Refusal(f'its output {output.name!r} has the shape {value.shape}, not '
                                f'{tuple("?" if dim is None else dim for dim in said)} as it declares')
        is_batch = value.ndim > 1 and value.shape[0] == batch
        found.append({'name': output.name, 'shape': value.shape[1:] if is_batch else None,
                      'finite': bool(np.isfinite(value).all())})
    return found

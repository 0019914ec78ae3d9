"""Image encoders on the CPU: their ONNX graphs, kept in the cache, in ONNX Runtime or, in bfloat16, in OpenVINO."""
from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import chainer
import numpy as np

import chainer_caption
from chainer_caption.errors import InputError
from chainer_caption.functions.compiled import parallel_for
from chainer_caption.functions.cpu_count import thread_count
from chainer_caption.storage.cache import entry_folder, forget_unused, prepare_entry
from chainer_caption.storage.files import Path, atomic_write

PRECISIONS = 'float32', 'bf16'
VERSION = 1                     #: of the graphs that `onnx_graph` makes of an encoder, and of their files in the cache
_LARGEST = 2 ** 28              # bytes of a graph in the cache


class Engine:
    """An encoder's graph in a runtime. Each image is computed by one thread, so its features depend neither on the rest
    of its batch nor on the number of threads.

    Args:
        graph: An ONNX graph with one input and one output, serialized.
        precision: One of `PRECISIONS`, of convolutions and matrix products.

    Raises:
        ImportError: The runtime is not installed.
        ValueError: It cannot read the graph."""

    device = chainer.get_device('@numpy')

    def __init__(self, graph: bytes, precision: str = 'float32') -> None:
        self._compute = (_onnx_runtime if precision == 'float32' else _openvino)(graph)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Computes the features, (N, D) float32, of N >= 1 prepared images, each (3, H, W) float32."""
        return np.concatenate(self._compute(images))


_Images = np.ndarray | Sequence[np.ndarray]
_Compute = Callable[[_Images], list[Any]]


def open_session(graph: bytes | Path) -> Any:
    """ONNX Runtime's session of a graph, serialized or in a file, each of whose runs takes one thread. Raises
    ImportError where the runtime is not installed, and its own errors where it cannot load the graph."""
    import onnxruntime
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1     # no threads that spin beside ours
    return onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])


def _onnx_runtime(graph: bytes) -> _Compute:
    try:
        session = open_session(graph)
    except ImportError:
        raise
    except Exception as e:                              # of its own classes
        raise ValueError(f'ONNX Runtime cannot read the graph ({e})') from e
    name = session.get_inputs()[0].name

    def compute(images: _Images) -> list[Any]:
        made: list[Any] = [None] * len(images)

        def part(start: int, stop: int) -> None:
            for i in range(start, stop):
                made[i], = session.run(None, {name: np.ascontiguousarray(images[i][None], np.float32)})

        parallel_for(part, len(images))
        return made
    return compute


def _openvino(graph: bytes) -> _Compute:
    import openvino
    core, threads = openvino.Core(), thread_count()
    try:
        model = core.read_model(graph)
        model.reshape([1, *list(model.input().partial_shape)[1:]])      # faster than a batch of any size
        compiled = core.compile_model(model, 'CPU', {
            'INFERENCE_PRECISION_HINT': 'bf16', 'INFERENCE_NUM_THREADS': threads, 'NUM_STREAMS': threads})
    except Exception as e:
        raise ValueError(f'OpenVINO cannot read the graph ({e})') from e
    requests = [compiled.create_infer_request() for _ in range(threads)]
    lock = threading.Lock()

    def compute(images: _Images) -> list[Any]:
        # One Python thread starts all requests and copies into their own tensors: two threads that pass arrays wait for
        # each other for ever, now and then, one with Python's lock and one with OpenVINO's.
        made: list[Any] = [None] * len(images)

        def finish(i: int) -> None:
            request = requests[i % threads]
            request.wait()
            made[i] = request.get_output_tensor(0).data.copy()

        with lock:
            for i, image in enumerate(images):
                if i >= threads:
                    finish(i - threads)
                tensor = requests[i % threads].get_input_tensor(0)
                tensor.shape = (1, *image.shape)
                tensor.data[0] = image
                requests[i % threads].start_async()
            for i in range(max(0, len(images) - threads), len(images)):
                finish(i)
        return made
    return compute


def usable_precision(precision: str, device: Any, say: Callable[[str], object]) -> str:
    """The precision that an encoder can be computed in on a device: bf16 becomes float32 on a GPU, and on a CPU without
    bfloat16, for which `say` takes a one-line notice. InputError for an unknown one, or where OpenVINO is missing."""
    if precision not in PRECISIONS:
        raise InputError.of('encoder_precision', precision, f'must be {" or ".join(PRECISIONS)}')
    if precision == 'float32':
        return precision
    if device.xp is not np:
        say('--encoder-precision bf16: is for CPUs; computing in float32')
        return 'float32'
    try:
        import onnx  # noqa: F401 (makes the graphs)
        import openvino
    except ImportError as e:
        raise InputError.of('encoder_precision', precision, f'needs {e.name}; scripts/setup.sh openvino installs it') \
            from e
    if 'BF16' not in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        say('--encoder-precision bf16: this CPU has no bfloat16; computing in float32')
        return 'float32'
    return precision


def make_engine(link: Any, size: int | None, precision: str = 'float32',
                compute: Callable[[Any], Any] | None = None) -> Engine:
    """The engine of an encoder on the CPU with its present weights; arguments and errors as of `encoder_graph` and
    `Engine`."""
    from chainer_caption.features.onnx_graph import encoder_graph
    return Engine(encoder_graph(link, size, compute=compute).SerializeToString(), precision)


def cached_engine(weights: Path, encoder: str, size: int | None, load: Callable[[], tuple[Any, str]],
                  precision: str = 'float32') -> tuple[Engine, str]:
    """As `make_engine`, of an encoder whose graph is kept in the cache entry of its weights file.

    Args:
        weights, encoder: The weights file, and the name of an encoder that they are for.
        load: Loads the link, where there is no sound graph; returns it and the preprocessing of its weights.

    Returns the engine, and the name of that preprocessing."""
    entry = entry_folder(weights)
    path = entry / f'{encoder}-{chainer_caption.__version__}-{VERSION}.onnx'
    # The file is the SHA-256 of what follows, the preprocessing, and the graph.
    with contextlib.suppress(OSError, ValueError), open(path, 'rb') as f:
        digest, preprocessing, graph = f.readline(), f.readline(), f.read()
        if digest == _digest(preprocessing, graph):
            return Engine(graph, precision), preprocessing.decode().strip()
    from chainer_caption.features.onnx_graph import encoder_graph  # slow to import
    link, wanted = load()
    graph, preprocessing = encoder_graph(link, size).SerializeToString(), wanted.encode() + b'\n'
    if len(graph) <= _LARGEST and prepare_entry(entry, weights):
        forget_unused()
        with contextlib.suppress(OSError), atomic_write(path, durable=False) as file:
            for old in entry.glob(f'{encoder}-*.onnx'):     # of other versions
                old.unlink(missing_ok=True)
            file.writelines((_digest(preprocessing, graph), preprocessing, graph))
    return Engine(graph, precision), wanted


def _digest(preprocessing: bytes, graph: bytes) -> bytes:
    digest = hashlib.sha256(preprocessing)
    digest.update(graph)
    return digest.hexdigest().encode() + b'\n'

"""Speed of training, decoding and extraction on this machine, for `chainer-caption benchmark`. Loading, compiling and
the first updates are not timed; captions have their real lengths; validation is left out."""
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.captioning.captioner import Captioner
from chainer_caption.data.batches import CaptionDataset, CaptionIterator
from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.inference import usable_precision
from chainer_caption.features.onnx_names import is_onnx
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models import ARCHITECTURES
from chainer_caption.parallel import Processes
from chainer_caption.training import make_converter, make_optimizer
from chainer_caption.training.plan import chosen_sizes, fresh_model
from chainer_caption.training.settings import Settings

Figures = dict[str, Any]

_WARM_UP = 5


def benchmark_training(dataset: Any, settings: Settings, device: Any, updates: int, processes: Processes) -> Figures:
    """Speed of training by cross-entropy over a number of updates: `captions_per_s`, `tokens_per_s`, `peak_mib` and the
    conditions of the measurement. Each of the processes that train together calls this."""
    settings, splits = settings.resolved(), dataset.training_splits
    counts, captions = dataset.word_counts(*splits)
    vocabulary = Vocabulary.from_counts(counts, captions, min_count=settings.min_count or 5)
    data = CaptionDataset.from_dataset(dataset, vocabulary, *splits)
    architecture: Any = ARCHITECTURES[settings.architecture or 'show_and_tell']
    iterator = CaptionIterator(data, settings.batch_size, seed=settings.seed, per_image=architecture.per_image)
    converter = make_converter(dataset.inputs(architecture.reads), device, processes, architecture.per_image)
    model = fresh_model(architecture, dataset.reading(architecture.reads).feature_size, vocabulary,
                        {**dataclasses.asdict(settings), **chosen_sizes(architecture, settings)})
    model.to_device(device)
    optimizer = make_optimizer(model, device, processes)
    captions = tokens = 0
    with chainer.using_device(device), enough_memory(device, 'lower --batch-size or --hidden'):
        for update in range(_WARM_UP + updates):
            if update == _WARM_UP:
                _wait(device)
                captions, tokens, start = 0, 0, time.perf_counter()
            batch = converter(iterator.next(), device)
            optimizer.update(model, *batch, update_key=(settings.seed, processes.number(update)))
            captions += batch[3][0]
            tokens += len(batch[1])
        _wait(device)
        seconds = time.perf_counter() - start
    captions_per_s, tokens_per_s = processes.sum([captions, tokens]) / seconds
    return {'captions_per_s': round(captions_per_s, 1), 'tokens_per_s': round(tokens_per_s, 1),
            'peak_mib': _peak_mib(device), 'architecture': settings.architecture, 'updates': updates,
            'batch_size': settings.batch_size, 'vocabulary': len(vocabulary), 'processes': processes.size,
            'precision': chainer.config.precision}


def benchmark_decoding(dataset: Any, model: str, device: Any, split: str, images: int | None,
                       options: dict[str, Any]) -> Figures:
    """Speed of captioning a number of images of a split (None for all) from the dataset's stored features by a model
    directory: `images_per_s`, `peak_mib` and the conditions of the measurement. Options are `Captioner.search`'s."""
    captioner = Captioner.load(model, device, images=False)
    rows = dataset.captions.image_ids[dataset.images(split)][:images]
    features = np.ascontiguousarray(dataset.inputs(captioner.reads)[rows])
    search = captioner.search(**options)
    list(captioner.caption_features(features[:2 * _WARM_UP], search))
    seconds = _seconds(device, lambda: list(captioner.caption_features(features, search)))
    return {'images_per_s': round(len(rows) / seconds, 2), 'peak_mib': _peak_mib(device), 'images': len(rows),
            'precision': chainer.config.precision, **dataclasses.asdict(search)}


def benchmark_extraction(encoder: str, device: Any, batch_size: int, repeats: int, precision: str = 'float32',
                         say: Callable[[str], object] = lambda line: None) -> Figures:
    """Speed of an image encoder (one of `ENCODERS`, with random weights, or an ONNX file) on prepared images, by
    whatever computes it on the device: `images_per_s`, the median of a number of repeated batches, `peak_mib` and the
    conditions of the measurement. `precision` and `say` are as for `Extractor.load`."""
    rng = np.random.default_rng(0)
    if is_onnx(encoder):
        extractor = Extractor.load(encoder, device=device, precision=precision, say=say)
    else:
        precision = usable_precision(precision, device, say)
        extractor = _random_encoder(encoder, device, rng, precision)
    batch = rng.random((batch_size, *extractor.input_shape), np.float32)
    times = [_seconds(device, lambda: extractor(batch)) for _ in range(1 + repeats)]
    return {'images_per_s': round(batch_size / statistics.median(times[1:]), 2), 'peak_mib': _peak_mib(device),
            'encoder': extractor.encoder, 'batch_size': batch_size, 'encoder_precision': precision}


def _random_encoder(encoder: str, device: Any, rng: np.random.Generator, precision: str) -> Extractor:
    described = ENCODERS[encoder]
    link = described.link()
    for param in link.params():
        # Scaled so that activations stay in range through all layers, as with trained weights.
        rng.standard_normal(dtype=np.float32, out=param.array)
        param.array *= (2 / np.prod(param.shape[1:])) ** 0.5 if param.ndim > 1 else 0.1
    link.to_device(device)
    return Extractor(encoder, described.preprocessing, link, precision=precision)


def _wait(device: Any) -> None:
    if device.xp is cuda.cupy:
        device.device.synchronize()


def _seconds(device: Any, function: Callable[[], Any]) -> float:
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _peak_mib(device: Any) -> int | None:
    """The most memory held so far, MiB: of the GPU by CuPy's pool, or else of the process; None on Windows."""
    if device.xp is cuda.cupy:
        with chainer.using_device(device):              # the pool belongs to a device
            return cuda.cupy.get_default_memory_pool().total_bytes() // 2 ** 20
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)

"""How fast training, decoding and extraction are on this machine; `scripts/benchmark.py` prints it.

What is timed is the work and not its beginnings: loading, compiling and the first updates are left out, captions have
their real lengths, validation is not part of training's time.
"""
import dataclasses
import statistics
import sys
import time

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.captioning.captioner import Captioner
from chainer_caption.data.batches import CaptionDataset, CaptionIterator
from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.extractor import Extractor
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models import ARCHITECTURES
from chainer_caption.training import make_converter, make_optimizer
from chainer_caption.training.initialization import chosen_sizes, fresh_model

_WARM_UP = 5


def benchmark_training(dataset, settings, device, updates, processes):
    """Captions and tokens trained on in a second.

    Args:
        dataset (Dataset): What to train on.
        settings (Settings): How.
        device (chainer.backend.Device): Where.
        updates (int): How many updates to time.
        processes (Processes): Those that train together; each calls this.

    Returns:
        dict: `captions_per_s`, `tokens_per_s`, `peak_mib` and what they were measured with.
    """
    splits = dataset.training_splits
    vocabulary = Vocabulary.from_counts(*dataset.word_counts(*splits), min_count=settings.min_count)
    data = CaptionDataset.from_dataset(dataset, vocabulary, *splits)
    settings = settings.resolved()
    architecture = ARCHITECTURES[settings.architecture]
    iterator = CaptionIterator(data, settings.batch_size, seed=settings.seed, per_image=architecture.per_image)
    converter = make_converter(dataset.inputs(architecture.reads), device, processes, architecture.per_image)
    model = fresh_model(architecture, dataset.feature_size, vocabulary,
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
    captions, tokens = processes.sum([captions, tokens])
    return {'captions_per_s': round(captions / seconds, 1), 'tokens_per_s': round(tokens / seconds, 1),
            'peak_mib': _peak_mib(device), 'architecture': settings.architecture, 'updates': updates,
            'batch_size': settings.batch_size, 'vocabulary': len(vocabulary), 'processes': processes.size,
            'precision': chainer.config.precision}


def benchmark_decoding(dataset, model, device, split, images, options):
    """Images captioned in a second, from stored features.

    Args:
        dataset (Dataset): Where the features are.
        model (str or os.PathLike): A model directory.
        device (chainer.backend.Device): Where.
        split (str): Whose images.
        images (int or None): How many of them; None for all.
        options (dict): As for `Captioner.search`.

    Returns:
        dict: `images_per_s`, `peak_mib` and what they were measured with.
    """
    captioner = Captioner.load(model, device, images=False)
    rows = dataset.captions.image_ids[dataset.images(split)][:images]
    features = np.ascontiguousarray(dataset.inputs(captioner.reads)[rows])
    search = captioner.search(**options)
    list(captioner.caption_features(features[:2 * _WARM_UP], search))
    _wait(device)
    start = time.perf_counter()
    count = sum(1 for _ in captioner.caption_features(features, search))
    _wait(device)
    seconds = time.perf_counter() - start
    return {'images_per_s': round(count / seconds, 2), 'peak_mib': _peak_mib(device), 'images': count,
            'precision': chainer.config.precision, **dataclasses.asdict(search)}


def benchmark_extraction(encoder, device, batch_size, repeats):
    """Images that go through an image encoder in a second; prepared images, random weights.

    Args:
        encoder (str): One of `ENCODERS`.
        device (chainer.backend.Device): Where.
        batch_size (int): Images at a time.
        repeats (int): Batches to time; the median counts.

    Returns:
        dict: `images_per_s`, `peak_mib` and what they were measured with.
    """
    described, rng = ENCODERS[encoder], np.random.default_rng(0)
    link = described.link()
    for param in link.params():
        # Of a size that keeps the numbers within their range through all layers, as trained weights do.
        rng.standard_normal(dtype=np.float32, out=param.array)
        param.array *= (2 / np.prod(param.shape[1:])) ** 0.5 if param.ndim > 1 else 0.1
    link.to_device(device)
    extractor = Extractor(encoder, described.preprocessing, link)
    batch = rng.random((batch_size, 3, described.size, described.size), np.float32)
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        extractor(batch)
        _wait(device)
        times.append(time.perf_counter() - start)
    return {'images_per_s': round(batch_size / statistics.median(times[1:]), 2), 'peak_mib': _peak_mib(device),
            'encoder': encoder, 'batch_size': batch_size}


def _wait(device):
    if device.xp is cuda.cupy:
        device.device.synchronize()


def _peak_mib(device):
    """The most memory held so far: the GPU's, as CuPy has taken it, or else the process's resident memory."""
    if device.xp is cuda.cupy:
        with chainer.using_device(device):              # whose pool it is
            return cuda.cupy.get_default_memory_pool().total_bytes() // 2 ** 20
    try:
        import resource
    except ImportError:
        return None                                     # Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2 ** 20 if sys.platform == 'darwin' else 2 ** 10)

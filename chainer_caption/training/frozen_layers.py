"""Outputs of the frozen layers of an encoder for the images of a training: computed once, kept in the cache."""
import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda
from tqdm import tqdm

from chainer_caption.errors import InputError
from chainer_caption.features.encoders.stages import run_stages
from chainer_caption.features.extractor import prepare
from chainer_caption.features.images import ImageError
from chainer_caption.features.inference import make_engine
from chainer_caption.features.micro_batches import MicroBatches
from chainer_caption.features.prefetch import compute_batch, prepared_batches
from chainer_caption.storage.archives import ARCHIVE_ERRORS
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import Path, atomic_write, read_json, unwritable, write_json
from chainer_caption.storage.journal import stamp
from chainer_caption.storage.serializers import arrays_digest, to_arrays


class FrozenLayers:
    """The lower stages of an encoder (a Chain on its device), which are not trained. With no `stages` the outputs are
    the prepared images."""

    def __init__(self, encoder: Any, stages: Sequence[Any], preprocessing: Any) -> None:
        self._stages, self._preprocessing = stages, preprocessing
        weights = {f'{link}/{name}': array for stage in stages for link in stage.links
                   for name, array in to_arrays(encoder[link]).items()}
        self._device = encoder.device
        self._compute: Any = self._through
        if self._device.xp is cuda.cupy:
            self._compute = MicroBatches(self._through, self._device)
        elif stages and self._device.xp is np:
            with contextlib.suppress(ImportError):      # then Chainer computes them, slowly
                self._compute = make_engine(encoder, preprocessing.size, compute=lambda x: run_stages(stages, x))
        self._identity = {'encoder': type(encoder).__name__, 'stages': [stage.name for stage in stages],
                          'weights': arrays_digest(weights), 'preprocessing': preprocessing.name,
                          'device': self._device.xp.__name__}
        self._shape = self(np.zeros((1, 3, preprocessing.size, preprocessing.size), np.float32)).shape[1:]

    def prepare(self, path: str) -> np.ndarray:
        """Reads and prepares one image, for `prepared_batches`."""
        return prepare(path, self._preprocessing)

    def __call__(self, x: np.ndarray) -> Any:
        """The outputs for prepared images (n, 3, S, S) float32: (n, ...) float32, on the device."""
        with chainer.using_config('train', False), chainer.no_backprop_mode():
            return self._compute(x)

    def _through(self, x: Any) -> Any:
        return chainer.as_variable(run_stages(self._stages, self._device.send(x))).array

    def of_images(self, paths: Sequence[str], source: Path, progress: Any = None) -> tuple[np.ndarray, dict[int, str]]:
        """The outputs for images, (len(paths), ...) float32, a memory map where there is a cache, zero for images that
        cannot be read; and the reasons of those by their places. Raises InputError where the disk is full.

        The cache entry of the file `source` keeps the outputs for the last images that it was asked for.
        """
        identity = {**self._identity, 'images': [[path, *stamp(path)] for path in paths]}
        name = 'lower-' + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        entry = entry_folder(source)
        found = _kept(entry, name, len(paths))
        if found is not None:
            return found
        with tqdm(total=len(paths), desc=f'frozen layers ({name})', unit=' images', leave=False, file=progress,
                  disable=progress is None) as bar:
            failed: dict[int, str] = {}
            batches = self._computed(paths, failed, bar)
            if not prepare_entry(entry, source):
                return np.concatenate(list(batches)), failed
            for old in entry.glob('lower-*'):           # they are large
                old.unlink(missing_ok=True)
            try:
                with atomic_write(entry / f'{name}.npy', durable=False) as f:
                    np.lib.format.write_array_header_1_0(f, {
                        'shape': (len(paths), *self._shape), 'fortran_order': False, 'descr': '<f4'})
                    f.writelines(batch.tobytes() for batch in batches)
                # Only with this file is it complete.
                write_json(entry / f'{name}.json', {str(place): reason for place, reason in failed.items()})
            except OSError as e:
                raise unwritable(f'{entry} (XDG_CACHE_HOME names another place)', e) from e
            return np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False), failed

    def _computed(self, paths: Sequence[str], failed: dict[int, str], bar: Any) -> Iterator[np.ndarray]:
        """The outputs for each batch, zero for images that cannot be read; `failed` gets the reasons by places."""
        done = 0
        for batch in prepared_batches(self, paths):
            rows = compute_batch(lambda images: self(np.stack(images)), batch, self._shape)
            failed.update((done + i, str(image)) for i, (_, image) in enumerate(batch) if isinstance(image, ImageError))
            done += len(batch)
            bar.update(len(batch))
            yield rows


def _kept(entry: pathlib.Path, name: str, count: int) -> tuple[np.ndarray, dict[int, str]] | None:
    """The cached outputs, or None."""
    with contextlib.suppress(InputError, OSError, AttributeError, *ARCHIVE_ERRORS):
        failed = {int(place): reason for place, reason in read_json(entry / f'{name}.json').items()}
        array = np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False)
        if len(array) == count and array.dtype == np.float32:
            return array, failed
    return None

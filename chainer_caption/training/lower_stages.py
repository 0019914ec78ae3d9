"""What the stages below those that learn make of pictures: computed once, and kept in the cache."""
import contextlib
import hashlib
import json

import chainer
import numpy as np
from chainer.backends import cuda
from tqdm import tqdm

from chainer_caption.errors import InputError
from chainer_caption.features.ahead import computed, prepared_batches
from chainer_caption.features.extractor import prepare
from chainer_caption.features.networks.stages import through
from chainer_caption.features.pictures import PictureError
from chainer_caption.features.slices import InSlices
from chainer_caption.storage.archives import ARCHIVE_ERRORS
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import read_json, replacing, unwritable, write_json
from chainer_caption.storage.journal import stamp
from chainer_caption.storage.serializers import arrays_digest, to_arrays


class LowerStages:
    """The lower stages of a network.

    Args:
        network (chainer.Chain): The network, on its device.
        stages (list of Stage): Its lower stages; none gives the prepared pictures themselves.
        profile (Profile): How pictures are prepared for it.
    """

    def __init__(self, network, stages, profile):
        self._stages, self._profile = stages, profile
        weights = {f'{link}/{name}': array for stage in stages for link in stage.links
                   for name, array in to_arrays(network[link]).items()}
        self._device = network.device
        self._compute = InSlices(self._through, self._device) if self._device.xp is cuda.cupy else self._through
        self._identity = {'network': type(network).__name__, 'stages': [stage.name for stage in stages],
                          'weights': arrays_digest(weights), 'profile': profile.name,
                          'device': self._device.xp.__name__}
        self._shape = self(np.zeros((1, 3, profile.size, profile.size), np.float32)).shape[1:]

    def prepare(self, path):
        """Reads and prepares one picture, as `prepared_batches` wants it."""
        return prepare(path, self._profile)

    def __call__(self, x):
        """What they make of prepared pictures.

        Args:
            x (numpy.ndarray): (n, 3, S, S), float32.

        Returns:
            array: (n, ...), float32, on the device.
        """
        with chainer.using_config('train', False), chainer.no_backprop_mode():
            return self._compute(x)

    def _through(self, x):
        return chainer.as_variable(through(self._stages, self._device.send(x))).array

    def of_pictures(self, paths, source, progress=None):
        """What they make of pictures, out of the cache where they have been seen before.

        Args:
            paths (list of str): The pictures.
            source (str or os.PathLike): The file whose cache entry has it, until there is that of other pictures.
            progress (file or None): A terminal to draw a progress bar on.

        Returns:
            tuple: (len(paths), ...) float32, a memory map where there is a cache, zero for pictures that cannot be
            read; and of those the place and the reason, a dict.

        Raises:
            InputError: The disk is full.
        """
        identity = {**self._identity, 'pictures': [[path, *stamp(path)] for path in paths]}
        name = 'lower-' + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        entry = entry_folder(source)
        found = _kept(entry, name, len(paths))
        if found is not None:
            return found
        with tqdm(total=len(paths), desc=f'below the layers that learn ({name})', unit=' pictures', leave=False,
                  file=progress, disable=progress is None) as bar:
            failed = {}
            batches = self._computed(paths, failed, bar)
            if not prepare_entry(entry, source):
                return np.concatenate(list(batches)), failed
            for old in entry.glob('lower-*'):           # they are large
                old.unlink(missing_ok=True)
            try:
                with replacing(entry / f'{name}.npy', durable=False) as f:
                    np.lib.format.write_array_header_1_0(f, {
                        'shape': (len(paths), *self._shape), 'fortran_order': False, 'descr': '<f4'})
                    for batch in batches:
                        f.write(batch.tobytes())
                # Only with this file is it complete.
                write_json(entry / f'{name}.json', {str(place): reason for place, reason in failed.items()})
            except OSError as e:
                raise unwritable(f'{entry} (XDG_CACHE_HOME names another place)', e) from e
            return np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False), failed

    def _computed(self, paths, failed, bar):
        """What comes of each batch, with zeros for those that are put into `failed`: place and reason."""
        done = 0
        for batch in prepared_batches(self, paths):
            rows = computed(lambda pictures: self(np.stack(pictures)), batch, self._shape)
            failed.update((done + i, str(picture)) for i, (_, picture) in enumerate(batch)
                          if isinstance(picture, PictureError))
            done += len(batch)
            bar.update(len(batch))
            yield rows


def _kept(entry, name, count):
    """What the cache has, or None."""
    with contextlib.suppress(InputError, OSError, AttributeError, *ARCHIVE_ERRORS):
        failed = {int(place): reason for place, reason in read_json(entry / f'{name}.json').items()}
        array = np.load(entry / f'{name}.npy', mmap_mode='r', allow_pickle=False)
        if len(array) == count and array.dtype == np.float32:
            return array, failed
    return None

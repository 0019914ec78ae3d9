"""Images of many requests wait here, and those that have come together are captioned together."""
import collections
import concurrent.futures
import contextlib
import io
import math
import queue
import threading
import time

from chainer_caption.captioning.results import Result
from chainer_caption.features.images import ImageError
from chainer_caption.features.prefetch import BATCH

# Seconds that somebody who was turned away shall wait, at most.
_LONGEST = 60


class Busy(Exception):
    """There is no room for more now.

    Attributes:
        seconds (int): After how many there may be.
    """

    def __init__(self, seconds):
        super().__init__(f'too many images are waiting; try again in {seconds} s')
        self.seconds = seconds


class _Waiting:
    """An image that has no captions yet; what is known of it is forgotten when nobody waits for it any more."""

    def __init__(self, name, data, search):
        self.name, self.data, self.search = name, data, search
        self.image = None
        self.future = concurrent.futures.Future()
        self.future.add_done_callback(self._forget)

    def _forget(self, future):
        self.data = self.image = None


class CaptionQueue:
    """Captions images in a thread of its own, which alone uses the captioner; two more read what comes next.

    What is there when the thread has time is captioned at once, up to `BATCH` images of the same search: alone a
    image waits for nobody, and in a crowd many go through the network and the search together. A context manager;
    leaving its block ends the threads when all is done.

    Args:
        captioner (Captioner): With an encoder.
        size (int): How many images may wait.
    """

    def __init__(self, captioner, size):
        self._captioner, self._size = captioner, size
        self._count, self._counting = 0, threading.Lock()
        self._pace = 0.0                                # seconds that an image takes, in the latest batches
        self._read, self._held = queue.SimpleQueue(), collections.deque()
        # Images that are read and not yet captioned take more memory than their files.
        self._places = threading.Semaphore(2 * BATCH)
        self._readers = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix='images')
        self._worker = threading.Thread(target=self._work, name='captions')

    def __enter__(self):
        self._worker.start()
        return self

    def __exit__(self, *exception):
        self._readers.shutdown()
        self._read.put(None)
        self._worker.join()

    def __len__(self):
        """How many images have no captions yet."""
        return self._count

    def busy(self):
        """The `Busy` of this moment."""
        return Busy(min(_LONGEST, 1 + math.floor(self._count * self._pace)))

    def submit(self, images, search):
        """Has images captioned.

        Args:
            images (list of tuple): Pairs of a name and the bytes of a file.
            search (BeamSearch, DiverseBeamSearch or Sampling): What to caption with.

        Returns:
            list of concurrent.futures.Future: Of a `Result` each. Who waits no longer cancels them.

        Raises:
            Busy: So many may not wait.
        """
        with self._counting:
            if self._count + len(images) > self._size:
                raise self.busy()
            self._count += len(images)
        items = [_Waiting(name, data, search) for name, data in images]
        for item in items:
            item.future.add_done_callback(self._leave)
            self._readers.submit(self._prepare, item)
        return [item.future for item in items]

    def _leave(self, future):
        with self._counting:
            self._count -= 1

    def _prepare(self, item):
        data = item.data
        if data is None:
            return
        self._places.acquire()
        try:
            item.image = self._captioner.extractor.prepare(io.BytesIO(data))
            item.data = None
        except Exception as e:
            self._places.release()
            if item.future.set_running_or_notify_cancel():
                if isinstance(e, ImageError):
                    item.future.set_result(Result(None, item.name, error=str(e)))
                else:
                    item.future.set_exception(e)
        else:
            self._read.put(item)

    def _work(self):
        while batch := self._batch():
            began = time.monotonic()
            try:
                pairs = [(item.name, item.image) for item in batch]
                for item, result in zip(batch, self._captioner.caption_prepared(pairs, batch[0].search), strict=True):
                    item.future.set_result(result)
            except Exception as e:
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(e)
            self._pace += 0.2 * ((time.monotonic() - began) / len(batch) - self._pace)

    def _batch(self):
        """The next images that are captioned together; none where there will be no more."""
        batch = []
        while not batch:
            if not self._held:
                self._held.append(self._read.get())
            with contextlib.suppress(queue.Empty):
                while True:
                    self._held.append(self._read.get_nowait())
            if self._held[0] is None:
                return []
            search = self._held[0].search
            taken = [item for item in self._held if item is not None and item.search == search][:BATCH]
            self._held = collections.deque(item for item in self._held if item not in taken)
            self._places.release(len(taken))
            batch = [item for item in taken if item.future.set_running_or_notify_cancel()]
        return batch

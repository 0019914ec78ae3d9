"""Queue of images: requests take turns, and images of the same search are captioned together."""
import collections
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import math
import threading
import time
import weakref
from typing import Any

from starlette.exceptions import HTTPException

from chainer_caption.captioning.results import Result
from chainer_caption.decoding import Sampling
from chainer_caption.features.images import ImageError
from chainer_caption.features.prefetch import BATCH

Future = concurrent.futures.Future[Result]
_LONGEST = 60                                           # longest Retry-After, in seconds

# Captions that `Sampling` samples for each one it returns, at most: it replaces those that repeat another.
_TRIES = 10


class Busy(HTTPException):
    """There is no room for more images now; try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(503, f'too many images are waiting; try again in {seconds} s', {'retry-after': str(seconds)})
        self.seconds = seconds


def steps_of(search: Any) -> int:
    """Most search steps for one image: hypotheses times maximum length."""
    return (_TRIES * search.top if isinstance(search, Sampling) else search.width) * search.max_length


class Timed:
    """A search, or its decoder, whose first step after the deadline (`time.monotonic`) raises TimeoutError."""

    def __init__(self, wrapped: Any, deadline: float) -> None:
        self.wrapped, self.deadline = wrapped, deadline

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __call__(self, decoder: Any, features: Any) -> Any:
        return self.wrapped(Timed(decoder, self.deadline), features)

    def step(self, *args: Any) -> Any:
        if time.monotonic() > self.deadline:
            raise TimeoutError
        return self.wrapped.step(*args)


@dataclasses.dataclass(eq=False)
class _Client:
    """Work done for a client, in search steps, on a common scale; the client with the least is served next."""
    turn: float
    clock: float = 0.0                                  # turn of its request that was served last
    images: int = 0                                     # that wait


@dataclasses.dataclass(eq=False)
class _Image:
    """An image that waits. Its data are dropped when it is captioned or cancelled."""
    request: '_Request'
    name: str
    data: Any                                           # the file, then the prepared image
    future: Future = dataclasses.field(default_factory=concurrent.futures.Future)


class _Request:
    """Images of a request: first those to be read, then those to be captioned."""

    def __init__(self, number: int, search: Any, client: _Client, deadline: float, read_turn: int, large: bool):
        self.number, self.search, self.client, self.deadline = number, search, client, deadline
        self.steps, self.turn, self.read_turn, self.large = steps_of(search), client.clock, read_turn, large
        self.unread: collections.deque[_Image] = collections.deque()
        self.ready: collections.deque[_Image] = collections.deque()
        self.reading = 0


class CaptionQueue:
    """Captions images in one thread, which alone uses the captioner; two more threads read the next images.

    Requests take turns by start-time fair queuing (Goyal et al. 1996): first the client, then the request of the client
    that has used the fewest search steps. A batch has up to `BATCH` images of the same search, of any request, and up
    to `batch_steps` search steps. So a new request waits for a batch or two, however large the others are.

    Up to `size` images may wait. A request may take half of the free places, and a client three quarters of what other
    clients leave. Single images may take more, up to the last eighth of all places. So neither a few large requests
    nor one client with many shut out the others.

    A context manager; leaving its block ends the threads when all images are captioned."""

    def __init__(self, captioner: Any, size: int, batch_steps: int = 10_000) -> None:
        self._captioner, self._size, self._batch_steps = captioner, size, batch_steps
        self._count = 0                                 # images that wait
        self._clients: weakref.WeakValueDictionary[str, _Client] = weakref.WeakValueDictionary()
        self._requests: list[_Request] = []
        self._changed, self._ending = threading.Condition(), False
        self._numbers = itertools.count()
        self._clock, self._read_clock = 0.0, 0
        self._pace = 0.0                                # seconds an image, in the latest batches
        self._threads = [threading.Thread(target=target) for target in (self._caption, self._read, self._read)]

    def __enter__(self) -> 'CaptionQueue':
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __len__(self) -> int:
        return self._count

    def busy(self) -> Busy:
        """The `Busy` to raise at this moment."""
        return Busy(min(_LONGEST, 1 + math.floor(len(self) * self._pace)))

    def submit(self, images: list[tuple[str, bytes]], search: Any, client: str = '', seconds: float = math.inf,
               large: bool = False) -> list[Future]:
        """Adds the images of a request and returns a future `Result` of each; a cancelled one is not captioned.

        Args:
            images: Pairs of a name and the bytes of a file. `Busy` if there is no room for so many.
            search, client: BeamSearch, DiverseBeamSearch or Sampling; the address that the request comes from.
            seconds: After how long its searches stop with `Busy`.
            large: Whether images take long to decode. Only one of the two threads reads such requests at a time.
        """
        with self._changed:
            of = self._clients.setdefault(client, _Client(self._clock))
            of.turn = max(of.turn, self._clock)         # idle time is not saved up
            free = self._size - self._count
            share = math.ceil(0.75 * (free + of.images)) - of.images
            single = 1 if 8 * free > self._size else min(share, 1)
            if len(images) > max(single, min(free // 2, share)):
                raise self.busy()
            self._count += len(images)
            of.images += len(images)
            request = _Request(next(self._numbers), search, of, time.monotonic() + seconds, self._read_clock, large)
            request.unread.extend(_Image(request, name, data) for name, data in images)
            futures = [image.future for image in request.unread]
            for image in request.unread:
                image.future.add_done_callback(functools.partial(self._leave, image))
            self._requests.append(request)
            self._changed.notify_all()
        return futures

    def _leave(self, image: _Image, future: object) -> None:
        image.data = None
        with self._changed:
            self._count -= 1
            image.request.client.images -= 1
            self._changed.notify_all()

    def _drop_cancelled(self) -> None:
        for request in self._requests:
            for images in request.unread, request.ready:
                while images and images[0].future.cancelled():
                    images.popleft()
        self._requests = [request for request in self._requests if request.unread or request.reading or request.ready]

    # Reading

    def _next_unread(self) -> _Image | None:
        """The next image to read; None after the last one."""
        with self._changed:
            while True:
                self._drop_cancelled()
                # Prepared images take more memory than their files.
                full = sum(request.reading + len(request.ready) for request in self._requests) >= 4 * BATCH
                large = any(request.large and request.reading for request in self._requests)
                requests = [request for request in self._requests if request.unread and not full and not (
                    request.large and large) and request.reading + len(request.ready) < BATCH]
                if requests:
                    request = min(requests, key=lambda each: (each.read_turn, len(each.unread), each.number))
                    self._read_clock = request.read_turn
                    request.read_turn += 1
                    request.reading += 1
                    return request.unread.popleft()
                if self._ending and not any(request.unread for request in self._requests):
                    return None
                self._changed.wait()

    def _read(self) -> None:
        while image := self._next_unread():
            error: Exception | None = None
            try:
                image.data = self._captioner.extractor.prepare(io.BytesIO(image.data))
            except Exception as e:
                error = e
            with self._changed:
                image.request.reading -= 1
                if error is None:
                    image.request.ready.append(image)
                self._changed.notify_all()
            if error is not None and image.future.set_running_or_notify_cancel():
                if isinstance(error, ImageError):
                    image.future.set_result(Result(None, image.name, error=str(error)))
                else:
                    image.future.set_exception(error)

    # Captioning

    def _next_batch(self) -> list[_Image]:
        """The images to caption next, of one search; none after the last one."""
        batch: list[_Image] = []
        with self._changed:
            while not batch:
                self._drop_cancelled()
                if not any(request.ready for request in self._requests):
                    if self._ending and not self._requests:
                        return []
                    self._changed.wait()
                    continue
                left = self._batch_steps
                while requests := [request for request in self._requests if request.ready and len(batch) < BATCH and (
                        not batch or (request.steps <= left and request.search == batch[0].request.search))]:
                    request = min(requests, key=lambda each: (each.client.turn, each.turn, each.steps, each.number))
                    client = request.client
                    image = request.ready.popleft()
                    if image.future.set_running_or_notify_cancel():
                        if not batch:
                            self._clock, client.clock = max(self._clock, client.turn), request.turn
                        client.turn += request.steps
                        request.turn += request.steps
                        left -= request.steps
                        batch.append(image)
            self._changed.notify_all()
        return batch

    def _caption(self) -> None:
        while batch := self._next_batch():
            began = time.monotonic()
            search = Timed(batch[0].request.search, max(image.request.deadline for image in batch))
            try:
                pairs = [(image.name, image.data) for image in batch]
                for image, result in zip(batch, self._captioner.caption_prepared(pairs, search), strict=True):
                    image.future.set_result(result)
            except Exception as e:
                for image in batch:
                    if not image.future.done():
                        image.future.set_exception(self.busy() if isinstance(e, TimeoutError) else e)
            self._pace += 0.2 * ((time.monotonic() - began) / len(batch) - self._pace)

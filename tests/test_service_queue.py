"""The queue: batches of several requests, turns between requests, limits and deadlines."""
import concurrent.futures
import threading
import types

import numpy as np
import pytest
from serving import IMAGES, assert_same

from chainer_caption.decoding import BeamSearch, Sampling
from chainer_caption.features.prefetch import BATCH
from chainer_caption.report.rows import row_of
from chainer_caption.service.queue import Busy, CaptionQueue, steps_of

FILES = [(path.name, path.read_bytes()) for path in IMAGES]
NAMES = [name for name, _ in FILES]


class Held:
    """A captioner that waits for `go`, and records its batches."""

    def __init__(self, captioner):
        self._captioner, self.batches, self.go, self.began = captioner, [], threading.Event(), threading.Event()
        self.extractor = captioner.extractor

    def caption_prepared(self, batch, search):
        self.began.set()
        assert self.go.wait(30)
        self.batches.append(([name for name, _ in batch], search.wrapped))
        return self._captioner.caption_prepared(batch, search)


@pytest.fixture
def held(served_captioner):
    held = Held(served_captioner)
    yield held
    held.go.set()


@pytest.fixture
def queue(held):
    """A queue for 100 images; batches have up to 480 search steps."""
    with CaptionQueue(held, 100, 480) as queue:
        yield queue
        held.go.set()


def begin(queue, held, search):
    """Starts a batch, so that later images have to wait."""
    future, = queue.submit([FILES[0]], search)
    assert held.began.wait(30)
    return future


def wait_until_read(queue, count):
    with queue._changed:
        assert queue._changed.wait_for(lambda: sum(len(request.ready) for request in queue._requests) >= count, 30)


def finish(held, futures):
    held.go.set()
    return [future.result(30) for future in futures]


def test_images_of_several_requests_share_a_batch_and_their_captions_are_the_same(held, served_captioner):
    search = served_captioner.search(width=4, max_length=10)
    with CaptionQueue(held, 100) as queue:
        futures = [begin(queue, held, search)]
        for file in FILES[1:20]:                        # requests of one image each
            futures += queue.submit([file], search)
        wait_until_read(queue, 19)
        rows = [row_of(result) for result in finish(held, futures)]
    assert [len(names) for names, _ in held.batches] == [1, BATCH, 3]
    alone = [row_of(result) for path in IMAGES[:20] for result in served_captioner.caption(path, search)]
    assert_same(rows, [{**row, 'filename': path.name} for row, path in zip(alone, IMAGES, strict=False)])


def test_searches_do_not_mix_and_the_cheaper_one_is_first(queue, held, served_captioner):
    one, other = served_captioner.search(width=1), Sampling(top=1)
    futures = [begin(queue, held, one)]
    for i, file in enumerate(FILES[1:7]):
        futures += queue.submit([file], (other, one)[i % 2])
        wait_until_read(queue, i + 1)
    finish(held, futures)
    assert held.batches[:2] == [(NAMES[:1], one), (NAMES[2:7:2], one)]
    assert held.batches[2:] == [([name], other) for name in NAMES[1:7:2]]


def test_a_large_request_is_captioned_in_parts_and_others_take_turns(queue, held, served_captioner):
    large, small = served_captioner.search(width=4, max_length=60), served_captioner.search(width=1, max_length=9)
    futures = [begin(queue, held, large), *queue.submit(FILES[1:11], large)]
    wait_until_read(queue, 10)
    futures += queue.submit(FILES[11:14], small)
    wait_until_read(queue, 13)
    finish(held, futures)
    assert [sorted(names) for names, _ in held.batches[:2]] == [NAMES[:1], NAMES[11:14]]
    assert max(len(names) for names, search in held.batches if search == large) == 480 // steps_of(large) == 2


def test_a_client_with_many_requests_waits_for_clients_with_few(queue, held, served_captioner):
    searches = [served_captioner.search(width=4, max_length=50 + i) for i in range(6)]
    futures = [begin(queue, held, searches[0])]
    for i in range(1, 6):
        futures += queue.submit([FILES[i]], searches[i], 'busy')
    wait_until_read(queue, 5)
    futures += queue.submit([FILES[6]], searches[0], 'other')
    wait_until_read(queue, 6)
    finish(held, futures)
    assert NAMES[6] in [name for names, _ in held.batches[1:3] for name in names]


def test_reading_takes_turns(served_captioner):
    order, go = [], threading.Event()

    def prepare(file):
        order.append(file.read().decode())
        assert go.wait(30)
        return np.zeros(1)
    captioner = types.SimpleNamespace(extractor=types.SimpleNamespace(prepare=prepare),
                                      caption_prepared=lambda batch, search: batch)
    with CaptionQueue(captioner, 100) as queue:
        futures = queue.submit([(f'{i}', b'large') for i in range(20)], BeamSearch(width=1))
        futures += queue.submit([('x', b'small')], BeamSearch(width=1))
        go.set()
        concurrent.futures.wait(futures, 30)
    assert 'small' in order[:4]


def test_one_thread_at_a_time_reads_large_images():
    reading, go = threading.Semaphore(0), threading.Event()

    def prepare(file):
        data = file.read()
        if data == b'large':
            reading.release()
            assert go.wait(30)
        return np.zeros(1)
    captioner = types.SimpleNamespace(extractor=types.SimpleNamespace(prepare=prepare),
                                      caption_prepared=lambda batch, search: [name for name, _ in batch])
    with CaptionQueue(captioner, 100) as queue:
        for _ in range(2):
            queue.submit([('x', b'large')] * 9, BeamSearch(width=1), large=True)
        assert reading.acquire(timeout=30)
        assert queue.submit([('y', b'small')], BeamSearch(width=1))[0].result(30) == 'y'
        assert not reading.acquire(blocking=False)
        go.set()


def test_a_search_stops_at_its_deadline():
    class Endless:
        width = max_length = 1

        def __call__(self, decoder, features):
            while True:
                decoder.step()
    captioner = types.SimpleNamespace(
        extractor=types.SimpleNamespace(prepare=lambda file: np.zeros(1)),
        caption_prepared=lambda batch, search: search(types.SimpleNamespace(step=lambda: None), None))
    with CaptionQueue(captioner, 100) as queue:
        late, = queue.submit([FILES[0]], Endless(), seconds=0.1)
        assert isinstance(late.exception(30), Busy)


def test_requests_are_refused_when_too_many_images_wait(held, served_captioner):
    search = served_captioner.search(width=1)
    with CaptionQueue(held, 8) as queue:
        futures = [begin(queue, held, search)]
        with pytest.raises(Busy, match='too many images are waiting') as busy:
            queue.submit(FILES[1:5], search)            # more than half of the free places
        assert 1 <= busy.value.seconds <= 60
        for files in FILES[1:4], FILES[4:5], FILES[5:6]:
            futures += queue.submit(files, search)
        assert len(queue) == 6
        with pytest.raises(Busy):                       # this client has three quarters of all places
            queue.submit(FILES[6:8], search)
        futures += queue.submit(FILES[6:7], search)
        with pytest.raises(Busy):
            queue.submit(FILES[7:8], search)
        futures += queue.submit(FILES[7:8], search, 'another')
        finish(held, futures)
        assert len(queue) == 0
        assert finish(held, queue.submit([FILES[4]], search))[0].captions


def test_cancelled_images_are_not_captioned(queue, held, served_captioner):
    search = served_captioner.search(width=1)
    first = begin(queue, held, search)
    unwanted, wanted = queue.submit(FILES[1:3], search)
    wait_until_read(queue, 2)
    assert unwanted.cancel() and len(queue) == 2
    assert all(result.captions for result in finish(held, [first, wanted]))
    assert [name for names, _ in held.batches for name in names] == [FILES[0][0], FILES[2][0]]


def test_an_unreadable_image_is_an_error_at_once_and_its_neighbour_is_captioned(queue, held, served_captioner):
    search = served_captioner.search(width=1)
    begin(queue, held, search)
    good, bad = queue.submit([FILES[1], ('bad.png', FILES[2][1][:500])], search)
    assert 'truncated' in bad.result(30).error and not good.done()
    assert finish(held, [good])[0].captions


def test_images_that_wait_are_captioned_before_the_queue_ends(served_captioner):
    with CaptionQueue(served_captioner, 100) as queue:
        futures = queue.submit(FILES[:20], served_captioner.search(width=1))
    assert all(future.result(0).captions for future in futures)

"""Images that come together are captioned together, and say what they say alone."""
import concurrent.futures
import threading
import time

import pytest
from serving import IMAGES, assert_same

from chainer_caption.decoding import Sampling
from chainer_caption.features.prefetch import BATCH
from chainer_caption.report.rows import row_of
from chainer_caption.service.queue import Busy, CaptionQueue

FILES = [(path.name, path.read_bytes()) for path in IMAGES]


class Held:
    """A captioner that begins to caption when it is told to, and keeps in mind what was captioned together."""

    def __init__(self, captioner):
        self._captioner, self.batches, self.go, self.began = captioner, [], threading.Event(), threading.Event()
        self.extractor = captioner.extractor

    def caption_prepared(self, batch, search):
        self.began.set()
        assert self.go.wait(30)
        self.batches.append(([name for name, _ in batch], search))
        return self._captioner.caption_prepared(batch, search)


@pytest.fixture
def held(served_captioner):
    held = Held(served_captioner)
    yield held
    held.go.set()


def begin(queue, held, search):
    """Has the thread begin with an image, so that what comes now has to wait."""
    future, = queue.submit([FILES[0]], search)
    assert held.began.wait(30)
    return future


def when_read(queue, count):
    while queue._read.qsize() < count:
        time.sleep(0.005)


def test_what_has_come_together_is_captioned_together_and_says_what_it_says_alone(held, served_captioner):
    search = served_captioner.search(width=4, max_length=12)
    with CaptionQueue(held, 100) as queue:
        futures = [begin(queue, held, search)]
        for file in FILES[1:20]:                        # requests of one image each
            futures += queue.submit([file], search)
        when_read(queue, 19)
        held.go.set()
        rows = [row_of(future.result(30)) for future in futures]
    assert [len(names) for names, _ in held.batches] == [1, BATCH, 3]
    alone = [row_of(result) for path in IMAGES[:20] for result in served_captioner.caption(path, search)]
    assert_same(rows, [{**row, 'filename': path.name} for row, path in zip(alone, IMAGES, strict=False)])


def test_searches_do_not_mix_and_none_waits_for_ever(held, served_captioner):
    one, other = served_captioner.search(width=1), Sampling(top=1)
    with CaptionQueue(held, 100) as queue:
        futures = [begin(queue, held, one)]
        for i, file in enumerate(FILES[1:7]):
            futures += queue.submit([file], (other, one)[i % 2])
            when_read(queue, i + 1)
        held.go.set()
        concurrent.futures.wait(futures, 30)
    names = [name for name, _ in FILES]
    assert held.batches == [([names[0]], one), (names[1:7:2], other), (names[2:7:2], one)]


def test_more_than_may_wait_are_turned_away_until_there_is_room(held, served_captioner):
    search = served_captioner.search(width=1)
    with CaptionQueue(held, 4) as queue:
        futures = [begin(queue, held, search), *queue.submit(FILES[1:4], search)]
        assert len(queue) == 4
        with pytest.raises(Busy, match='too many images are waiting') as busy:
            queue.submit([FILES[4]], search)
        assert 1 <= busy.value.seconds <= 60
        held.go.set()
        concurrent.futures.wait(futures, 30)
        assert len(queue) == 0
        assert queue.submit([FILES[4]], search)[0].result(30).captions


def test_nobody_captions_what_nobody_waits_for(held, served_captioner):
    search = served_captioner.search(width=1)
    with CaptionQueue(held, 4) as queue:
        first = begin(queue, held, search)
        unwanted, wanted = queue.submit(FILES[1:3], search)
        when_read(queue, 2)
        assert unwanted.cancel() and len(queue) == 2
        held.go.set()
        assert first.result(30).captions and wanted.result(30).captions
    assert [name for names, _ in held.batches for name in names] == [FILES[0][0], FILES[2][0]]


def test_images_that_cannot_be_read_are_said_at_once_and_harm_none(held, served_captioner):
    search = served_captioner.search(width=1)
    with CaptionQueue(held, 100) as queue:
        begin(queue, held, search)
        good, bad = queue.submit([FILES[1], ('bad.png', FILES[2][1][:500])], search)
        assert 'truncated' in bad.result(30).error and not good.done()
        held.go.set()
        assert good.result(30).captions


def test_what_is_here_when_the_queue_ends_is_captioned(served_captioner):
    with CaptionQueue(served_captioner, 100) as queue:
        futures = queue.submit(FILES[:20], served_captioner.search(width=1))
    assert all(future.result(0).captions for future in futures)

"""A process-wide context that threads share: set up once, undone when the last thread leaves."""
import contextlib
import threading

import pytest

from chainer_caption.parallel import SharedContext


def test_threads_that_overlap():
    happened, entered, leave = [], threading.Barrier(3), threading.Barrier(3)

    @contextlib.contextmanager
    def setting():
        happened.append('set up')
        try:
            yield
        finally:
            happened.append('undone')

    shared = SharedContext(setting)

    def work():
        with shared:
            entered.wait()
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    entered.wait()
    with shared:
        assert shared.inside == 3
    assert happened == ['set up']                       # this one has left, the others are still in it
    leave.wait()
    for thread in threads:
        thread.join()
    assert (happened, shared.inside) == (['set up', 'undone'], 0)
    with pytest.raises(KeyError), shared, shared:
        raise KeyError
    assert happened == ['set up', 'undone'] * 2


def test_what_cannot_be_set_up_is_tried_again():
    @contextlib.contextmanager
    def setting():
        if not attempts:
            attempts.append(1)
            raise OSError
        yield

    attempts, shared = [], SharedContext(setting)
    with pytest.raises(OSError), shared:
        pass
    with shared:
        assert shared.inside == 1
    assert shared.inside == 0

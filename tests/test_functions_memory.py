"""Memory that does not suffice is one line that says what to do."""
import chainer
import numpy as np
import pytest

from chainer_caption import InputError
from chainer_caption.functions.memory import enough_memory, free_bytes


def test_too_little_memory_is_one_line():
    with pytest.raises(InputError, match=r'^Unable to allocate 1.00 EiB .*; free some or lower --hidden$'), \
            enough_memory(chainer.get_device('@numpy'), 'lower --hidden'):
        np.empty(2 ** 58, np.float32)


@pytest.mark.gpu
def test_too_little_memory_on_a_gpu_names_it(room):
    device = chainer.get_device('@cupy:0')
    room(2 ** 20)
    with pytest.raises(InputError, match=r'^-g 0: Out of memory .*; free some or lower --hidden or leave out -g$'), \
            enough_memory(device, 'lower --hidden'), chainer.using_device(device):
        device.xp.empty(2 ** 20, np.float32)


@pytest.mark.gpu
def test_what_is_free_on_a_gpu(room):
    device = chainer.get_device('@cupy:0')
    before = free_bytes(device)
    with chainer.using_device(device):
        kept = device.xp.empty(2 ** 22, np.uint8)
    assert before - free_bytes(device) == pytest.approx(2 ** 22, rel=0.01)
    del kept                                            # CuPy's pool keeps the memory for the next array
    assert free_bytes(device) == pytest.approx(before, rel=0.01)
    room(2 ** 20)
    assert free_bytes(device) == 2 ** 20

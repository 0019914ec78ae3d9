"""Benchmarks measure what they are asked to."""
import chainer
import pytest
from chainer.backends import cuda

from chainer_caption.benchmarks import benchmark_extraction


@pytest.mark.gpu
def test_the_memory_is_that_of_the_gpu_that_was_named():
    if cuda.cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip('needs two GPUs')
    peak = benchmark_extraction('demo', chainer.get_device('@cupy:1'), batch_size=16, repeats=1)['peak_mib']
    with cuda.cupy.cuda.Device(1):
        assert peak == cuda.cupy.get_default_memory_pool().total_bytes() // 2 ** 20 > 5

from .._device import DEVICES, CUDARuntimeError, current, use
from .._memory import pool_of
from ..standin import synchronize

__all__ = ['CUDARuntimeError', 'deviceSynchronize', 'getDevice', 'getDeviceCount', 'memGetInfo', 'setDevice']


def getDeviceCount():
    return DEVICES


def getDevice():
    return current()


def setDevice(device):
    use(device)


def memGetInfo():
    return pool_of(current()).memory_info()


def deviceSynchronize():
    synchronize('deviceSynchronize')

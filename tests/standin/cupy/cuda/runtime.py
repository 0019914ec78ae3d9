from .._device import DEVICES, CUDARuntimeError, current, use
from .._memory import pool_of
from ..standin import synchronize

__all__ = ['CUDARuntimeError', 'deviceGetPCIBusId', 'deviceSynchronize', 'getDevice', 'getDeviceCount', 'memGetInfo',
           'setDevice']


def getDeviceCount():
    return DEVICES


def getDevice():
    return current()


def setDevice(device):
    use(device)


def deviceGetPCIBusId(device):
    return f'0000:{device + 1:02X}:00.0'


def memGetInfo():
    return pool_of(current()).memory_info()


def deviceSynchronize():
    synchronize('deviceSynchronize')

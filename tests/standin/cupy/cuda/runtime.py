from .._device import DEVICES, CUDARuntimeError, current, pool_of, synchronize, use  # noqa: F401


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

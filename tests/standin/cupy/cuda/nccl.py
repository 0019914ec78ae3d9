"""NCCL's sums over the devices of several processes, by way of MPI."""
import ctypes

import numpy as np

from .._device import Device

NCCL_SUM = 0
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 6, 7, 8
NCCL_FLOAT = NCCL_FLOAT32
_DTYPES = {NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}


class NcclError(RuntimeError):
    """NCCL was called wrongly."""


def get_build_version():
    return 22707


get_version = get_build_version


def get_unique_id():
    return 0, *range(127)


class NcclCommunicator:
    """The processes that call NCCL together, each with a device of its own: the current one when this is made."""

    def __init__(self, ndev, commId, rank):
        from mpi4py import MPI  # starts MPI, which most processes do without
        self._comm = MPI.COMM_WORLD
        if (ndev, rank) != (self._comm.Get_size(), self._comm.Get_rank()):
            raise NcclError('NCCL_ERROR_INVALID_ARGUMENT: not all processes')
        self._device = Device()
        host = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        devices = host.allgather(self._device.id)
        if len(set(devices)) < len(devices):
            raise NcclError(f'NCCL_ERROR_INVALID_USAGE: Duplicate GPU detected ({devices})')

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        if op != NCCL_SUM:
            raise NotImplementedError('the stand-in only sums')
        self._comm.Allreduce(self._numbers(sendbuf, count, datatype).copy(), self._numbers(recvbuf, count, datatype))

    def bcast(self, buff, count, datatype, root, stream):
        self._comm.Bcast(self._numbers(buff, count, datatype), root)

    def destroy(self):
        self._comm = None

    def _numbers(self, address, count, datatype):
        if Device() != self._device:
            raise NcclError(f'NCCL_ERROR_INVALID_ARGUMENT: made on {self._device}, called on {Device()}')
        dtype = np.dtype(_DTYPES[datatype])
        return np.frombuffer((ctypes.c_char * (int(count) * dtype.itemsize)).from_address(address), dtype)

"""The number of CPU cores that this process may use."""
import contextlib
import functools
import math
import os
import pathlib


def thread_count() -> int:
    """The number of threads of a compiled loop: OMP_NUM_THREADS, or the cores of this process within its CPU quota."""
    told = os.environ.get('OMP_NUM_THREADS', '').split(',')[0]
    if told.isdigit():
        return max(1, int(told))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return math.ceil(min(cores, cpu_quota()))


@functools.cache
def cpu_quota(groups: str = '/proc/self/cgroup', root: str = '/sys/fs/cgroup') -> float:
    """The CPU time of this process's control groups, in cores, infinite where there is no limit: as `docker run
    --cpus`, Kubernetes and systemd set it. A process with more threads is paused for the rest of each tenth of a
    second. `groups` is the file that names the groups, `root` the folder where their settings are mounted."""
    quotas = [math.inf]
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(':', 2)
        if controllers and 'cpu' not in controllers.split(','):
            continue
        mount, names = (pathlib.Path(root, 'cpu'), ['cpu.cfs_quota_us', 'cpu.cfs_period_us']) if controllers else \
            (pathlib.Path(root), ['cpu.max'])                                  # version 1, and 2
        # What limits a group limits those below it. In a container the path may be that of the host, where only the
        # root of it is mounted.
        group = pathlib.PurePosixPath(path.lstrip('/'))
        for folder in group, *group.parents:
            with contextlib.suppress(ValueError):                              # 'max', or no such file
                quota, period = map(int, ' '.join(_read(mount / folder / name) for name in names).split())
                if quota > 0:
                    quotas.append(quota / period)
    return min(quotas)


def _read(path: str | os.PathLike) -> str:
    try:
        return pathlib.Path(path).read_text('utf-8')
    except OSError:
        return ''

"""storage/locks.py: one process at a time where there are locks, and a notice where there are none."""
import errno
import logging
import os

import portalocker
import pytest

from chainer_caption.storage.files import atomic_write, remove_temporaries
from chainer_caption.storage.journal import Journal
from chainer_caption.storage.locks import lock
from chainer_caption.training.snapshots import sole_training


def test_a_second_one_is_refused(tmp_path):
    with open(tmp_path / 'a', 'wb') as first, open(tmp_path / 'a', 'rb') as second:
        assert lock(first)
        with pytest.raises(BlockingIOError):
            lock(second)
    with open(tmp_path / 'a', 'rb') as third:
        assert lock(third)


@pytest.fixture(params=['ENOSYS', 'ENOLCK', 'EOPNOTSUPP'])
def no_locks(request, monkeypatch):
    """A file system without locks."""
    code = getattr(errno, request.param)

    def refuse(*_):
        raise portalocker.LockException('lock failed') from OSError(code, os.strerror(code))

    monkeypatch.setattr(portalocker, 'lock', refuse)
    return os.strerror(code)


def test_without_locks_work_goes_on_with_a_notice(no_locks, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, 'chainer_caption'):
        for _ in range(2):
            with Journal(tmp_path / 'journal', {'a': 1}) as journal:
                journal.append({'row': 1})
        with sole_training(tmp_path):
            pass
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all(no_locks in line and 'cannot be locked here' in line for line in lines)
    assert lines[0].startswith(str(tmp_path / 'journal'))


def test_without_locks_files_are_still_written_atomically(no_locks, tmp_path, caplog):
    with atomic_write(tmp_path / 'a') as f:
        f.write(b'new')
        assert not (tmp_path / 'a').exists()
        remove_temporaries(tmp_path)                    # it cannot tell that this one is being written
    assert (tmp_path / 'a').read_bytes() == b'new' and not caplog.records

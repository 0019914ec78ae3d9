"""Files are written atomically, and the temporary files of killed processes are deleted."""
import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from chainer_caption.storage.files import atomic_write, reserve

KILLED = '''
import os, signal, sys
from chainer_caption.storage.files import atomic_write
with atomic_write(sys.argv[1]) as f:
    f.write(b'half of ')
    f.flush()
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), atomic_write(path, 'w') as f:
        f.write('new')
        raise ZeroDivisionError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']
    with atomic_write(path, 'w') as f:
        f.write('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new' and os.listdir(tmp_path) == ['a.txt']


@pytest.fixture
def umask():
    """The umask 027, and a check that it stays."""
    before = os.umask(0o027)
    yield
    assert os.umask(before) == 0o027


@pytest.mark.parametrize('permissions', [None, 0o600, 0o666, 0o755, 0o444])
def test_permissions_are_those_of_the_old_file_or_of_any_new_one(permissions, umask, tmp_path):
    path = tmp_path / 'a.txt'
    if permissions is not None:
        path.write_text('old')
        path.chmod(permissions)
    expected = 0o640 if permissions is None else permissions
    with pytest.MonkeyPatch.context() as patch:
        # Changing the umask, if only for a moment, would be met by the files that other threads make just then.
        patch.setattr(os, 'umask', None)
        with atomic_write(path, 'w') as f:
            assert not os.fstat(f.fileno()).st_mode & 0o777 & ~expected, 'private while it is written, too'
            f.write('new')
    assert path.read_text() == 'new' and path.stat().st_mode & 0o777 == expected


def test_a_link_stays_one(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    target, link = tmp_path / 'elsewhere' / 'a.txt', tmp_path / 'link'
    link.symlink_to('elsewhere/a.txt')
    for content in ('new', 'newer'):                    # the first time it leads to nothing yet
        with atomic_write(link, 'w') as f:
            f.write(content)
        assert link.is_symlink() and not target.is_symlink() and target.read_text() == content
    assert os.listdir(tmp_path / 'elsewhere') == ['a.txt'] and len(os.listdir(tmp_path)) == 2


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe, 'w') as f:
        f.write('through')
    assert os.read(reader, 99) == b'through' and stat.S_ISFIFO(os.stat(pipe).st_mode)
    os.close(reader)


WRITING = '''
import sys
from chainer_caption.models import ShowAndTell
from chainer_caption.storage.files import write_npz
from chainer_caption.storage.serializers import to_arrays
write_npz(sys.argv[1], to_arrays(ShowAndTell(3, 5, 2, seed=0)))
'''


def test_equal_arrays_give_equal_bytes(package_environment, tmp_path):
    # Chainer keeps the names of parameters in a set, whose order is another in another process.
    for seed in '012':
        subprocess.run([sys.executable, '-c', WRITING, tmp_path / seed], check=True,
                       env={**package_environment, 'PYTHONHASHSEED': seed})
    assert len({(tmp_path / seed).read_bytes() for seed in '012'}) == 1


def test_what_a_killed_process_left_goes_with_the_next_attempt(tmp_path, package_environment):
    path = tmp_path / 'a.txt'
    for _ in range(2):
        done = subprocess.run([sys.executable, '-c', KILLED, path], env=package_environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 1 and not path.exists(), 'the second has removed what the first left'
    for name in ('.a.txt.notes', '.a.txt.backup01', '.b.txt.12345678.partial'):
        (tmp_path / name).touch()                       # not ours, or of another file
    with atomic_write(path) as f:
        f.write(b'whole')
    assert sorted(os.listdir(tmp_path)) == ['.a.txt.backup01', '.a.txt.notes', '.b.txt.12345678.partial', 'a.txt']


def test_two_writers_leave_each_other_alone(tmp_path):
    path = tmp_path / 'a.txt'
    with atomic_write(path) as first:
        first.write(b'first')
        with atomic_write(path) as second:
            second.write(b'second')
        assert path.read_bytes() == b'second'
    assert path.read_bytes() == b'first' and os.listdir(tmp_path) == ['a.txt']


@pytest.mark.parametrize('name', ['x' * 255, 'é' * 127, 'y' * 101, 'z' * 90])
def test_any_legal_name_can_be_written(name, tmp_path):
    with atomic_write(tmp_path / name) as f:
        f.write(b'content')
        temporary, = tmp_path.iterdir()
        assert len(os.fsencode(temporary.name)) <= 118
    assert [path.name for path in tmp_path.iterdir()] == [name]
    left = tmp_path / temporary.name                    # as a killed process would leave it
    left.write_bytes(b'part')
    with atomic_write(tmp_path / name) as f:
        f.write(b'again')
    assert [path.name for path in tmp_path.iterdir()] == [name] and not left.exists()


def test_disk_space_is_reserved_where_the_system_cannot(monkeypatch, tmp_path):
    monkeypatch.delattr(os, 'posix_fallocate')
    with open(tmp_path / 'a', 'wb') as f:
        f.write(b'head')
        reserve(f, 1000)
        with pytest.raises(OSError, match='No space left') as caught:
            reserve(f, 2 ** 62)
    assert caught.value.errno == errno.ENOSPC and (tmp_path / 'a').stat().st_size == 1000

"""Files appear whole or not at all, and a killed process leaves nothing that stays."""
import os
import signal
import subprocess
import sys

import pytest

from chainer_caption.storage.files import replacing

KILLED = '''
import os, signal, sys
from chainer_caption.storage.files import replacing
with replacing(sys.argv[1]) as f:
    f.write(b'half of ')
    f.flush()
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), replacing(path, 'w') as f:
        f.write('new')
        raise ZeroDivisionError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']
    umask = os.umask(0o027)
    try:
        with replacing(path, 'w') as f:
            f.write('new')
            assert path.read_text() == 'old'
    finally:
        os.umask(umask)
    assert path.read_text() == 'new' and path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ['a.txt']


def test_what_a_killed_process_left_goes_with_the_next_attempt(tmp_path, package_environment):
    path = tmp_path / 'a.txt'
    for _ in range(2):
        done = subprocess.run([sys.executable, '-c', KILLED, path], env=package_environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 1 and not path.exists(), 'the second has removed what the first left'
    for name in ('.a.txt.notes', '.a.txt.backup01', '.b.txt.12345678.partial'):
        (tmp_path / name).touch()                       # not ours, or of another file
    with replacing(path) as f:
        f.write(b'whole')
    assert sorted(os.listdir(tmp_path)) == ['.a.txt.backup01', '.a.txt.notes', '.b.txt.12345678.partial', 'a.txt']


def test_two_writers_leave_each_other_alone(tmp_path):
    path = tmp_path / 'a.txt'
    with replacing(path) as first:
        first.write(b'first')
        with replacing(path) as second:
            second.write(b'second')
        assert path.read_bytes() == b'second'
    assert path.read_bytes() == b'first' and os.listdir(tmp_path) == ['a.txt']

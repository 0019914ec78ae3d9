"""serve.py as it is started, ended, and refused."""
import contextlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from serving import IMAGES, ask
from test_cli import ROOT

from chainer_caption.cli.serve import TOKEN

GOOD = IMAGES[0].read_bytes()
HEAD = b'POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n' % len(GOOD)


@pytest.fixture
def started(served_model, package_environment):
    """Starts serve.py with options; gives the process and its port."""
    with contextlib.ExitStack() as stack:
        def start(*options, **environment):
            process = stack.enter_context(subprocess.Popen(
                [sys.executable, ROOT / 'scripts' / 'serve.py', '-m', served_model, '--port', '0', *options],
                env={**package_environment, **environment}, stderr=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            line = process.stderr.readline()
            assert re.fullmatch(r'serving at http://\S+:\d+ \(Ctrl-C ends it\)\n', line), line
            return process, int(re.search(r':(\d+) ', line)[1])
        yield start


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_when_all_that_has_come_is_answered(number, status, started):
    process, port = started()
    with contextlib.ExitStack() as stack:
        whole, half, none = (stack.enter_context(socket.create_connection(('127.0.0.1', port))) for _ in range(3))
        half.sendall(HEAD + GOOD[:-1])
        whole.sendall(HEAD + GOOD)
        while not ask(port, '/healthz')[2]['waiting']:
            pass
        process.send_signal(number)
        assert whole.makefile('rb').read().startswith(b'HTTP/1.1 200')
        with contextlib.suppress(ConnectionResetError):
            assert half.recv(1) == none.recv(1) == b''
    assert process.wait(60) == status
    assert process.stderr.read() == ''
    with pytest.raises(ConnectionRefusedError):
        ask(port, '/healthz')


def test_beyond_this_machine_with_a_token(started, tmp_path):
    (tmp_path / 'token').write_text('correct-horse-battery\n')
    for options, environment in ((['--token-file', tmp_path / 'token'], {}), ([], {TOKEN: 'correct-horse-battery'})):
        _, port = started('--host', '0.0.0.0', '--allowed-host', 'captions.example', *options, **environment)
        for host in f'127.0.0.1:{port}', socket.gethostname(), 'captions.example':
            assert ask(port, body=GOOD, Host=host)[0] == 401
            assert ask(port, body=GOOD, Host=host, Authorization='Bearer correct-horse-battery')[0] == 200


def test_what_is_wrong_is_one_line(refused, served_model, tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    short = tmp_path / 'short'
    short.write_text('short\n')
    assert '0.0.0.0: other machines can reach that, so requests need a token' in refused(
        'serve', '-m', served_model, '--host', '0.0.0.0', '--port', 0)
    assert f'{short}: a token is 16 characters or more' in refused('serve', '-m', served_model, '--token-file', short)
    assert 'no such file' in refused('serve', '-m', served_model, '--token-file', tmp_path / 'none')
    assert 'no such model directory' in refused('serve', '-m', tmp_path / 'none', '--port', 0)
    assert '--host nowhere.invalid' in refused('serve', '-m', served_model, '--host', 'nowhere.invalid')
    assert '--port 99999' in refused('serve', '-m', served_model, '--port', 99999)
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        assert f'--port {port}: cannot be listened at (Address already in use)' in refused(
            'serve', '-m', served_model, '--port', port)


def test_what_is_not_installed_is_named(refused, served_model, monkeypatch):
    for name in list(sys.modules):
        if name.startswith('chainer_caption.service'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert 'uvicorn is not installed: scripts/setup.sh serve' in refused('serve', '-m', served_model)

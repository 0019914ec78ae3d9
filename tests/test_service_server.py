"""serve.py: start, end, HTTPS, a proxy, and wrong options."""
import contextlib
import http.client
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys

import pytest
from serving import IMAGES, ask, form, running
from test_cli import ROOT

from chainer_caption.cli.serve import TOKEN
from chainer_caption.service.server import check_certificate

GOOD = IMAGES[0].read_bytes()
HEAD = b'POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n' % len(GOOD)


@pytest.fixture
def started(served_model, package_environment):
    """Starts serve.py with options; returns the process and its port."""
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
        # It may be answered before this asks.
        while not ask(port, '/healthz')[2]['waiting'] and not select.select([whole], [], [], 0)[0]:
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


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate with its key."""
    if shutil.which('openssl') is None:
        pytest.skip('needs openssl')
    path = tmp_path / 'certificate.pem'
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
                    '-days', '9', '-subj', '/CN=localhost', '-keyout', path, '-out', path], check=True,
                   capture_output=True)
    return path


def test_https(certificate, served_captioner):
    check_certificate(certificate, None)
    with running(served_captioner, certfile=certificate) as port:
        context = ssl.create_default_context(cafile=certificate)
        with contextlib.closing(http.client.HTTPSConnection('localhost', port, context=context)) as connection:
            connection.request('POST', '/v1/captions', GOOD, {'Origin': f'https://localhost:{port}'})
            assert connection.getresponse().status == 200


NGINX = shutil.which('nginx', path='/usr/sbin:/usr/local/sbin:' + os.environ.get('PATH', ''))

PROXY = '''daemon off; pid nginx.pid; error_log error.log; events { }
http { access_log off; client_max_body_size 64m; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;
       uwsgi_temp_path d; scgi_temp_path e;
       server { listen 127.0.0.1:PORT; location / { proxy_pass http://127.0.0.1:SERVICE/; }
                location /captions/ { proxy_pass http://127.0.0.1:SERVICE/; proxy_set_header Host $host; } } }'''


@pytest.mark.skipif(NGINX is None, reason='needs nginx')
def test_behind_a_proxy(served_captioner, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with running(served_captioner, origins=['https://captions.example']) as service:
        (tmp_path / 'nginx.conf').write_text(PROXY.replace('PORT', str(port)).replace('SERVICE', str(service)))
        with subprocess.Popen([NGINX, '-p', tmp_path, '-e', 'error.log', '-c', 'nginx.conf']) as nginx:
            try:
                while True:
                    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(('127.0.0.1', port)):
                        break
                body, kind = form(('a.png', GOOD))
                for folder in '', '/captions':          # the latter passes the host on
                    def status(path='/v1/captions', origin='https://captions.example', folder=folder, **options):
                        return ask(port, folder + path, Host='captions.example', Origin=origin, **options)[0]
                    assert status('/') == 200
                    assert status(body=body, content_type=kind) == 200
                    assert status(body=body, content_type=kind, origin='https://other.example') == 403
            finally:
                nginx.terminate()


def test_wrong_options_are_one_line(refused, served_model, tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert 'none.pem: cannot be used for TLS (No such file' in refused(
        'serve', '-m', served_model, '--ssl-certfile', tmp_path / 'none.pem')
    assert 'needs --ssl-certfile' in refused('serve', '-m', served_model, '--ssl-keyfile', 'key.pem')
    assert 'must be SCHEME://HOST' in refused('serve', '-m', served_model, '--allowed-origin', 'here', '--port', 0)
    assert 'must be at least 1' in refused('serve', '-m', served_model, '--max-pixels', 0)
    short = tmp_path / 'short'
    short.write_text('short\n')
    assert '0.0.0.0: other machines can reach this address, so requests need a token' in refused(
        'serve', '-m', served_model, '--host', '0.0.0.0', '--port', 0)
    assert f'{short}: a token has 16 or more ASCII' in refused('serve', '-m', served_model, '--token-file', short)
    assert 'no such file' in refused('serve', '-m', served_model, '--token-file', tmp_path / 'none')
    assert 'no such model directory' in refused('serve', '-m', tmp_path / 'none', '--port', 0)
    assert 'host nowhere.invalid' in refused('serve', '-m', served_model, '--host', 'nowhere.invalid')
    assert 'port 99999' in refused('serve', '-m', served_model, '--port', 99999)
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        assert f'port {port}: cannot listen there (Address already in use)' in refused(
            'serve', '-m', served_model, '--port', port)


def test_a_missing_package_is_named(refused, served_model, monkeypatch):
    for name in list(sys.modules):
        if name.startswith('chainer_caption.service'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert 'uvicorn is not installed: scripts/setup.sh serve' in refused('serve', '-m', served_model)

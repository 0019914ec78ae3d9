"""Slow, idle and broken connections: they are closed, and others are served."""
import contextlib
import socket
import time

import pytest
from serving import IMAGES, ask, running

GOOD = IMAGES[0].read_bytes()
HEAD = b'POST /v1/captions?beam_width=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n' % len(GOOD)


@pytest.fixture(scope='module')
def port(served_captioner):
    with running(served_captioner, connections=20, head_seconds=1, body_seconds=1.5) as port:
        yield port


@contextlib.contextmanager
def connected(port, *sent):
    with socket.create_connection(('127.0.0.1', port), timeout=20) as connection:
        for part in sent:
            connection.sendall(part)
        yield connection


def received(connection):
    """All that comes until the connection is closed."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2 ** 16):
            parts.append(part)
    return b''.join(parts)


@pytest.mark.parametrize('sent', [b'', HEAD[:-2], b'GET / HTT'])
def test_a_head_that_does_not_come_in_time(sent, port):
    with connected(port, sent) as connection:
        assert received(connection) == b''


def test_a_head_that_trickles(port):
    began = time.monotonic()
    with connected(port) as connection, contextlib.suppress(ConnectionError):
        for byte in HEAD:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
    assert time.monotonic() - began < 5


def test_a_body_that_does_not_come_in_time(port):
    with connected(port, HEAD, GOOD[:100]) as connection:
        answer = received(connection)
    assert answer.startswith(b'HTTP/1.1 408') and b'incomplete after 1.5 s' in answer


def test_a_body_that_does_not_come_any_more(port, caplog):
    with connected(port, HEAD, GOOD[:100]):
        pass
    assert ask(port, body=GOOD)[0] == 200
    assert caplog.text == ''


@pytest.mark.parametrize('damaged', [
    b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', b'GET\r\n\r\n', HEAD[:-2] + b'Content-Length: 3\r\n\r\n',
    b'POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    HEAD[:-2] + b'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + bytes(2 ** 17)])
def test_damaged_requests(damaged, port):
    with connected(port, damaged) as connection:
        assert received(connection).startswith(b'HTTP/1.1 400')


def test_a_body_damaged_after_the_answer(port, caplog):
    # The answer is there before all of the body, which is then damaged.
    head = b'POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n'
    with connected(port, head) as connection:
        assert connection.recv(2 ** 16).startswith(b'HTTP/1.1 404')
        connection.sendall(b'zz\r\n')
        received(connection)
    assert ask(port, '/healthz')[0] == 200
    assert caplog.text == ''


@pytest.mark.parametrize('sent', [b'', HEAD + GOOD[:100]])
def test_many_open_connections_keep_no_client_out(sent, port):
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(port, sent)) for _ in range(60)]
        assert ask(port, body=GOOD)[0] == 200
        assert b'200' not in received(connections[0])   # the oldest is closed


def test_a_slow_upload_survives_many_idle_connections(port):
    with contextlib.ExitStack() as stack:
        upload = stack.enter_context(connected(port, HEAD))
        step = len(GOOD) // 4
        for start in range(0, len(GOOD), step):
            upload.sendall(GOOD[start:start + step])
            time.sleep(0.05)                            # until it is received
            for _ in range(30):
                stack.enter_context(connected(port))
        assert upload.recv(2 ** 16).startswith(b'HTTP/1.1 200')
        assert ask(port, body=GOOD)[0] == 200


def test_a_connection_serves_several_requests(port):
    request = b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'
    with connected(port, request * 3) as connection:
        assert received(connection).count(b'HTTP/1.1 200') == 3


def test_a_request_whose_captions_take_too_long_is_refused(served_captioner, monkeypatch):
    caption = served_captioner.caption_prepared
    with running(served_captioner, answer_seconds=0.3) as port:
        monkeypatch.setattr(served_captioner, 'caption_prepared', lambda *args: time.sleep(1) or list(caption(*args)))
        status, headers, answer = ask(port, body=GOOD)
        assert (status, answer.keys()) == (503, {'error'}) and 1 <= int(headers['retry-after']) <= 60
        monkeypatch.undo()
        while status == 503:                            # until that is done
            status, _, _ = ask(port, '/v1/captions?beam_width=1', GOOD)
        assert status == 200


def test_a_request_whose_sender_has_gone_is_not_captioned(served_captioner, monkeypatch):
    captioned, caption = [], served_captioner.caption_prepared

    def slowly(batch, search):
        captioned.append(len(batch))
        time.sleep(0.5)
        return list(caption(batch, search))
    monkeypatch.setattr(served_captioner, 'caption_prepared', slowly)
    with running(served_captioner) as port:
        captioned.clear()
        with connected(port, HEAD, GOOD):
            while not captioned:
                time.sleep(0.01)
            with connected(port, HEAD, GOOD):           # has to wait, and leaves
                time.sleep(0.2)
        while ask(port, '/healthz')[2]['waiting']:
            time.sleep(0.01)
    assert captioned == [1]


def test_bodies_of_all_requests_together_have_a_limit(served_captioner):
    with running(served_captioner, all_bytes=len(GOOD) + 500) as port:
        with connected(port, HEAD, GOOD[:-1]):
            status = 200
            while status == 200:                        # until the first body is here
                status, headers, _ = ask(port, body=GOOD)
            assert status == 503 and headers['retry-after']
        while status == 503:                            # until it has gone
            status, _, _ = ask(port, body=GOOD)
        assert status == 200

"""Loads a service and abuses it: nothing is lost, nothing said wrong, and whatever comes the next good request works.

    python tests/load.py --requests 5000 --malformed 10000 [-m MODEL IMAGES]

Has generate.py caption the images, starts serve.py, and asks for the same images from many clients at once, with
the words compared. Then a flood of more than may wait, and then requests that are damaged in all manner of ways, while
some send slowly, and a thousand connections that say nothing. The service must answer or hang up, say nothing on
stderr, take no more memory in the end than after the first tenth, and end well on SIGTERM. Without a model and a folder
of images an untrained model captions drawings, which takes next to no time. Speeds are printed and not judged.
"""
import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from damaged import KINDS, damaged
from serving import IMAGES, PATIENCE, ask, assert_same, form, make_model

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Service:
    """A serve.py; a context manager."""

    def __init__(self, model):
        self.process = subprocess.Popen([sys.executable, ROOT / 'scripts' / 'serve.py', '-m', model, '--port', '0'],
                                        stderr=subprocess.PIPE, text=True)
        self.port = int(re.search(r':(\d+) ', self.process.stderr.readline())[1])

    def memory(self):
        """What it has in memory, MiB."""
        status = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        return int(re.search(r'VmRSS:\s+(\d+)', status)[1]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.send_signal(signal.SIGTERM)
        said, status = self.process.stderr.read(), self.process.wait(PATIENCE)
        if exception[0] is None:
            assert (status, said) == (128 + signal.SIGTERM, ''), (status, said)


def generate(model, paths, folder):
    """Rows as generate.py has them, by path, and the images that it captions in a second."""
    seconds = []
    for count in 1, len(paths):
        (folder / 'list').write_text(''.join(f'{path}\n' for path in paths[:count]))
        began = time.monotonic()
        subprocess.run([sys.executable, ROOT / 'scripts' / 'generate.py', '-m', model, '-l', folder / 'list',
                        '-o', folder / f'{count}.jsonl'], check=True)
        seconds.append(time.monotonic() - began)
    rows = map(json.loads, (folder / f'{len(paths)}.jsonl').read_text('utf-8').splitlines())
    # What takes the same time for one image as for many, such as loading the model, does not count.
    return {row['filename']: row for row in rows}, (len(paths) - 1) / (seconds[1] - seconds[0])


def load(service, paths, expected, requests, clients):
    """Asks for captions, each client for one image after the other; prints how long it took."""
    numbers, seconds, memory = iter(range(requests)), [], []
    next_number = threading.Lock()

    def client():
        while True:
            with next_number:
                number = next(numbers, None)
            if number is None:
                return
            if number == requests // 10:
                memory.append(service.memory())
            path = paths[number % len(paths)]
            body, kind = form((path.name, path.read_bytes()))
            began = time.monotonic()
            status, _, rows = ask(service.port, body=body, content_type=kind)
            seconds.append(time.monotonic() - began)
            assert status == 200, rows
            assert_same(rows, [{**expected[str(path)], 'filename': path.name}])

    began = time.monotonic()
    together(client, clients)
    rate = requests / (time.monotonic() - began)
    assert len(seconds) == requests
    p50, p95 = (statistics.quantiles(seconds, n=100)[q - 1] for q in (50, 95))
    print(f'{requests} requests of {clients} clients: {rate:.1f} images/s, p50 {p50:.2f} s, p95 {p95:.2f} s; '
          f'{memory[0]:.0f} MiB after a tenth, {service.memory():.0f} MiB at the end', flush=True)
    assert service.memory() < 1.1 * memory[0] + 32
    return rate


def together(function, count):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(function) for _ in range(count)]:
            future.result()


def flood(service, paths):
    """Sends more than may wait at once."""
    body, kind = form(*[(path.name, path.read_bytes()) for path in (paths * 32)[:32]])
    statuses = []

    def client():
        status, headers, _ = ask(service.port, '/v1/captions?beam_width=1', body, content_type=kind)
        statuses.append(status)
        assert status == 200 or (status == 503 and int(headers['retry-after']) >= 1)

    together(client, 40)
    print(f'a flood: {statuses.count(200)} answered, {statuses.count(503)} turned away', flush=True)
    assert {*statuses} == {200, 503}


def is_well(service, paths, expected):
    path = paths[0]
    body, kind = form((path.name, path.read_bytes()))
    status, _, rows = ask(service.port, body=body, content_type=kind)
    assert status == 200, rows
    assert_same(rows, [{**expected[str(path)], 'filename': path.name}])


def abuse(service, good, count, check):
    """Sends damaged requests; every hundredth is followed by a good one."""
    outcomes, numbers, drawing = {}, iter(range(count)), threading.Lock()

    def client():
        while True:
            with drawing:
                number = next(numbers, None)
            if number is None:
                return
            kind, parts = damaged(random.Random(number), good, service.port)
            outcome = sent(service.port, parts)
            with drawing:
                outcomes.setdefault(kind, {}).setdefault(outcome, []).append(number)
            if number % 100 == 0:
                check()

    with slow_senders(service.port, good, 20):
        together(client, 16)
    for kind in KINDS:
        found = outcomes.get(kind, {})
        print(f'  {kind:<34}' + ', '.join(f'{what} {len(found[what])}' for what in sorted(found)), flush=True)


def sent(port, parts):
    """What comes of sending the parts of a request: a status, or that the service hung up."""
    with socket.create_connection(('127.0.0.1', port), timeout=PATIENCE) as connection:
        answer = b''
        with contextlib.suppress(ConnectionError):      # who has the answer need not read the rest
            for part in parts:
                connection.sendall(part)
            if parts[-1] == b'':
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(2 ** 16)
    match = re.match(rb'HTTP/1\.1 (\d{3}) ', answer)
    assert match or not answer, answer
    status = match[1].decode() if match else 'hung up'
    assert status != '500', parts
    return status


@contextlib.contextmanager
def slow_senders(port, good, count):
    """Some who send a byte now and then, while the block runs."""
    stop = threading.Event()

    def trickle():
        while not stop.is_set():
            with socket.create_connection(('127.0.0.1', port)) as connection, contextlib.suppress(ConnectionError):
                for byte in good[:1000]:
                    connection.sendall(bytes([byte]))
                    if stop.wait(0.2):
                        return

    senders = [threading.Thread(target=trickle) for _ in range(count)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        stop.set()
        for sender in senders:
            sender.join()


def main():
    parser = argparse.ArgumentParser(description='Load a service, and abuse it.')
    parser.add_argument('--requests', type=int, default=200, metavar='N', help='(%(default)s)')
    parser.add_argument('--clients', type=int, default=32, metavar='N', help='(%(default)s)')
    parser.add_argument('--malformed', type=int, default=300, metavar='N', help='(%(default)s)')
    parser.add_argument('--open', type=int, default=1000, metavar='N', help='silent connections (%(default)s)')
    parser.add_argument('-m', '--model', help='model directory')
    parser.add_argument('images', nargs='?', type=pathlib.Path, help='folder')
    args = parser.parse_args()
    paths = sorted(args.images.iterdir()) if args.images else IMAGES
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = args.model or make_model(folder / 'model')
        expected, rate = generate(model, paths, folder)
        with Service(model) as service:
            is_well(service, paths, expected)
            served = load(service, paths, expected, args.requests, args.clients)
            print(f'generate.py: {rate:.1f} images/s, of which the service has {served / rate:.2f}', flush=True)
            flood(service, paths)
            is_well(service, paths, expected)
            before = service.memory()
            body, kind = form((paths[0].name, paths[0].read_bytes()))
            good = (f'POST /v1/captions?beam_width=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n'
                    f'Content-Length: {len(body)}\r\n\r\n').encode() + body
            abuse(service, good, args.malformed, lambda: is_well(service, paths, expected))
            with contextlib.ExitStack() as stack:
                for _ in range(args.open):
                    stack.enter_context(socket.create_connection(('127.0.0.1', service.port)))
                is_well(service, paths, expected)
            is_well(service, paths, expected)
            print(f'{args.malformed} malformed requests and {args.open} open connections: {before:.0f} MiB before, '
                  f'{service.memory():.0f} MiB after', flush=True)
            assert service.memory() < 1.1 * before + 64
    print('all is well')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Load test of a service: valid, damaged and hostile requests; after each the next valid request is answered.

    python tests/load.py --requests 5000 --malformed 10000 [-m MODEL IMAGES]

Captions the images with generate.py, starts serve.py, and sends the same images from many clients, with the captions
compared. Then follow more images than may wait, damaged requests beside slow clients, idle connections, and hostile
requests: large searches, forms of huge WebP images, idle connections during a slow upload. Beside each a valid request
must be answered within `--patience` seconds. The service must print nothing, keep its memory below 1 GiB at the peak
and level over many requests, and end on SIGTERM. Without a model and a folder of images an untrained model captions the
demo's images, in next to no time. Speeds are printed and not judged.
"""
import argparse
import concurrent.futures
import contextlib
import functools
import io
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
from PIL import Image
from serving import IMAGES, PATIENCE, ask, assert_same, form, make_model

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Service:
    """A serve.py; a context manager."""

    def __init__(self, model):
        self.process = subprocess.Popen([sys.executable, ROOT / 'scripts' / 'serve.py', '-m', model, '--port', '0'],
                                        stderr=subprocess.PIPE, text=True)
        self.port = int(re.search(r':(\d+) ', self.process.stderr.readline())[1])

    def memory(self, field='VmRSS'):
        """Its memory, MiB; `VmHWM` is the peak."""
        status = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        return int(re.search(rf'{field}:\s+(\d+)', status)[1]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.send_signal(signal.SIGTERM)
        printed, status = self.process.stderr.read(), self.process.wait(PATIENCE)
        if exception[0] is None:
            assert (status, printed) == (128 + signal.SIGTERM, ''), (status, printed)


def generate(model, paths, folder):
    """Rows of generate.py by path, and its images a second."""
    seconds = []
    for count in 1, len(paths):
        (folder / 'list').write_text(''.join(f'{path}\n' for path in paths[:count]))
        began = time.monotonic()
        subprocess.run([sys.executable, ROOT / 'scripts' / 'generate.py', '-m', model, '-l', folder / 'list',
                        '-o', folder / f'{count}.jsonl'], check=True)
        seconds.append(time.monotonic() - began)
    rows = map(json.loads, (folder / f'{len(paths)}.jsonl').read_text('utf-8').splitlines())
    # Without the time of a single image, which is mostly that of loading the model.
    return {row['filename']: row for row in rows}, (len(paths) - 1) / (seconds[1] - seconds[0])


def load(service, paths, expected, requests, clients):
    """Requests captions from many clients, an image each time; prints the latencies."""
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
    """Sends more images than may wait."""
    body, kind = form(*[(path.name, path.read_bytes()) for path in (paths * 32)[:32]])
    statuses = []

    def client():
        status, headers, _ = ask(service.port, '/v1/captions?beam_width=1', body, content_type=kind)
        statuses.append(status)
        assert status == 200 or (status == 503 and int(headers['retry-after']) >= 1)

    together(client, 40)
    print(f'a flood: {statuses.count(200)} answered, {statuses.count(503)} refused', flush=True)
    assert {*statuses} == {200, 503}


def is_well(service, paths, expected):
    path = paths[0]
    body, kind = form((path.name, path.read_bytes()))
    status, _, rows = ask(service.port, body=body, content_type=kind)
    assert status == 200, rows
    assert_same(rows, [{**expected[str(path)], 'filename': path.name}])


def abuse(service, good, count, check):
    """Sends damaged requests; a valid one follows every hundredth."""
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
    """Sends the parts of a request; returns the status, or `hung up`."""
    with socket.create_connection(('127.0.0.1', port), timeout=PATIENCE) as connection:
        answer = b''
        with contextlib.suppress(ConnectionError):      # the answer may come before the end
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
    """Clients that send a byte now and then, while the block runs."""
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


def webp(width, height):
    """A black image of 34 bytes."""
    with io.BytesIO() as f:
        Image.new('RGB', (16, 16)).save(f, 'WEBP', lossless=True, method=0, quality=0)
        data = bytearray(f.getvalue())
    bits = int.from_bytes(data[21:25], 'little') >> 28 << 28
    data[21:25] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, 'little')
    return bytes(data)


def hostile(service, paths, check, args):
    """Sends valid requests beside hostile ones."""
    small, huge, large = paths[0].read_bytes(), webp(10_954, 10_954), webp(4_990, 4_990)
    for name, query, data, count, statuses in (
            ('64 images x 20,000 search steps', 'beam_width=100&max_length=200', small, 64, {413}),
            ('64 images, all search steps of a request', 'beam_width=52&min_length=60', small, 64, {200, 503}),
            ('an image of 20,000 search steps', 'beam_width=100&max_length=200&min_length=200', small, 1, {200, 503}),
            ('64 WebP images of 120 megapixels', 'top=1', huge, 64, {413}),
            ('2 WebP images of 120 megapixels', 'top=1', huge, 2, {422}),
            ('60 MiB that are no image', 'top=1', bytes(60 * 2 ** 20), 1, {422, 503}),
            ('10 WebP images of 25 megapixels', 'top=1', large, 10, {200, 503})):
        body, kind = form(*[('x', data)] * count)
        stop, got = threading.Event(), []

        def client(query=query, body=body, kind=kind, stop=stop, got=got):
            while not stop.is_set():
                got.append(ask(service.port, f'/v1/captions?{query}', body, content_type=kind)[0])

        clients = [threading.Thread(target=client) for _ in range(args.hostile)]
        for thread in clients:
            thread.start()
        try:
            seconds = []
            for _ in range(args.rounds):
                time.sleep(0.5)
                began = time.monotonic()
                check()
                seconds.append(time.monotonic() - began)
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        print(f'  {name:<42}a valid request {max(seconds):.1f} s, peak {service.memory("VmHWM"):.0f} MiB', flush=True)
        assert {*got} <= statuses and max(seconds) < args.patience, got
    assert service.memory('VmHWM') < 1024


def slow_upload(port, good, seconds, count):
    """Sends a valid request slowly beside idle connections."""
    with contextlib.ExitStack() as stack:
        upload = stack.enter_context(socket.create_connection(('127.0.0.1', port), timeout=PATIENCE))
        step = len(good) // 16 + 1
        for start in range(0, len(good), step):
            upload.sendall(good[start:start + step])
            for _ in range(count // 16):
                stack.enter_context(socket.create_connection(('127.0.0.1', port)))
            time.sleep(seconds / 16)
        assert upload.recv(2 ** 16).startswith(b'HTTP/1.1 200')
    print(f'an upload of {seconds:g} s beside {count} idle connections is answered', flush=True)


def main():
    parser = argparse.ArgumentParser(description='Load test of a service.')
    parser.add_argument('--requests', type=int, default=200, metavar='N', help='(%(default)s)')
    parser.add_argument('--clients', type=int, default=32, metavar='N', help='(%(default)s)')
    parser.add_argument('--malformed', type=int, default=300, metavar='N', help='(%(default)s)')
    parser.add_argument('--open', type=int, default=1000, metavar='N', help='idle connections (%(default)s)')
    parser.add_argument('--hostile', type=int, default=4, metavar='N', help='hostile clients (%(default)s)')
    parser.add_argument('--rounds', type=int, default=5, metavar='N', help='valid requests beside each (%(default)s)')
    parser.add_argument('--patience', type=float, default=5, metavar='SECONDS',
                        help='for a valid request beside a hostile one (%(default)s)')
    parser.add_argument('--upload', type=float, default=8, metavar='SECONDS', help='of the slow one (%(default)s)')
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
            check = functools.partial(is_well, service, paths, expected)
            abuse(service, good, args.malformed, check)
            with contextlib.ExitStack() as stack:
                for _ in range(args.open):
                    stack.enter_context(socket.create_connection(('127.0.0.1', service.port)))
                check()
            slow_upload(service.port, good, args.upload, args.open)
            check()
            print(f'{args.malformed} malformed requests and {args.open} open connections: {before:.0f} MiB before, '
                  f'{service.memory():.0f} MiB after', flush=True)
            assert service.memory() < 1.1 * before + 64
            hostile(service, paths, check, args)
    print('passed')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Requests that are damaged in all manner of ways, drawn at random."""
import zlib

HEAD_END = b'\r\n\r\n'


def _png(width, height):
    """An image of a few bytes that claims to have so many pixels."""
    def chunk(kind, data):
        return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    size = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', size + b'\x08\x02\0\0\0') +
            chunk(b'IDAT', zlib.compress(bytes(2 ** 16))) + chunk(b'IEND', b''))


BOMB = _png(20_000, 10_000)


def _request(body, **headers):
    lines = [f'{name.replace("_", "-")}: {value}' for name, value in
             {'Host': '127.0.0.1', 'Content_Length': len(body), **headers}.items() if value is not None]
    return b'POST /v1/captions?beam_width=1 HTTP/1.1\r\n' + '\r\n'.join(lines).encode('latin-1') + HEAD_END + body


def _cut(rng, good, port):
    return [good[:rng.randrange(1, len(good))], b'']


def _flipped(rng, good, port):
    damaged = bytearray(good)
    for _ in range(rng.choice([1, 3, 30])):
        # Where it hurts most: in the head and in the head of the part.
        damaged[rng.randrange(rng.choice([300, 500, len(good)]))] = rng.randrange(256)
    return [bytes(damaged), b'']


def _too_short(rng, good, port):
    body = good.split(HEAD_END, 1)[1]
    return [_request(body, Content_Length=rng.randrange(len(body)))]


def _too_long(rng, good, port):
    body = good.split(HEAD_END, 1)[1]
    return [_request(body, Content_Length=len(body) + rng.choice([1, 10 ** 4, 10 ** 7])), b'']


def _huge(rng, good, port):
    return [_request(b'', Content_Length=rng.choice([10 ** 9, 10 ** 18, 10 ** 30, -1, 'many']))]


def _bomb(rng, good, port):
    return [_request(BOMB)]


def _noise(rng, good, port):
    return [rng.randbytes(rng.choice([1, 100, 10_000])), b'']


def _chunks(rng, good, port):
    size = rng.choice(['zz', '-1', 'ffffffffffffffffffff', '5;' + 'x' * 100_000, ''])
    return [_request(f'{size}\r\nabc\r\n'.encode(), Content_Length=None, Transfer_Encoding='chunked'), b'']


def _forms(rng, good, port):
    form = b''.join(rng.choice([
        b'--x\r\n', b'--x--\r\n', b'\r\n', b'\0\xff' * 9, b'a: b\r\n' * 99, b'Content-Disposition: form-data\r\n',
        b'Content-Disposition: form-data; name="a"; filename="a"\r\n', b'Content-Transfer-Encoding: base64\r\n'])
        for _ in range(rng.randrange(40)))
    return [_request(form, Content_Type=rng.choice([
        'multipart/form-data; boundary=x', 'multipart/form-data', 'multipart/form-data; boundary=' + 'x' * 5000,
        'multipart/mixed; boundary="x', 'multipart/form-data; charset=nothing; boundary=x']))]


def _host(rng, good, port):
    return [_request(b'x', Host=rng.choice([
        'example.com', '', '[::', '127.0.0.1.example.com', '127.0.0.1@example.com', '\xff\xfe', '0x7f.1', ' ',
        'localhost\r\nHost: example.com']))]


def _provenance(rng, good, port):
    return [_request(b'x', Origin=rng.choice([
        'http://example.com', 'null', f'http://localhost:{port}', 'file://', '']))]


def _heads(rng, good, port):
    return [b'GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n' + rng.choice([
        b'a: b\r\n' * 50_000, b'a' * 200_000, b': \r\n', b'\0: b\r\n', b'Transfer-Encoding: gzip, chunked\r\n',
        b'Upgrade: websocket\r\nConnection: Upgrade\r\n', b'Expect: 200-maybe\r\n', b' folded\r\n']) + b'\r\n', b'']


def _addresses(rng, good, port):
    address = rng.choice([
        '*', '//', '/../../etc/passwd', '/%00', '/%ff?%ff=%ff', 'http://example.com/', '/' + 'a' * 60_000, '/\x7f',
        '/v1/captions?' + 'top=1&' * 9_000, '/v1/captions?top=1e9&seed=-1'])
    method = rng.choice(['GET', 'POST', 'PUT', 'CONNECT', 'TRACE', 'OPTIONS', 'BREW', 'get'])
    return [f'{method} {address} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n'.encode('latin-1'), b'']


KINDS = {
    'cut short': _cut, 'bytes exchanged': _flipped, 'longer than said': _too_short, 'shorter than said': _too_long,
    'impossible lengths': _huge, '200 megapixels': _bomb, 'no HTTP': _noise, 'damaged chunks': _chunks,
    'damaged forms': _forms, 'foreign Host': _host, 'foreign Origin': _provenance, 'strange heads': _heads,
    'strange addresses': _addresses}


def damaged(rng, good, port):
    """A damaged request.

    Args:
        rng (random.Random): What it follows from.
        good (bytes): A sound request, of a form with an image.
        port (int): The service's.

    Returns:
        tuple: Its kind, one of `KINDS`, and a list of bytes to be sent; empty bytes end the sending.
    """
    kind = rng.choice(list(KINDS))
    return kind, KINDS[kind](rng, good, port)

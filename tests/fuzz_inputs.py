"""Hostile bytes for the fuzzer: mutations of any bytes, and of formats below the checksums, lengths and compression
that would reject plain mutations."""
import io
import json
import pickletools
import struct
import zipfile
import zlib

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 10 ** 5, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 10 ** 13,
           2 ** 63 - 1, 2 ** 64 - 1)

FRAGMENTS = (b'', b'\0' * 64, b'\xff' * 64, b'\x80' * 300, b'../../../etc/passwd', b'/dev/zero', b'%s%n', b'\x1b[2J',
             b'\r\n', b'[' * 5000, b'{"a":' * 2000, b'"', b',', b'(' * 500, b'PK\3\4', b'PK\1\2', b'PK\5\6',
             b'\x93NUMPY\1\0', b'\x89HDF\r\n\x1a\n', b'MATLAB 5.0', b'\xff\xd8\xff\xda', b'\xed\xa0\x80', b'\xf0\x9f',
             b'9' * 5000, b'1e999', b'NaN', b'cposix\nsystem\n', b'\x80\x04\x95', b'a' * 70000)

TEXTS = ('', '\0', '\ud800', '\x1b[2J\x07', '\r\n\u2028', '../../../etc/passwd', '/etc/passwd', 'a/../../b', '.', '//',
         '=HYPERLINK("http://x")', '+1', '-1', '@SUM(1)', '\t=1', '<script>alert(1)</script>', '</script>', '$x${y}',
         '{0.__class__}', '%s', '\u202egnp', 'a\u0301\u0323' * 900, 'x' * 20000, 'word ' * 3000, '<S>', '</S>', '<UNK>',
         'train', 'test', 'vgg19', 'NaN', '\u0663')

VALUES = (None, True, False, 0, -1, 1, 2 ** 31, 2 ** 53, 2 ** 63, -2 ** 63, 10 ** 400, 10 ** 4290, 0.5, -0.0, 1e308,
          float('nan'), float('inf'), float('-inf'), [], {}, [[]], [{}], {'': None}, [None] * 5, *TEXTS)

SHAPES = ('()', '(7,)', '(7, 5)', '(5, 7)', '(0, 5)', '(-1, 5)', '(7, 5, 1)', '(10000000000000, 1)',
          '(1' + '0' * 17 + ', 0)', '(99999999999999999999, 1)', '(7L, 5L)', '(True, 5)', '(7.0, 5)', '7',
          '(' * 300 + ')' * 300, '(' + '1, ' * 40 + ')', '(lambda: 0)()', '[7, 5]', '("7", 5)', '')
DESCRS = ("'<f4'", "'<f8'", "'>f4'", "'|O'", "'O'", "'<U5'", "'|V8'", "'|S0'", "'<c8'", "'<M8[s]'", "'<f3'", "'<i8'",
          "'?'", "'|b1'", "'|S999999999'", "[('a', '<f4')]", "[('a', '|O')]", "('<f4', (1000000000,))", '5', 'None',
          "''", "'x'", "'<f16'")


def mutate(rng, seeds):
    """One of the seeds with a few changes that ignore the format."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 10, 30))):
        _change(rng, data, seeds)
    return bytes(data)


def _change(rng, data, seeds):
    # Mostly in headers.
    at = rng.randrange(min(len(data), rng.choice((32, 200, 1500, 10 ** 9))) or 1) if data else 0
    what = rng.randrange(11)
    if what == 0:
        data[at:at + 1] = bytes([rng.randrange(256)])
    elif what == 1 and data:
        data[at] ^= 1 << rng.randrange(8)
    elif what <= 4:
        size = rng.choice((1, 2, 4, 4, 8))
        value = rng.choice(NUMBERS) if rng.random() < 0.7 else len(data) + rng.randrange(-40, 40)
        data[at:at + size] = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(('little', 'big')))
    elif what == 5:
        del data[at:at + rng.choice((1, 2, 4, 17, 256, 10 ** 4))]
    elif what == 6:
        data[at:at] = data[at:at + rng.choice((1, 8, 64, 1000))] * rng.choice((1, 1, 2, 40))
    elif what == 7:
        del data[at:]
    elif what == 8:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        data[at:at + rng.choice((0, 8, 500))] = other[start:start + rng.choice((4, 64, 2000, 10 ** 6))]
    elif what == 9:
        fragment = rng.choice(FRAGMENTS)
        data[at:at + rng.choice((0, len(fragment)))] = fragment
    else:
        here = rng.randrange(len(data) + 1)
        data[at:at + 8], data[here:here + 8] = data[here:here + 8], data[at:at + 8]


def hostile_json(rng, seeds):
    """One of the JSON seeds with some of its values, keys or text replaced."""
    value = json.loads(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _replaced(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    what = rng.randrange(12)
    if what == 0:
        return text.encode('utf-16', 'replace')
    if what == 1:
        depth = rng.choice((20, 31, 33, 500, 990, 1100, 100000))
        opened, closed = rng.choice((('[', ']'), ('{"a":', '}')))
        return text.replace('1', opened * depth + closed * depth, 1).encode(errors='surrogatepass')
    return text.encode(errors=rng.choice(('replace', 'surrogatepass')))


def _replaced(rng, value):
    if isinstance(value, (list, dict)) and value and rng.random() < 0.85:
        key = rng.randrange(len(value)) if isinstance(value, list) else rng.choice(sorted(value))
        what = rng.randrange(10)
        if what == 0:
            del value[key]
        elif what == 1 and isinstance(value, dict):
            value[rng.choice(TEXTS)] = value.pop(key)
        elif what == 1:
            value.extend(value[:key + 1])
        else:
            value[key] = _replaced(rng, value[key])
        return value
    return json.loads(json.dumps(rng.choice(VALUES)))


def npy(rng, body=b''):
    """A `.npy` with a wrong or unusual header."""
    entries = [f"'descr': {rng.choice(DESCRS[:3] if rng.random() < 0.6 else DESCRS)}",
               f"'fortran_order': {rng.choice(('True', 'False', 'False', '0', 'None'))}",
               f"'shape': {rng.choice(SHAPES[:4] if rng.random() < 0.5 else SHAPES)}"]
    if rng.random() < 0.2:
        entries.append(rng.choice([*entries, "'x': 1", '[]: 1', '{', '\\']))
    rng.shuffle(entries)
    header = ('{' + ', '.join(entries) + ', }' + ' ' * rng.choice((0, 16, 60000))).encode() + b'\n'
    version = rng.choice((1, 1, 2, 3, 9))
    length = len(header) if rng.random() < 0.8 else rng.choice(NUMBERS)
    size = 2 if version == 1 else 4
    return b'\x93NUMPY' + bytes([version, 0]) + (length % 2 ** (8 * size)).to_bytes(size, 'little') + header + body


def npz(rng, seeds):
    """One of the seeds, an archive, rebuilt with changes in its arrays and its directory."""
    with zipfile.ZipFile(io.BytesIO(rng.choice(seeds))) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(rng.choice((1, 1, 2, 5))):
        i = rng.randrange(len(members))
        name, data = members[i]
        what = rng.randrange(6)
        if what == 0:
            members[i] = rng.choice(TEXTS[1:]), data
        elif what == 1:
            members.insert(rng.randrange(len(members) + 1), (rng.choice([name for name, _ in members]), data))
        elif what == 2:
            members[i] = name, npy(rng, data[128:])
        elif what == 3:
            members[i] = name, rng.choice(members)[1]
        else:
            members[i] = name, mutate(rng, [data])
    return _archive(rng, members, rng.choice((0, 8, 8, 12, 14)))


def _archive(rng, members, method):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo((name.split('\0')[0] or '0').encode('utf-8', 'replace').decode())
            info.compress_type = archive.compression
            archive.NameToInfo.pop(info.filename, None)  # no warning of a repeated name
            archive.writestr(info, data)
    data = bytearray(stream.getvalue())
    if rng.random() < 0.5:                              # within the directory at the end
        start = data.rindex(b'PK\5\6') if rng.random() < 0.3 else data.index(b'PK\1\2')
        for _ in range(rng.choice((1, 2, 4))):
            at, size = rng.randrange(start, len(data)), rng.choice((1, 2, 4))
            data[at:at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, 'little')
    return bytes(data)


INSTRUCTIONS = (b'(', b't', b')', b'\x85', b'\x86', b'}', b']', b's', b'u', b'a', b'e', b'd', b'l', b'R', b'\x81', b'b',
                b'Q', b'q\x01', b'h\x01', b'\x94', b'\x93', b'.', b'0', b'2', b'N', b'\x88', b'K\x02', b'M\0\1',
                b'J\xff\xff\xff\xff', b'J\xff\xff\xff\x7f', b'\x8a\x09\0\0\0\0\0\0\0\0\1', b'\x8b\0\0\0\x7f',
                b'G' + bytes(8), b'X\1\0\0\0a', b'I7\n', b'L' + b'9' * 5000 + b'L\n', b'U\3abc', b"S'a'\n",
                b'V\\ud800\n', b'ccollections\nOrderedDict\n', b'ctorch\nFloatStorage\n',
                b'ctorch._utils\n_rebuild_tensor_v2\n', b'ctorch\nLongStorage\n', b'cposix\nmkdir\n', b'c\\x\n\\d\n',
                b'iposix\nmkdir\n', b'cnumpy.core.multiarray\n_reconstruct\n', b'cnumpy\ndtype\n',
                b'c_codecs\nencode\n', b'cargparse\nNamespace\n', b'ccopy_reg\n_reconstructor\n', b"S'\\xff\\'\n")


def instructions(rng, data):
    """A pickle with some instructions replaced, removed or repeated."""
    starts = [at for _, _, at in pickletools.genops(data)]
    parts = [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(parts) + 1)
        new = rng.choice(INSTRUCTIONS if rng.random() < 0.7 or not parts else parts)
        parts[at:at + rng.choice((0, 0, 1, 1, 3))] = [new] * rng.choice((0, 1, 1, 1, 2, 3, 1000))
    return b''.join(parts)


def pickled(rng, seeds):
    """One of the seeds, which are pickles, with other instructions."""
    return instructions(rng, rng.choice(seeds))


def torch_file(rng, seeds):
    """A PyTorch file, in either format, with changes in its pickles and around them."""
    data = rng.choice(seeds)
    change = (lambda part: instructions(rng, part)) if rng.random() < 0.7 else (lambda part: mutate(rng, [part]))
    if data[:2] == b'PK':
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        if rng.random() < 0.2:
            members.append(rng.choice(members))
        return _archive(rng, [(name, change(part) if name.endswith('.pkl') else part) for name, part in members],
                        rng.choice((0, 0, 0, 8, 12)))
    stream, parts = io.BytesIO(data), []
    for _ in range(5):
        start = stream.tell()
        list(pickletools.genops(stream))
        parts.append(data[start:stream.tell()])
    chosen = rng.choice((2, 3, 3, 3, 3, 4))
    parts[chosen] = change(parts[chosen])
    return b''.join(parts) + (data[stream.tell():] if rng.random() < 0.8 else mutate(rng, [data[stream.tell():]]))


def mat5(rng, seeds):
    """A MATLAB 5 file changed below its compression."""
    data = rng.choice([seed for seed in seeds if seed[:6] == b'MATLAB'])
    out, at = data[:128], 128
    while at < len(data):
        kind, size = struct.unpack('<II', data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        if kind == 15:
            body = zlib.decompress(body)
            # Sparse changes, mostly of the tags and dimensions at its beginning.
            body = mutate(rng, [body]) if rng.random() < 0.7 else body
            if rng.random() < 0.05:
                body += bytes(rng.choice((10 ** 5, 10 ** 7)))
            body = zlib.compress(body)
        elif rng.random() < 0.5:
            body = mutate(rng, [body])
        tag = struct.pack('<II', kind, len(body) if rng.random() < 0.95 else rng.choice(NUMBERS) % 2 ** 32)
        out += (tag + body) * rng.choice((1, 1, 1, 1, 1, 2))
        at += 8 + size
    return out


def caffemodel(rng, seeds):
    """Nested fields with known and unknown numbers."""
    if rng.random() < 0.5:
        return mutate(rng, seeds)

    def varint(value):
        out = b''
        while True:
            out += bytes([value & 127 | (128 if value > 127 else 0)])
            value >>= 7
            if not value:
                return out

    def message(depth):
        out = b''
        for _ in range(rng.randrange(1, 6)):
            number, kind = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 100, 99)), rng.choice((0, 2, 2, 2, 1, 5, 3, 7))
            out += varint(number << 3 | kind)
            if kind == 0:
                out += varint(rng.choice(NUMBERS)) if rng.random() < 0.9 else b'\xff' * 400
            elif kind == 2:
                body = message(depth + 1) if depth < 4 and rng.random() < 0.7 else rng.choice(FRAGMENTS)
                out += varint(len(body) if rng.random() < 0.9 else rng.choice(NUMBERS)) + body
            else:
                out += bytes(rng.choice((4, 8)))
        return out
    return message(0)


def safetensors(rng, seeds):
    """A file with changes in the header's JSON and its length."""
    data = rng.choice(seeds)
    length = struct.unpack('<Q', data[:8])[0]
    header = hostile_json(rng, [data[8:8 + length]])
    said = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return struct.pack('<Q', said) + header + data[8 + length:]


def png(rng, seeds):
    """Chunks changed, repeated and moved, with valid checksums."""
    data, at, chunks = rng.choice(seeds), 8, []
    while at + 12 <= len(data):
        size = struct.unpack('>I', data[at:at + 4])[0]
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + size]))
        at += 12 + size
    for _ in range(rng.choice((1, 1, 2, 4))):
        i = rng.randrange(len(chunks))
        kind, body = chunks[i]
        what = rng.randrange(5)
        if what == 0:
            chunks.insert(rng.randrange(len(chunks)), chunks[i])
        elif what == 1:
            chunks[i] = rng.choice((b'IHDR', b'PLTE', b'tRNS', b'iCCP', b'zTXt', b'iTXt', b'eXIf', b'acTL', b'fcTL',
                                    b'gAMA', b'cHRM', b'pHYs')), body
        elif what == 2:
            bomb = zlib.compress(bytes(10 ** 6))
            chunks.insert(1, (rng.choice((b'zTXt', b'iTXt', b'iCCP')), b'a\0\0' + bomb))
        else:
            chunks[i] = kind, mutate(rng, [body])
    return data[:8] + b''.join(struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
                               for kind, body in chunks)

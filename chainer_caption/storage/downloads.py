"""Resumable downloads by curl.

An incomplete download stands beside its final place with the suffix `.part`, and `.part.json` records what the server
reported, so that parts of two different files are never joined."""
import contextlib
import email
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from chainer_caption.errors import InputError
from chainer_caption.storage.files import read_json, with_filename, write_json
from chainer_caption.storage.locks import lock

# `--disable` must be first: a user's configuration may make curl print more than the file. A server that sends nothing
# for a minute is given up.
_CURL = ('curl', '--disable', '--silent', '--show-error', '--fail', '--globoff', '--location', '--max-redirs', '10',
         '--connect-timeout', '30', '--speed-limit', '1', '--speed-time', '60')
_NO_RANGES = 33                 # curl's exit status where the server does not send parts of files (CURLE_RANGE_ERROR)
_TRIES, _WAIT = 5, 1            # attempts in a row without progress; seconds after the first, doubled after each
_CHUNK = 2 ** 18


def ask(url: str) -> dict[str, Any]:
    """Asks a server about a file: `url`, HTTP or HTTPS, where HTTPS is never redirected to HTTP. Returns `url`; `size`
    in bytes; `etag` and `last-modified`, which identify the version (str or None). Raises InputError if the server
    cannot be reached, has no such file, or does not report its size."""
    with _curl(url, '--head') as curl:
        answer, complaint = curl.communicate()
    if curl.returncode:
        raise InputError(f'{url}: cannot be had ({complaint.decode(errors="replace").strip()})')
    # After redirections there are several heads; the last one is the file's.
    head = answer.decode('latin-1').replace('\r\n', '\n').strip().split('\n\n')[-1].partition('\n')[2]
    fields = email.message_from_string(head)
    size = fields.get('Content-Length', '')
    if not size.isascii() or not size.isdigit() or len(size) > 15:
        raise InputError(f'{url}: the server does not say how large the file is; fetch it by another program')
    return {'url': url, 'size': int(size), 'etag': fields.get('ETag'), 'last-modified': fields.get('Last-Modified')}


def begun(remote: dict[str, Any], path: str) -> int:
    """The bytes of a file that an earlier `download` fetched and this one would keep."""
    try:
        return os.path.getsize(f'{path}.part') if read_json(f'{path}.part.json') == remote else 0
    except (InputError, OSError):
        return 0


def download(remote: dict[str, Any], path: str, track: Callable[[int], object] = lambda count: None,
             say: Callable[[str], object] = lambda line: None) -> None:
    """Downloads a file that `ask` described, or the rest of it, to a path in an existing folder, where it appears when
    it is complete. `track` is called with the number of bytes that arrived, negative if they are fetched again; `say`
    with notices, one line each.

    Raises InputError if the download fails, differs from what was announced, or another run is fetching the file; what
    arrived is kept, and the next call continues. Raises OSError if the file cannot be written."""
    part, url, size = f'{path}.part', remote['url'], remote['size']
    with with_filename(part), open(part, 'ab') as f:
        try:
            lock(f, part)
        except BlockingIOError as e:
            raise InputError(f'{part}: another run is writing it; wait until that has ended') from e
        if not 0 < begun(remote, path) <= size:
            f.truncate(0)
            write_json(f'{part}.json', remote)
        tries, farthest = 0, 0
        while (before := os.fstat(f.fileno()).st_size) < size:
            status, complaint = _transfer(remote, f, before, track)
            if status == _NO_RANGES:
                say(f'{url}: the server does not send the rest of a file; the download starts again')
                track(-before)
                f.truncate(0)
            now = os.fstat(f.fileno()).st_size
            tries, farthest = 0 if now > farthest else tries + 1, max(farthest, before, now)
            if tries == _TRIES:
                raise InputError(f'{url}: broken off after {now:,} of {size:,} bytes ({complaint}); the same command '
                                 'continues from there')
            time.sleep(_WAIT * 2 ** (tries - 1) if tries else 0)
        os.fsync(f.fileno())
        os.replace(part, path)                          # while it is locked
    with contextlib.suppress(OSError):
        os.unlink(f'{part}.json')


def _curl(url: str, *options: str) -> subprocess.Popen[bytes]:
    protocols = '=https' if url.startswith('https:') else '=http,https'
    try:
        return subprocess.Popen([*_CURL, '--proto', protocols, '--proto-redir', protocols, *options, url],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as e:
        raise InputError('curl, which downloads files, is not installed: apt-get install curl') from e


def _transfer(remote: dict[str, Any], f: BinaryIO, offset: int, track: Callable[[int], object]) -> tuple[int, str]:
    """Appends what is behind the offset; returns curl's exit status and its message."""
    with _curl(remote['url'], '--continue-at', str(offset)) as curl:
        assert curl.stdout is not None and curl.stderr is not None
        try:
            while chunk := curl.stdout.read1(_CHUNK):   # type: ignore[attr-defined]
                offset += len(chunk)
                if offset > remote['size']:
                    f.truncate(0)
                    raise InputError(f'{remote["url"]}: more comes than the {remote["size"]:,} bytes that the server '
                                     'announced; try again later')
                f.write(chunk)
                f.flush()
                track(len(chunk))
        except BaseException:
            curl.kill()
            raise
        complaint = curl.stderr.read().decode(errors='replace').strip()
    return curl.returncode, complaint or 'the server ended the connection'

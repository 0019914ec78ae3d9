"""Files from the network, by curl: a download that was broken off goes on where it was.

While it is under way it stands beside its place, under its name with `.part` behind, and with `.part.json` what the
server said of it, so that two files are never made one.
"""
import contextlib
import email
import fcntl
import os
import subprocess
import time

from chainer_caption.errors import InputError
from chainer_caption.storage.files import read_json, with_filename, write_json

# `--disable` must be the first: a user's own configuration may have curl print other things than the file. A server
# that sends nothing for a minute is given up.
_CURL = ('curl', '--disable', '--silent', '--show-error', '--fail', '--globoff', '--location', '--max-redirs', '10',
         '--connect-timeout', '30', '--speed-limit', '1', '--speed-time', '60')

# curl's exit status where the server does not send parts of files (`man curl`, CURLE_RANGE_ERROR).
_NO_RANGES = 33

# How often in a row it may get no farther; and how many seconds to wait after the first time, twice as many after each.
_TRIES, _WAIT = 5, 1

_CHUNK = 2 ** 18


def ask(url):
    """What a server says of a file.

    Args:
        url (str): Its address, HTTP or HTTPS; of the latter no redirection leads to the former.

    Returns:
        dict: `url`; `size` in bytes (int); `etag` and `last-modified`, strings or None, which tell whether it is still
        the same.

    Raises:
        InputError: The server cannot be reached, has no such file, or does not say how large it is.
    """
    with _curl(url, '--head') as curl:
        answer, complaint = curl.communicate()
    if curl.returncode:
        raise InputError(f'{url}: cannot be had ({complaint.decode(errors="replace").strip()})')
    # After redirections there are several heads, of which the last one is the file's.
    head = answer.decode('latin-1').replace('\r\n', '\n').strip().split('\n\n')[-1].partition('\n')[2]
    fields = email.message_from_string(head)
    size = fields.get('Content-Length', '')
    if not size.isascii() or not size.isdigit() or len(size) > 15:
        raise InputError(f'{url}: the server does not say how large the file is; fetch it by another program')
    return {'url': url, 'size': int(size), 'etag': fields.get('ETag'), 'last-modified': fields.get('Last-Modified')}


def begun(remote, path):
    """How many bytes of a file have been fetched before, as `download` would go on with them."""
    try:
        return os.path.getsize(_part(path)) if read_json(f'{_part(path)}.json') == remote else 0
    except (InputError, OSError):
        return 0


def download(remote, path, track=lambda count: None, say=lambda line: None):
    """Fetches a file, or the rest of it.

    Args:
        remote (dict): What `ask` says of it.
        path (str): Where to; it appears there when it is whole. Its folder must exist.
        track (callable): Takes the number of bytes that have come, again and again; a negative one if they have to come
            once more.
        say (callable): Takes notices, a line each.

    Raises:
        InputError: It does not come, or not as it was announced, or another run is fetching it. What came is kept, and
            the next call goes on with it.
        OSError: It cannot be written.
    """
    part = _part(path)
    with with_filename(part), open(part, 'ab') as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(f'{part}: another run is writing it; wait until that has ended') from e
        if not 0 < begun(remote, path) <= remote['size']:
            f.truncate(0)
            write_json(f'{part}.json', remote)
        tries, farthest = 0, 0
        while (before := os.fstat(f.fileno()).st_size) < remote['size']:
            status, complaint = _transfer(remote, f, before, track)
            if status == _NO_RANGES:
                say(f'{remote["url"]}: the server does not send the rest of a file; it begins anew')
                track(-before)
                f.truncate(0)
            now = os.fstat(f.fileno()).st_size
            tries, farthest = 0 if now > farthest else tries + 1, max(farthest, before, now)
            if tries == _TRIES:
                raise InputError(f'{remote["url"]}: broken off after {now:,} of {remote["size"]:,} bytes '
                                 f'({complaint}); the same command goes on from there')
            time.sleep(_WAIT * 2 ** (tries - 1) if tries else 0)
        os.fsync(f.fileno())
        os.replace(part, path)                          # while it is locked
    with contextlib.suppress(OSError):
        os.unlink(f'{part}.json')


def _part(path):
    return f'{path}.part'


def _curl(url, *options):
    protocols = '=https' if url.startswith('https:') else '=http,https'
    try:
        return subprocess.Popen([*_CURL, '--proto', protocols, '--proto-redir', protocols, *options, url],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as e:
        raise InputError('curl, which downloads files, is not installed: apt-get install curl') from e


def _transfer(remote, f, offset, track):
    """Has curl send what is behind the offset, and appends it; curl's exit status and what it has to say."""
    with _curl(remote['url'], '--continue-at', str(offset)) as curl:
        try:
            while chunk := curl.stdout.read1(_CHUNK):
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

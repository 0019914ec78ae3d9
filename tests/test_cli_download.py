"""Downloads, from a server that breaks off, refuses, lies and changes its mind; and archives that lead elsewhere."""
import http.server
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from conftest import write_dataset
from test_storage_full_disk import fill, one_line, remount

from chainer_caption import Dataset, InputError
from chainer_caption.data import sources
from chainer_caption.data.sources import Source
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.weights import find_weights
from chainer_caption.storage import downloads
from chainer_caption.storage import unpack as unpacking
from chainer_caption.storage.downloads import ask, download
from chainer_caption.storage.unpack import unpack

pytestmark = pytest.mark.skipif(shutil.which('curl') is None, reason='needs curl')

WEIGHTS = bytes(np.random.default_rng(0).integers(256, size=600_000, dtype=np.uint8))


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, `/file` and whatever ends so, as its attributes say."""
    daemon_threads = True
    content, etag = WEIGHTS, '"1"'
    ranges = True               # whether it sends parts
    breaks_after = None         # bytes of a request's body, if it ends the connection then
    announced = None            # the size that it says, in place of the true one; '' for none
    held = None                 # an event that it waits for after the first piece

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}/file'
        self.asked = []

    def handle_error(self, request, client_address):
        pass                                            # the client has closed the connection


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(len(self.server.content) if self.server.announced is None else self.server.announced)

    def _answer(self, length, status=200, **fields):
        if self.path == '/moved':
            status, fields = 302, {'Location': '/file'}
        if self.path == '/none':
            status = 404
        self.send_response(status)
        for name, value in {'Content-Length': length, 'ETag': self.server.etag, **fields}.items():
            if value != '':
                self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        return status

    def do_GET(self):
        server, start = self.server, 0
        server.asked.append(self.headers.get('Range'))
        if server.ranges and 'Range' in self.headers:
            start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
        whole = len(server.content)
        part = {'status': 206, 'Content_Range': f'bytes {start}-{whole - 1}/{whole}'} if start else {}
        if self._answer(whole - start, **part) >= 300:
            return
        body = server.content[start:]
        for i in range(0, len(body[:server.breaks_after]), 50_000):
            self.wfile.write(body[i:min(i + 50_000, server.breaks_after or whole)])
            if server.held is not None:
                server.held.wait()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setattr(downloads, '_WAIT', 0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def vgg(server, monkeypatch):
    """The server's file is VGG-19's weights."""
    monkeypatch.setitem(sources.WEIGHTS, 'vgg19', Source(server.url, 'free'))
    return server


def zipped(files, **kinds):
    """A zip archive: name to content; kinds are modes by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr, member.compress_type = kinds.get(name, 0) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return stream.getvalue()


def test_a_file_comes_whole_and_is_announced(call, vgg, tmp_path):
    folder = tmp_path / 'new' / 'weights'
    status, out, err = call('download', 'vgg19', '-o', folder)
    assert (status, out) == (0, '') and f'{vgg.url}: 0.6 MB, to {folder}; licence: free\n' in err
    assert (folder / 'file').read_bytes() == WEIGHTS and os.listdir(folder) == ['file']
    assert call('download', 'vgg19', '-o', folder) == (0, '', f'{folder}/file is there already\n')
    assert vgg.asked == [None]


def test_connections_that_break(call, vgg, tmp_path):
    vgg.breaks_after = 170_000
    assert call('download', 'vgg19', '-o', tmp_path)[0] == 0
    assert (tmp_path / 'file').read_bytes() == WEIGHTS
    assert vgg.asked == [None, 'bytes=170000-', 'bytes=340000-', 'bytes=510000-']


def test_a_server_that_sends_nothing_more(refused, call, vgg, tmp_path):
    vgg.breaks_after = 170_000
    with pytest.MonkeyPatch.context() as patch:
        limited = Limited(2)
        patch.setattr(downloads, '_transfer', limited)
        status, _, err = call('download', 'vgg19', '-o', tmp_path)
    assert status == 2 and f'{vgg.url}: broken off after 340,000 of 600,000 bytes (' in err.splitlines()[-1]
    assert limited.calls == 2 + downloads._TRIES and os.path.getsize(tmp_path / 'file.part') == 340_000
    vgg.breaks_after = None
    err = call('download', 'vgg19', '-o', tmp_path)[2]
    assert ', of which 0.3 are there, ' in err and vgg.asked[-1] == 'bytes=340000-'
    assert (tmp_path / 'file').read_bytes() == WEIGHTS and sorted(os.listdir(tmp_path)) == ['file']


class Limited:
    """Transfers so many times; then the server does not answer."""

    def __init__(self, times):
        self.times, self.calls, self._transfer = times, 0, downloads._transfer

    def __call__(self, *args):
        self.calls += 1
        return self._transfer(*args) if self.calls <= self.times else (7, 'curl: (7) Failed to connect')


def test_ranges_refused(call, vgg, tmp_path):
    vgg.breaks_after = 170_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, '_transfer', Limited(1))
        assert call('download', 'vgg19', '-o', tmp_path)[0] == 2
    vgg.ranges, vgg.breaks_after = False, None
    status, _, err = call('download', 'vgg19', '-o', tmp_path)
    assert status == 0 and 'the server does not send the rest of a file; the download starts again' in err
    assert (tmp_path / 'file').read_bytes() == WEIGHTS
    os.unlink(tmp_path / 'file')
    vgg.breaks_after = 170_000
    assert call('download', 'vgg19', '-o', tmp_path)[0] == 2, 'it ends, even if nothing ever comes of it'


def test_a_file_that_has_changed_meanwhile(call, vgg, tmp_path):
    vgg.breaks_after = 170_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, '_transfer', Limited(1))
        call('download', 'vgg19', '-o', tmp_path)
    vgg.content, vgg.etag, vgg.breaks_after = WEIGHTS[::-1], '"2"', None
    assert call('download', 'vgg19', '-o', tmp_path)[0] == 0
    assert (tmp_path / 'file').read_bytes() == WEIGHTS[::-1] and vgg.asked[-1] is None


@pytest.mark.parametrize(('announced', 'reason'), [
    (len(WEIGHTS) + 7, r'broken off after 600,000 of 600,007 bytes'), (len(WEIGHTS) - 7, 'more comes than the 599,993'),
    ('', 'does not say how large'), ('-5', 'cannot be had|does not say how large'),
    ('9' * 30, 'cannot be had|does not say how large'), (10 ** 14, 'needs 100,000,000 MB, and ')])
def test_wrong_sizes(announced, reason, call, vgg, tmp_path):
    vgg.announced = announced
    status, _, err = call('download', 'vgg19', '-o', tmp_path)
    assert status == 2 and not (tmp_path / 'file').exists()
    assert re.search(reason, err.splitlines()[-1])


def test_addresses(server, tmp_path):
    remote = ask(server.url.replace('/file', '/moved'))
    assert remote['size'] == len(WEIGHTS) and remote['etag'] == '"1"'
    download(remote, tmp_path / 'x')
    assert (tmp_path / 'x').read_bytes() == WEIGHTS
    for url in server.url.replace('/file', '/none'), 'http://127.0.0.1:9/x', 'file:///etc/passwd':
        with pytest.raises(InputError, match=f'^{url}: cannot be had '):
            ask(url)


def test_one_at_a_time_and_killed(refused, call, vgg, package_environment, tmp_path):
    program = '''if True:
        import sys
        from chainer_caption import cli
        from chainer_caption.data import sources
        sources.WEIGHTS['vgg19'] = sources.Source(sys.argv[1], 'free')
        sys.exit(cli.run('download', ['vgg19', '-o', sys.argv[2]], 'download.py'))'''
    vgg.held = threading.Event()
    running = subprocess.Popen([sys.executable, '-c', program, vgg.url, tmp_path],
                               env={**package_environment, 'NO_PROXY': '*'}, stderr=subprocess.DEVNULL)
    while not (tmp_path / 'file.part').exists() or not os.path.getsize(tmp_path / 'file.part'):
        assert running.poll() is None
        time.sleep(0.01)
    assert 'another run is writing it' in call('download', 'vgg19', '-o', tmp_path)[2]
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    vgg.held.set()
    assert call('download', 'vgg19', '-o', tmp_path)[0] == 0
    assert (tmp_path / 'file').read_bytes() == WEIGHTS and vgg.asked[-1].startswith('bytes=')


def test_without_curl(server, monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(InputError, match='curl, which downloads files, is not installed'):
        ask(server.url)


# Data sets

@pytest.fixture
def flickr8k(server, monkeypatch, tmp_path):
    """The server's file is a dataset with its images, as Karpathy packs them."""
    folder = write_dataset(tmp_path / 'made', 12)
    server.content = zipped({'flickr8k/': b'', '__MACOSX/._x': b'', **{
        f'flickr8k/{path.name}': path.read_bytes() for path in folder.iterdir()}})
    monkeypatch.setitem(sources.DATASETS, 'flickr8k', Source(f'{server.url}.zip', 'free', strip=True))
    monkeypatch.setitem(sources.IMAGES, 'flickr8k', (Source(server.url.replace('file', 'images.zip'), 'free'),))
    monkeypatch.chdir(tmp_path)
    return server


def test_a_dataset_is_unpacked_and_opens(call, flickr8k, tmp_path):
    status, out, err = call('download', 'flickr8k')
    assert (status, out) == (0, '') and 'features/flickr8k' in err
    assert sorted(os.listdir('features/flickr8k')) == ['dataset.json', 'downloads.json', 'vgg_feats.mat']
    assert len(Dataset('features/flickr8k').captions.filenames) == 12
    kept, = json.loads((tmp_path / 'features' / 'flickr8k' / 'downloads.json').read_text())
    assert kept == {'url': f'{flickr8k.url}.zip', 'size': len(flickr8k.content), 'etag': '"1"', 'last-modified': None}
    assert call('download', 'flickr8k')[2] == f'{flickr8k.url}.zip is in features/flickr8k already\n'
    assert len(flickr8k.asked) == 1
    flickr8k.content = zipped({'Flicker8k_Dataset/a.jpg': b'a', '__MACOSX/Flicker8k_Dataset/._a.jpg': b'x'})
    assert call('download', 'flickr8k', '--with-images')[0] == 0
    assert os.listdir('features/flickr8k/Flicker8k_Dataset') == ['a.jpg'] and len(flickr8k.asked) == 2


def test_an_unpacking_that_was_stopped_goes_on(call, flickr8k, monkeypatch):
    def replace(*names, replace=os.replace):
        replace(*names)
        if names[1].endswith('dataset.json'):
            raise KeyboardInterrupt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', replace)
        assert call('download', 'flickr8k')[0] == 128 + signal.SIGINT
    written = os.stat('features/flickr8k/dataset.json').st_mtime_ns
    assert call('download', 'flickr8k')[0] == 0 and len(flickr8k.asked) == 1
    assert os.stat('features/flickr8k/dataset.json').st_mtime_ns == written
    assert sorted(os.listdir('features/flickr8k')) == ['dataset.json', 'downloads.json', 'vgg_feats.mat']


def test_what_is_not_to_be_had(refused, tmp_path, monkeypatch):
    assert 'sent on request alone' in refused('download', 'flickr30k', '--with-images', '-o', tmp_path)
    assert '--with-images is for datasets' in refused('download', 'vgg16', '--with-images', '-o', tmp_path)
    monkeypatch.setattr('chainer.dataset.download._dataset_root', os.devnull)
    assert 'name a folder with -o' in refused('download', 'vgg19')


def test_weights_come_to_where_they_are_looked_for(call, vgg, tmp_path, monkeypatch):
    monkeypatch.setattr('chainer.dataset.download._dataset_root', str(tmp_path))
    vgg.url += '/VGG_ILSVRC_19_layers.caffemodel'
    monkeypatch.setitem(sources.WEIGHTS, 'vgg19', Source(vgg.url, 'free'))
    assert call('download', 'vgg19')[0] == 0
    assert find_weights(ENCODERS['vgg19']) == f'{tmp_path}/pfnet/chainer/models/VGG_ILSVRC_19_layers.caffemodel'


def archive(path, content):
    path.write_bytes(content)
    return str(path)


LINK = {'link': stat.S_IFLNK | 0o777}


@pytest.mark.parametrize(('content', 'reason'), [
    (zipped({'a': b'1', '../b': b'2'}), r'\.\./b would lie outside of'), (zipped({'/tmp/b': b'2'}), 'outside of'),
    (zipped({'a/../../b': b'2'}), 'outside of'), (zipped({'x/.': b'', '.': b'2'}), 'outside of'),
    (zipped({'': b'2'}), 'outside of'),
    (zipped({'a': b'1', 'link': b'/etc'}, **LINK), 'link is a link or a device'),
    (zipped({'a': bytes(2 ** 27)}), 'do not fit into it'), (b'PK\3\4 no archive', 'not a sound archive'),
    (zipped({'a': b'0' * 999}).replace(b'PK\1\2', b'PK\1\3'), 'not a sound archive')])
def test_archives_that_lead_elsewhere(content, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        unpack(archive(tmp_path / 'a.zip', content), str(tmp_path / 'out' / 'here'))
    assert sorted(os.listdir(tmp_path)) == ['a.zip'], 'nothing was written'


def test_links_that_are_there_lead_nowhere(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'out' / 'sub').symlink_to(tmp_path / 'outside')
    (tmp_path / 'out' / 'file').symlink_to(tmp_path / 'outside' / 'file')
    for name in 'sub/x', 'file':
        with pytest.raises(InputError, match=f'{name} would lie outside of'):
            unpack(archive(tmp_path / 'a.zip', zipped({name: b'1'})), str(tmp_path / 'out'))
    assert os.listdir(tmp_path / 'outside') == []


def test_a_damaged_file_in_an_archive(tmp_path):
    content = bytearray(zipped({'good': b'1', 'bad': WEIGHTS}))
    content[len(content) // 2] ^= 1
    with pytest.raises(InputError, match=r'a\.zip: not a sound archive \(.*; delete it, and the same command '):
        unpack(archive(tmp_path / 'a.zip', bytes(content)), str(tmp_path / 'out'))
    assert os.listdir(tmp_path / 'out') == ['good']


def test_a_disk_without_room(call, vgg, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=500_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda folder: free)
        status, _, err = call('download', 'vgg19', '-o', tmp_path)
        assert status == 2 and f'{tmp_path}: {vgg.url} needs 1 MB, and 0 MB are free there; make room' in err
        path = archive(tmp_path / 'a.zip', zipped({'a': bytes(600_000)}))
        with pytest.raises(InputError, match=r'what is in .*a\.zip needs'):
            unpack(path, str(tmp_path / 'out'))
    assert vgg.asked == []


def test_a_disk_that_gets_full(call, vgg, disk):
    fill(disk, leave=100 * 1024)
    with pytest.MonkeyPatch.context() as patch:         # the disk fills up after the start
        patch.setattr(unpacking, 'check_room', lambda *args: None)
        status, _, err = call('download', 'vgg19', '-o', disk)
    one_line(status, err.splitlines(keepends=True)[-1], disk / 'file.part')
    remount(disk, 'size=64m')
    assert call('download', 'vgg19', '-o', disk)[0] == 0 and vgg.asked[-1].startswith('bytes=')
    assert (disk / 'file').read_bytes() == WEIGHTS

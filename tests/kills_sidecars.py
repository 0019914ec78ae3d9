"""Kills the captioning of a folder into sidecars at random moments, restarts it, and checks the files.

    python tests/kills_sidecars.py --limit 1000 --kills 3 [--suffix xmp]

After each SIGKILL every sidecar must equal that of an undisturbed run, and none may have been written twice, by its
inode and its time. In the end all must be there and nothing else, and the images unchanged. Writing is slowed down, so
that most kills happen during it.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from chainer_caption import Bundle, Vocabulary
from chainer_caption.models import ShowAndTell

ROOT = pathlib.Path(__file__).resolve().parents[1]

SLOWLY = '''
import os, sys, time
from chainer_caption import cli
from chainer_caption.storage import files

def fsync(handle, fsync=os.fsync):
    time.sleep(0.005)
    fsync(handle)

files.os.fsync = fsync
sys.exit(cli.run('generate', sys.argv[1:], 'generate.py'))
'''


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def marks(folder):
    """Inode and time of each file, which change when it is written again."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob('[!.]*') if path.is_file()}


def make(folder, number, rng):
    """Images in folders of a hundred, and an untrained model."""
    for i in range(number):
        path = folder / 'images' / f'{i // 100:03}' / f'{i:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(path)
    vocabulary = Vocabulary.from_counts({f'word{i}': 9 for i in range(50)}, 9)
    model = Bundle(ShowAndTell(4096, len(vocabulary), 8), vocabulary, {'encoder': 'demo', 'preprocessing': 'demo'})
    model.save(folder / 'model')
    return folder / 'images', folder / 'model'


def main():
    parser = argparse.ArgumentParser(description='Kill the writing of sidecars, restart it, and check the files.')
    parser.add_argument('--limit', type=int, default=100, metavar='N', help='images (%(default)s)')
    parser.add_argument('--kills', type=int, default=3, metavar='N', help='SIGKILLs (%(default)s)')
    parser.add_argument('--suffix', default='txt', help='of the sidecars (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the moments (%(default)s)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill(args, np.random.default_rng(args.seed), pathlib.Path(folder))


def kill(args, rng, folder):
    images, model = make(folder, args.limit, rng)
    untouched, made = (contents(images), marks(images)), folder / 'made'

    def start(into):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        return subprocess.Popen(
            [sys.executable, '-c', SLOWLY, images, '-m', model, '--beam-width', '2', '--sidecar', args.suffix,
             '--output-dir', into], env={**os.environ, 'PYTHONPATH': path})

    def wait_for_first(process, into, before):
        while len(marks(into)) <= before and process.poll() is None:
            time.sleep(0.01)
        return time.monotonic()

    process = start(folder / 'expected')
    began = wait_for_first(process, folder / 'expected', 0)
    assert process.wait() == 0
    duration, expected, written = time.monotonic() - began, contents(folder / 'expected'), {}
    assert len(expected) == args.limit
    for number in range(args.kills):
        process = start(made)
        wait_for_first(process, made, len(written))
        time.sleep(rng.uniform(0, duration / args.kills))
        process.kill()
        assert process.wait() == -signal.SIGKILL, 'it had ended before it was killed'
        there, halves = marks(made), [path for path in made.rglob('.*') if path.is_file()]
        assert written.items() <= there.items(), 'one was written twice'
        assert all(path.read_bytes() == expected[path.relative_to(made)] for path in there), 'one is not whole'
        written = there
        print(f'kill {number + 1}: {len(there)} of {args.limit} sidecars, {len(halves)} begun', flush=True)
    assert start(made).wait() == 0
    assert contents(made) == expected and written.items() <= marks(made).items()
    assert (contents(images), marks(images)) == untouched, 'an image was touched'
    print(f'{args.limit} sidecars after {args.kills} kills: complete, none half-written, none written twice')


if __name__ == '__main__':
    main()

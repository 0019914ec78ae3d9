"""The page of an exported model in a browser: it captions as Captioner does, and prepares images as Python does."""
import functools
import http.server
import json
import os
import pathlib
import threading

import numpy as np
import pytest
from browser import CONTRAST, PROGRAM, Browser
from PIL import Image
from serving import IMAGES
from test_captioning_export import MODELS, randomized, save

from chainer_caption import Captioner
from chainer_caption.features.images import open_image
from chainer_caption.features.preprocessing import PREPROCESSINGS

CARDS = 'document.querySelectorAll("#cards article:not([aria-busy=true])")'
HOW = 'document.getElementById("how").textContent'
# Of each card its name and its captions or error.
FOUND = '''Object.fromEntries([...document.querySelectorAll("#cards article")].map(card => [
    card.querySelector(".name").textContent, [...card.querySelectorAll(".best, li > span:first-child, .problem")].map(
        element => element.textContent)]))'''


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip('needs Chromium or Chrome')
    with Browser(tmp_path_factory.mktemp('browser')) as browser:
        yield browser


@pytest.fixture(scope='module')
def package():
    """The folder of npm's onnxruntime-web."""
    if 'ONNXRUNTIME_WEB' not in os.environ:
        pytest.skip('needs ONNXRUNTIME_WEB, the folder of the npm package onnxruntime-web')
    return os.environ['ONNXRUNTIME_WEB']


@pytest.fixture(scope='module')
def sites(tmp_path_factory):
    """A folder and the address at which a static server has it."""
    folder = tmp_path_factory.mktemp('sites')

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever).start()
    yield folder, f'http://127.0.0.1:{server.server_address[1]}/'
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser, package, sites, call, tmp_path):
    """Opens the page of a model: `page(model directory)`. No script may fail, and no request go elsewhere."""
    folder, address = sites
    browser.events.clear()
    browser.screen(1000, 800)

    def open_page(model):
        assert call('export', model, '-o', folder / 'site', '--web', package, '--overwrite')[0] == 0
        browser.open(f'{address}site/')
        browser.wait(f'!{HOW}.startsWith("Loading")')
        assert browser.run(HOW).startswith('Drop images here')
        return browser
    yield open_page
    browser.run('1')
    asked = [event['params']['request']['url'] for event in browser.events
             if event['method'] == 'Network.requestWillBeSent']
    assert all(url.startswith((address, f'blob:{address}', 'data:')) for url in asked), asked
    wrong = [event for event in browser.events if event['method'] in ('Runtime.exceptionThrown', 'Log.entryAdded')]
    assert not wrong, wrong


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return save(randomized(MODELS['merge'], scale=2.0), tmp_path_factory.mktemp('page') / 'model')


def drop(browser, *paths):
    browser.drop(200, 300, paths)
    browser.wait(f'{CARDS}.length === {len(paths)}')


def expected(model, paths):
    return {pathlib.Path(result.path).name: [caption.text + ('' if caption.finished else ' … unfinished')
                                             for caption in result.captions]
            for result in Captioner.load(model).caption(paths)}


@pytest.mark.parametrize(('name', 'search'), [
    ('merge', {'width': 3, 'length_normalization': 0.7}), ('show_and_tell', {}), ('encoder_decoder', {}),
    ('lstm_maxout', {})])
def test_the_page_captions_as_captioner(name, search, page, tmp_path):
    model = save(randomized(MODELS[name], scale=2.0), tmp_path / 'model', search=search)
    browser = page(model)
    drop(browser, *IMAGES[:4])
    assert browser.run(FOUND) == expected(model, IMAGES[:4])


def test_a_file_that_is_no_image_is_a_card_of_its_own(page, model, tmp_path):
    (tmp_path / 'bad.png').write_bytes(IMAGES[0].read_bytes()[:60])
    browser = page(model)
    drop(browser, IMAGES[0], tmp_path / 'bad.png', IMAGES[1])
    found = browser.run(FOUND)
    assert found.pop('bad.png') == ['No captions: not an image that this browser can read']
    assert found == expected(model, [IMAGES[0], IMAGES[1]])


def test_the_camera_is_captioned(page, model):
    browser = page(model)
    browser.run('document.getElementById("camera").click()')
    browser.wait('document.querySelector("#live-captions .text li")')
    browser.run('document.getElementById("stop").click()')
    assert browser.run('document.getElementById("live").hidden')


@pytest.mark.parametrize('name', sorted(PREPROCESSINGS))
def test_the_page_prepares_images_as_each_preprocessing_does(name, page, model, sites):
    folder, _ = sites
    # Larger and smaller than the encoders' input, wide and high; of coarse noise, whose borders matter.
    rng = np.random.default_rng(0)
    browser, preprocessing = page(model), PREPROCESSINGS[name]
    for size in (437, 300), (61, 90):
        small = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / 'site' / 'image.png')
        with open_image(folder / 'site' / 'image.png') as image:
            wanted = preprocessing.prepare(image)
        browser.run(f'window.recipe = {json.dumps(preprocessing.to_json())}')
        pixels, shape = browser.run('''(async () => {
            const {prepare} = await import('./prepare.js');
            const answer = await fetch('image.png', {cache: 'no-store'});
            const {pixels, shape} = await prepare(await answer.blob(), recipe);
            return [[...pixels], shape];
        })()''')
        levels = np.abs(np.reshape(pixels, shape) - wanted) * preprocessing.scale[0]
        # A sum of products may be rounded the other way, once for each side.
        assert levels.max() < 2.5 and levels.mean() < 0.05


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize(('width', 'height', 'phone'), [(1280, 900, False), (390, 844, True)])
def test_it_fits_the_window_and_its_text_can_be_read(width, height, phone, scheme, page, model):
    browser = page(model)
    browser.screen(width, height, scheme, phone)
    drop(browser, IMAGES[0])
    assert browser.run('document.documentElement.scrollWidth <= document.documentElement.clientWidth')
    assert browser.run(CONTRAST) >= 4.5


def test_opened_as_a_file_it_says_what_to_do(page, model, sites, browser):
    page(model)
    browser.events.clear()
    browser.open((sites[0] / 'site' / 'index.html').as_uri())
    assert 'python -m http.server' in browser.run(HOW)
    browser.open('about:blank')
    browser.events.clear()


def test_a_folder_that_is_not_the_package_is_refused(model, tmp_path, refused):
    out, other = tmp_path / 'out', tmp_path / 'other'
    other.mkdir()
    assert '1.20 or later (lacks dist/ort.wasm.min.mjs)' in refused('export', model, '-o', out, '--web', other)
    (other / 'dist').mkdir()
    for name in 'ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm':
        (other / 'dist' / name).write_text('')
    (other / 'package.json').write_text('{"name": "left-pad"}')
    assert "not the npm package onnxruntime-web, 1.20 or later (is 'left-pad')" in refused(
        'export', model, '-o', out, '--web', other)
    assert not out.exists()

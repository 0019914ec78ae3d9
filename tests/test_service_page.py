"""The page in a browser: images are dropped, pasted, chosen and taken, and captions copied and saved."""
import csv
import io
import json

import pytest
from browser import CONTRAST, PROGRAM, Browser
from serving import IMAGES, ask, form, running

from chainer_caption.captioning.results import Caption, Result
from chainer_caption.report import open_writer

CONTROL = 2                                             # the key, as the protocol numbers modifiers
CARDS = 'document.querySelectorAll("#cards article:not([aria-busy=true])")'
BEST = '[...document.querySelectorAll("#cards .best")].map(p => p.textContent)'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip('needs Chromium or Chrome')
    with Browser(tmp_path_factory.mktemp('browser')) as browser:
        browser.do('Browser.grantPermissions', permissions=['clipboardReadWrite', 'clipboardSanitizedWrite'])
        yield browser


@pytest.fixture(scope='module')
def port(served_captioner):
    with running(served_captioner, facts={'Model': 'small', 'Search': 'beam 20'}) as port:
        yield port


@pytest.fixture
def page(browser, port):
    """The browser with the page open. No script may fail, and no request go to another server."""
    browser.events.clear()
    browser.screen(1000, 800)
    browser.open(f'http://127.0.0.1:{port}/')
    yield browser
    browser.run('1')
    asked = [event['params']['request']['url'] for event in browser.events
             if event['method'] == 'Network.requestWillBeSent']
    assert all(url.startswith((f'http://127.0.0.1:{port}/', f'blob:http://127.0.0.1:{port}/')) for url in asked), asked
    wrong = [event for event in browser.events if event['method'] == 'Runtime.exceptionThrown' or (
        event['method'] == 'Log.entryAdded' and event['params']['entry']['level'] == 'error'
        and event['params']['entry']['source'] != 'network')]
    assert not wrong, wrong


def captions_of(port, *paths):
    body, kind = form(*[(path.name, path.read_bytes()) for path in paths])
    return [row['captions'] for row in ask(port, body=body, content_type=kind)[2]]


def drop(page, *paths):
    page.drop(500, 300, paths)
    page.wait(f'{CARDS}.length === {len(paths)}')


def choose(page, *paths):
    document = page.do('DOM.getDocument')['root']['nodeId']
    field = page.do('DOM.querySelector', nodeId=document, selector='#files')['nodeId']
    page.do('DOM.setFileInputFiles', nodeId=field, files=list(map(str, paths)))
    page.wait(f'{CARDS}.length === {len(paths)}')


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / 'bad <b>.png'
    path.write_bytes(IMAGES[0].read_bytes()[:500])
    return path


def test_images_are_dropped_one_of_them_bad(page, port, bad):
    assert page.run('document.querySelector("#tools").hidden')
    drop(page, IMAGES[0], bad, IMAGES[1])
    # Newest first.
    expected = captions_of(port, IMAGES[1], IMAGES[0])
    assert page.run(BEST) == [captions[0]['caption'] for captions in expected]
    assert page.run('[...document.querySelectorAll("#cards li > span:first-child")].map(e => e.textContent)') == [
        caption['caption'] for captions in expected for caption in captions[1:]]
    assert page.run('[...document.querySelectorAll("#cards i")].length') == 8
    assert page.run('[...document.querySelectorAll("#cards img")].map(i => i.alt)') == page.run(BEST)
    assert page.run('document.querySelector(".problem").textContent').startswith('No captions: ')
    assert page.run('[...document.querySelectorAll("#cards .name")].map(e => e.textContent)') == [
        IMAGES[1].name, bad.name, IMAGES[0].name]
    assert page.run('document.querySelector("output").value') == '3 images, 1 failed'


def test_an_image_is_pasted(page):
    page.run('''(async () => {
        const canvas = new OffscreenCanvas(90, 60);
        canvas.getContext('2d').fillRect(20, 20, 30, 30);
        const item = new ClipboardItem({'image/png': await canvas.convertToBlob({type: 'image/png'})});
        await navigator.clipboard.write([item]);
    })()''')
    page.press('v', 'KeyV', 86, CONTROL, commands=['paste'])
    page.wait(f'{CARDS}.length === 1')
    assert page.run(BEST)[0] is not None and page.run('document.querySelector("#cards img").naturalWidth') == 90


def test_images_are_chosen(page, port):
    choose(page, IMAGES[2])
    assert page.run(BEST) == [captions_of(port, IMAGES[2])[0][0]['caption']]


def test_the_camera_is_captioned_live_and_its_images_kept(page):
    page.run('document.getElementById("camera").click()')
    page.wait('document.querySelector("#live-captions .text li")')
    assert page.run('document.querySelector("video").videoWidth') > 0
    first = page.run('document.querySelector("#live-captions .name").textContent')
    page.wait(f'document.querySelector("#live-captions .name").textContent !== {json.dumps(first)}')
    page.run('document.getElementById("keep").click()')
    page.wait(f'{CARDS}.length === 1')
    page.run('document.getElementById("stop").click()')
    assert page.run('document.getElementById("live").hidden')
    assert page.run('document.querySelector("video").srcObject.active') is False


def test_saved_files_are_those_of_generate(page, port, bad, tmp_path):
    formula = tmp_path / '=1+1,"x".png'
    formula.write_bytes(IMAGES[3].read_bytes())
    drop(page, IMAGES[0], bad, formula)
    page.run('''{ const create = URL.createObjectURL; window.saved = {};
        URL.createObjectURL = blob => { blob.text().then(text => { saved[blob.type] = text; }); return create(blob); }
        document.getElementById('csv').click(); document.getElementById('json').click(); }''')
    page.wait('saved["text/csv"] && saved["application/json"]')
    rows = json.loads(page.run('saved["application/json"]'))
    assert {row['filename'] for row in rows} == {IMAGES[0].name, bad.name, formula.name}
    with io.StringIO(newline='') as written:
        writer = open_writer('csv', written)
        for row in rows:
            captions = [Caption(c['tokens'], c['log_prob'], c['log_prob_per_token'], c['finished'])
                        for c in row.get('captions', ())]
            writer.write(Result(None, row['filename'], captions=captions, error=row.get('error')))
        assert page.run('saved["text/csv"]') == written.getvalue()
        assert len(list(csv.reader(io.StringIO(written.getvalue())))) == 12


def test_captions_are_copied(page, port):
    drop(page, IMAGES[0], IMAGES[1])
    first, second = captions_of(port, IMAGES[0], IMAGES[1])
    page.run('document.querySelector("#cards .copy").click()')
    page.wait('document.querySelector("#cards .copy").textContent === "Copied"')
    assert page.run('navigator.clipboard.readText()').split('\n') == [caption['caption'] for caption in second]
    page.run('document.getElementById("copy").click()')
    page.wait('document.getElementById("copy").textContent === "Copied"')
    assert {*page.run('navigator.clipboard.readText()').split('\n')} == {first[0]['caption'], second[0]['caption']}
    page.run('document.getElementById("clear").click()')
    assert page.run('document.querySelectorAll("#cards article").length') == 0


def test_the_keyboard_reaches_everything_and_everything_has_a_name(page):
    drop(page, IMAGES[0])
    reached = []
    for _ in range(7):
        page.press('Tab', 'Tab', 9)
        reached.append(page.run('document.activeElement.id || document.activeElement.className'))
    assert reached == ['files', 'camera', 'copy', 'csv', 'json', 'clear', 'copy']
    tree = page.do('Accessibility.getFullAXTree')['nodes']
    named = {(node['role']['value'], node.get('name', {}).get('value', '')) for node in tree if 'role' in node}
    assert {('button', 'Choose images'), ('button', 'Camera'), ('button', 'Copy all'), ('status', ''),
            ('heading', 'Caption images'), ('button', f'Copy the captions of {IMAGES[0].name}')} <= named


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize(('width', 'height', 'phone'), [(1280, 900, False), (390, 844, True)])
def test_it_fits_the_window_and_its_text_can_be_read(width, height, phone, scheme, page, bad):
    page.screen(width, height, scheme, phone)
    page.open(page.run('location.href'))
    choose(page, IMAGES[0], bad)
    assert page.run('document.documentElement.scrollWidth <= document.documentElement.clientWidth')
    assert page.run(CONTRAST) >= 4.5
    if phone:
        assert page.run('[...document.querySelectorAll("button, .button")].filter(b => b.offsetHeight)'
                        '.every(b => b.offsetHeight >= 32)')


def test_a_token_is_asked_for_once(browser, served_captioner):
    with running(served_captioner, token='correct-horse-battery') as port:
        browser.screen(1000, 800)
        browser.open(f'http://127.0.0.1:{port}/')
        browser.drop(500, 300, [IMAGES[0]])
        browser.wait('!document.getElementById("token").hidden')
        browser.do('Input.insertText', text='correct-horse-battery')
        browser.press('Enter', 'Enter', 13, text='\r')
        browser.wait(f'{CARDS}.length === 1 && {BEST}.length === 1')
        browser.drop(500, 300, [IMAGES[1]])
        browser.wait(f'{CARDS}.length === 2')
        assert browser.run('document.getElementById("token").hidden')


def test_a_busy_service_is_asked_again(page, served_captioner, monkeypatch):
    with running(served_captioner, waiting=1) as port:
        page.events.clear()
        page.open(f'http://127.0.0.1:{port}/')
        page.drop(500, 300, IMAGES[:3])
        page.wait(f'{CARDS}.length === 3')
        assert len(page.run(BEST)) == 3
        page.open('about:blank')
        page.events.clear()


def test_a_refusal_of_a_proxy_is_shown(page):
    page.run('fetch = () => Promise.resolve(new Response("<html>", {status: 413}))')
    drop(page, IMAGES[0])
    assert page.run('document.querySelector(".problem").textContent').endswith('the server refused it (413)')


def test_a_service_that_has_ended_is_reported(browser, served_captioner):
    with running(served_captioner) as port:
        browser.open(f'http://127.0.0.1:{port}/')
    browser.drop(500, 300, [IMAGES[0]])
    browser.wait(f'{CARDS}.length === 1')
    assert 'cannot be reached' in browser.run('document.querySelector(".problem").textContent')

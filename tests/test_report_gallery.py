"""The gallery is one harmless page with everything in it; what a browser makes of it is tested where there is one."""
import base64
import html.parser
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from test_report import HOSTILE_NAMES, caption, captioned, failed

from chainer_caption.report import open_writer
from chainer_caption.report.gallery import thumbnail

ATTACK = '</script><script>document.title = "owned"</script><img src=x onerror="document.title = 1"><!--<script>'
SHOWN_NAMES = [name.replace('\udce9', '\N{REPLACEMENT CHARACTER}') for name in HOSTILE_NAMES]
BROWSER = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
VOID = {'meta', 'input', 'img', 'br', 'hr', 'link'}


class Elements(html.parser.HTMLParser):
    """The elements of a page as `(tag, attributes, [text])`, the text of an element being all that is inside it."""

    def __init__(self, page):
        super().__init__()
        self.all, self._open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes), []))
        if tag not in VOID:
            self._open.append(self.all[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element[2].append(data)

    def of(self, tag, **attributes):
        return [''.join(text) for name, found, text in self.all
                if name == tag and attributes.items() <= {k: v or '' for k, v in found.items()}.items()]


def gallery(results, **settings):
    stream = io.StringIO()
    with open_writer('html', stream, **settings) as writer:
        for result in results:
            writer.write(result)
    return stream.getvalue()


def rows(page):
    elements = Elements(page)
    return [json.loads(text) for text in elements.of('script', type='application/json')], \
        elements.of('script', type='text/plain')


@pytest.fixture
def image(tmp_path):
    path = str(tmp_path / 'red.png')
    Image.new('RGB', (900, 300), (200, 40, 30)).save(path)
    return path


def test_rows_come_back_from_the_page_whatever_they_hold():
    results = [captioned(name, caption('a dog'), caption(ATTACK, -5.0, finished=False), image_id=i)
               for i, name in enumerate(HOSTILE_NAMES)] + [failed(ATTACK, ATTACK)]
    found, images = rows(gallery(results))
    assert [row['filename'] for row in found] == [*SHOWN_NAMES, ATTACK]
    assert found[0] == {'filename': 'a b.jpg', 'image_id': 0, 'captions': [
        {'caption': 'a dog', 'log_prob': -3.5, 'log_prob_per_token': -3.5 / 3, 'finished': True},
        {'caption': ATTACK, 'log_prob': -5.0, 'log_prob_per_token': -5.0 / (len(ATTACK.split()) + 1),
         'finished': False}]}
    assert found[-1] == {'filename': ATTACK, 'error': ATTACK}
    assert images == [''] * len(results)


def test_nothing_in_a_row_can_begin_markup():
    page = gallery([captioned(ATTACK + '&amp;\u2028\u2029', caption(ATTACK))])
    data = page[page.index('<script type="application/json">'):]
    assert re.findall('<[^>]*>', data) == ['<script type="application/json">', '</script>',
                                           '<script type="text/plain">', '</script>', '</main>', '</html>']
    assert not re.search('[&\u2028\u2029]', data)


def test_head_shows_title_settings_and_date_escaped():
    page = gallery([], title=ATTACK, settings={'Model': ATTACK, 'Beam width': 20, 'Folder': 'latin-\udce9'},
                   date='2024-05-31', lang='vi"><script>')
    elements = Elements(page)
    assert elements.of('title') == elements.of('h1') == [ATTACK]
    assert elements.of('dt') == ['Model', 'Beam width', 'Folder', 'Date']
    assert elements.of('dd') == [ATTACK, '20', 'latin-\N{REPLACEMENT CHARACTER}', '2024-05-31']
    assert len(elements.of('script')) == 1
    assert [found['data-lang'] for tag, found, _ in elements.all if tag == 'main'] == ['vi"><script>']


def test_page_needs_and_allows_nothing_but_itself():
    page = gallery([captioned('a.jpg', caption('a dog'))])
    assert not re.search(r'(src|href|url|import)\s*[=(]\s*["\']?(https?:|//|\.)', page)
    policy, = [found['content'] for tag, found, _ in Elements(page).all if 'http-equiv' in found]
    assert re.fullmatch(r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/]{43}='; "
                        r"script-src 'sha256-[\w+/]{43}='", policy)


def test_thumbnails_are_small_copies_in_the_order_of_the_rows(tmp_path):
    results = []
    for i in range(100):
        path = str(tmp_path / f'{i}.png')
        Image.new('RGB', (i + 1, 2 * i + 2), (2 * i, 0, 0)).save(path)
        results.append(captioned(path, caption('a colour'), path=path))
    found, images = rows(gallery(results, thumbnail_size=64))
    for i, (row, data) in enumerate(zip(found, images, strict=True)):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format == 'WEBP'
        assert image.size == (row['image']['width'], row['image']['height'])
        assert max(image.size) == min(2 * i + 2, 64)
        assert row['image']['tint'] == f'#{2 * i:02x}0000'


def test_thumbnail_keeps_the_shape_and_tells_the_mean_colour(image):
    about, data = thumbnail(image, 320)
    assert about == {'width': 320, 'height': 107, 'tint': '#c8281e'}
    assert np.abs(np.array(Image.open(io.BytesIO(data)).convert('RGB'), int) - (200, 40, 30)).max() < 8


def test_thumbnails_honour_the_options_of_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6                                    # its top row is at the right
    Image.new('RGB', (90, 30), 'red').save(tmp_path / 'turned.jpg', exif=exif)
    path = str(tmp_path / 'turned.jpg')

    def size(**settings):
        image = rows(gallery([captioned(path, caption('a dog'), path=path)], **settings))[0][0].get('image')
        return image and (image['width'], image['height'])
    assert (size(), size(honour_exif=False), size(max_pixels=2699)) == ((30, 90), (90, 30), None)


def test_a_thumbnail_of_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    Image.linear_gradient('L').resize((4096, 3072)).convert('RGB').save(tmp_path / 'large.jpg')
    decoded = []
    monkeypatch.setattr(JpegImageFile, 'load', lambda image: (decoded.append(image.size), ImageFile.load(image))[1])
    about, data = thumbnail(str(tmp_path / 'large.jpg'), 320)
    assert decoded[0] == (512, 384) and (about['width'], about['height']) == (320, 240)
    grey = np.array(Image.open(io.BytesIO(data)).convert('L'), int)
    assert np.abs(grey.mean(1) - np.linspace(0, 255, 240)).max() < 5


def test_an_image_that_is_gone_or_failed_leaves_its_card_without(tmp_path, image):
    found, images = rows(gallery([captioned('gone.jpg', caption('a dog'), path=str(tmp_path / 'gone.jpg')),
                                    failed(image), captioned('stored', caption('a dog'), path=None)]))
    assert images == [''] * 3
    assert not any('image' in row for row in found)


def test_the_file_is_replaced_when_the_gallery_is_complete_and_only_then(tmp_path, image):
    path = tmp_path / 'gallery.html'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), open_writer('html', path) as writer:
        writer.write(captioned('a.jpg', caption('a dog'), path=image))
        raise ZeroDivisionError
    assert path.read_text() == 'old'
    assert sorted(os.listdir(tmp_path)) == ['gallery.html', 'red.png']
    with open_writer('html', path) as writer:
        writer.write(captioned('a.jpg', caption('a dog'), path=image))
        assert path.read_text() == 'old'
    assert path.read_text('utf-8').endswith('</main>\n</html>\n')


# ---- In a browser

@pytest.fixture(scope='module')
def browse(tmp_path_factory):
    """A function that opens a page and gives its elements as the script has left them."""
    if BROWSER is None:
        pytest.skip('needs Chromium or Chrome')
    folder = tmp_path_factory.mktemp('browser')
    page = folder / 'gallery.html'
    image = folder / 'red.png'
    Image.new('RGB', (90, 30), (200, 40, 30)).save(image)
    captions = [caption('a dog runs'), caption('hai con chó chạy', -5.0, finished=False)]
    with open_writer('html', page, title='Gallery', lang='vi') as writer:
        for i in range(150):
            writer.write(captioned(f'IMG_{i}.jpg', *captions[::-1 if i % 50 else 1], path=str(image), image_id=i))
        for name in [*HOSTILE_NAMES, ATTACK]:
            writer.write(captioned(name, caption(ATTACK, -9.0)))
        writer.write(failed('broken.jpg', ATTACK))

    def browse(fragment=''):
        command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                   '--disable-background-networking', '--disable-component-update', '--disable-sync',
                   f'--user-data-dir={folder / "preprocessing"}', '--virtual-time-budget=3000', '--dump-dom',
                   page.as_uri() + fragment]
        dom = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode('utf-8')
        return Elements(dom.replace('<main ', '</main><main ', 1))
    return browse


def test_browser_shows_a_card_for_each_image_near_the_window(browse):
    elements = browse()
    assert elements.of('title') == ['Gallery']
    assert elements.of('output') == ['162 images, 1 failed']
    assert len(elements.of('article')) == 60
    assert elements.of('p', **{'class': 'best'})[0] == 'a dog runs'
    assert elements.of('p', **{'class': 'scores'})[0] == '\N{MINUS SIGN}3.50 nats, \N{MINUS SIGN}0.88 a token'
    assert elements.of('p', **{'class': 'name'})[:2] == ['#0 IMG_0.jpg', '#1 IMG_1.jpg']
    assert 'hai con chó chạy … unfinished' in elements.of('li')[0]
    image = next(found for tag, found, _ in elements.all if tag == 'img')
    assert image['alt'] == 'a dog runs'
    assert image['src'].startswith('data:image/webp;base64,')


@pytest.mark.parametrize(('query', 'count', 'marks'), [
    ('dog', 150, {'dog'}),
    ('CHO dog', 150, {'chó', 'dog'}),                   # case does not count, nor accents that the query does without
    ('chó', 151, {'chó'}),
    ('chò', 0, set()),
    ('og', 0, set()),                                   # not the beginning of a word
    ('img_14', 11, {'IMG_14'}),
    ('<script>', 12, {'<script>'}),
    ('.*', 0, set()),
])
def test_browser_finds_words(browse, query, count, marks):
    elements = browse('#q=' + query.replace(' ', '+'))
    total = elements.of('output')[0].split(' images')[0]
    assert total == f'{count} of 162'
    assert len(elements.of('article')) == min(count, 60)
    assert set(elements.of('mark')) == marks


def test_browser_sorts(browse):
    def first(fragment):
        return browse(fragment).of('p', **{'class': 'name'})[:3]
    assert first('#sort=likely') == ['#0 IMG_0.jpg', '#50 IMG_50.jpg', '#100 IMG_100.jpg']
    assert first('#sort=name&q=img_') == ['#0 IMG_0.jpg', '#1 IMG_1.jpg', '#2 IMG_2.jpg']
    assert first('#sort=unlikely')[0] == 'a b.jpg'
    assert first('#sort=constructor&q=img_')[0] == '#0 IMG_0.jpg'


def test_browser_shows_hostile_names_and_captions_as_they_are_and_runs_nothing(browse):
    elements = browse('#q=document.title')
    assert elements.of('title') == ['Gallery']
    assert elements.of('p', **{'class': 'best'}) == [ATTACK] * (len(HOSTILE_NAMES) + 1)
    assert elements.of('p', **{'class': 'problem'}) == ['No captions: ' + ATTACK]
    assert elements.of('p', **{'class': 'name'}) == [*SHOWN_NAMES, ATTACK, 'broken.jpg']
    assert not [found for tag, found, _ in elements.all if tag == 'img' or 'onerror' in found]
    assert elements.of('script')[1:] == []              # the data were replaced by the cards

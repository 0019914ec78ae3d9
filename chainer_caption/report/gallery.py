"""Results as an HTML gallery: one page that needs nothing but itself, for a few images or ten thousand.

The page is written in the order in which it is read. Its head (`gallery.html`) holds the style (`gallery.css`) and the
scripts (`cards.js`, `gallery.js`); each result follows as two `script` elements that are data and never run: a row of
JSON as in the JSON lines, without tokens, and its thumbnail in base64. The script makes cards of the rows near the
window only.

File names and captions come from strangers. They reach the page as JSON in which no markup can begin, and the script
gives them to the document as text; should either fail, the page's Content-Security-Policy lets no other script run
and nothing be fetched.
"""
import base64
import collections
import concurrent.futures
import io
import json
import re
import string

from PIL import Image

from chainer_caption.features.images import ImageError, open_image
from chainer_caption.report.html import csp_hash, escape, fact_items, resource, well_formed
from chainer_caption.report.rows import Writer, row_of
from chainer_caption.storage import files

# Thumbnails are made in threads while the next images are captioned; so many results wait for theirs at most.
_THREADS, _WAITING = 2, 32


class GalleryWriter(Writer):
    """An HTML gallery: a card for each image, searchable and sortable, with its captions and their scores.

    The file appears, or takes the place of an older one, when the writer is closed.

    Args:
        target: See `Writer`. An open file is written directly.
        title (str): The page's title.
        settings (dict): What made the captions, in the words to be shown: `{'Model': 'demo', 'Search': 'beam 20'}`.
        date (str or datetime.date): When; shown as given (a date as `2024-05-31`). None shows none.
        lang (str): Language of the captions as a BCP 47 tag (`'vi'`), for screen readers. None: not known.
        thumbnail_size (int): Longer side of a thumbnail in pixels, at most. A thumbnail of 320 takes about 10 kB.
    """

    def __init__(self, target, title='Captions', settings=None, date=None, lang=None, thumbnail_size=320):
        super().__init__(target)
        self._thumbnail_size = thumbnail_size
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix='thumbnail')
        self._resources.callback(self._pool.shutdown, cancel_futures=True)
        self._waiting = collections.deque()
        self._put(_head(title, settings or {}, date, lang))

    def _open(self, path):
        return files.atomic_write(path, 'w')

    def write(self, result):
        """Writes one result; its thumbnail is made from `result.path`, if an image can be read there."""
        row = row_of(result)
        for caption in row.get('captions', ()):
            del caption['tokens']
        future = None
        if result.error is None and result.path is not None:
            future = self._pool.submit(thumbnail, result.path, self._thumbnail_size)
        self._waiting.append((row, future))
        while len(self._waiting) > _WAITING or (self._waiting and _is_ready(self._waiting[0])):
            self._put_first()

    def close(self):
        with self._resources:                           # if this fails the unfinished page must go, too
            while self._waiting:
                self._put_first()
            self._put('</main>\n</html>\n')

    def _put_first(self):
        row, future = self._waiting.popleft()
        shown = future and future.result()
        encoded = ''
        if shown:
            row['image'], data = shown
            encoded = base64.b64encode(data).decode('ascii')
        self._put(f'<script type="application/json">{_json_in_html(row)}</script>'
                  f'<script type="text/plain">{encoded}</script>\n')


def thumbnail(path, size):
    """A small copy of an image.

    Args:
        path (str): The image.
        size (int): Its longer side is scaled down to this many pixels; a smaller image keeps its size.

    Returns:
        tuple: `{'width', 'height', 'tint'}`, of which tint is the mean colour as `'#rrggbb'`, and the bytes of a WebP
        file. None if the image cannot be read.
    """
    try:
        with open_image(path) as decoded:
            image = decoded.to_image()
            image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            image = image.copy()                        # which the decoded image does not own
    except ImageError:                                # a gallery of stored features is made with or without images
        return None
    data = io.BytesIO()
    image.save(data, 'WEBP', quality=70)
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return {'width': image.width, 'height': image.height, 'tint': f'#{red:02x}{green:02x}{blue:02x}'}, data.getvalue()


def _is_ready(waiting):
    return waiting[1] is None or waiting[1].done()


def _head(title, settings, date, lang):
    style, script = resource('gallery.css'), resource('cards.js') + resource('gallery.js')
    facts = {**settings, 'Date': date} if date is not None else settings
    return string.Template(resource('gallery.html')).substitute(
        title=escape(title), lang=escape(lang or ''), style=style, script=script,
        style_hash=csp_hash(style), script_hash=csp_hash(script), facts=fact_items(facts))


def _json_in_html(value):
    # `<` alone could end the script element or begin a comment in it; the others cost nothing.
    text = well_formed(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return re.sub('[<>&\u2028\u2029]', lambda match: f'\\u{ord(match[0]):04x}', text)

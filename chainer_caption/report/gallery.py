"""Results as an HTML gallery: one file that needs no other, for a few images or ten thousand.

The file is written from top to bottom. Its head (`gallery.html`) holds the style (`gallery.css`) and the scripts
(`cards.js`, `gallery.js`). Each result follows as two `script` elements that are data and never run: a row of JSON, as
in the JSON lines but without tokens, and its thumbnail in base64. The script makes cards of the rows near the window.

File names and captions are untrusted. In the page they are JSON in which no markup can begin, and the script inserts
them as text. The page's Content-Security-Policy allows no other script and no request."""
import base64
import collections
import concurrent.futures
import io
import json
import re
import string
from collections.abc import Mapping
from typing import Any

from PIL import Image

from chainer_caption.features.images import MAX_PIXELS, ImageError, open_image
from chainer_caption.report.html import csp_hash, escape, fact_items, resource, well_formed
from chainer_caption.report.rows import Writer, row_of
from chainer_caption.storage import files

# Threads that make thumbnails while the next images are captioned, and results that wait for theirs, at most.
_THREADS, _WAITING = 2, 32


class GalleryWriter(Writer):
    """An HTML gallery: a card for each image, searchable and sortable, with its captions and their scores.

    The file appears, or replaces an older one, when the writer is closed. An open file is written directly.

    Args:
        target, title, date: See `Writer`; the page's title; the date to be shown, if any.
        settings: What made the captions, in the words to be shown: `{'Model': 'demo', 'Search': 'beam 20'}`.
        lang: Language of the captions as a BCP 47 tag (`'vi'`), for screen readers. None: not known.
        thumbnail_size: Longer side of a thumbnail in pixels, at most. A thumbnail of 320 takes about 10 kB.
        honour_exif, max_pixels: Turn thumbnails by their EXIF orientation; images of more pixels get no thumbnail.
    """

    def __init__(self, target: Any, title: str = 'Captions', settings: Mapping[str, object] | None = None,
                 date: object = None, lang: str | None = None, thumbnail_size: int = 320, honour_exif: bool = True,
                 max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(target)
        self._thumbnail: dict[str, Any] = {'size': thumbnail_size, 'honour_exif': honour_exif, 'max_pixels': max_pixels}
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix='thumbnail')
        self._resources.callback(self._pool.shutdown, cancel_futures=True)
        self._waiting: collections.deque[Any] = collections.deque()
        self._put(_head(title, settings or {}, date, lang))

    def _open(self, path: Any) -> Any:
        return files.atomic_write(path, 'w')

    def write(self, result: Any) -> None:
        """Writes one result, with a thumbnail of the image at `result.path` if it can be read."""
        row = row_of(result)
        for caption in row.get('captions', ()):
            del caption['tokens']
        made = result.error is None and result.path is not None
        self._waiting.append((row, self._pool.submit(thumbnail, result.path, **self._thumbnail) if made else None))
        while len(self._waiting) > _WAITING or (self._waiting and _is_ready(*self._waiting[0])):
            self._put_first()

    def close(self) -> None:
        with self._resources:                           # on failure the incomplete page is removed
            while self._waiting:
                self._put_first()
            self._put('</main>\n</html>\n')

    def _put_first(self) -> None:
        row, future = self._waiting.popleft()
        shown, encoded = future and future.result(), ''
        if shown:
            row['image'], data = shown
            encoded = base64.b64encode(data).decode('ascii')
        self._put(f'<script type="application/json">{_json_in_html(row)}</script>'
                  f'<script type="text/plain">{encoded}</script>\n')


def thumbnail(path: str, size: int, honour_exif: bool = True,
              max_pixels: int = MAX_PIXELS) -> tuple[dict[str, Any], bytes] | None:
    """A small copy of an image, whose longer side has at most `size` pixels; the other arguments as for `open_image`.

    Returns `{'width', 'height', 'tint'}`, of which tint is the mean colour as `'#rrggbb'`, and a WebP file; None if the
    image cannot be read."""
    try:
        with open_image(path, honour_exif, max_pixels, size) as decoded:
            image = decoded.to_image()
            image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
            image = image.copy()                        # the decoded image's memory is freed
    except ImageError:                                  # a gallery of stored features may lack images
        return None
    data = io.BytesIO()
    image.save(data, 'WEBP', quality=70)
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).tobytes()
    return {'width': image.width, 'height': image.height, 'tint': f'#{red:02x}{green:02x}{blue:02x}'}, data.getvalue()


def _is_ready(row: Any, future: Any) -> bool:
    return future is None or future.done()


def _head(title: str, settings: Mapping[str, object], date: object, lang: str | None) -> str:
    style, script = resource('gallery.css'), resource('cards.js') + resource('gallery.js')
    facts = {**settings, 'Date': date} if date is not None else settings
    return string.Template(resource('gallery.html')).substitute(
        title=escape(title), lang=escape(lang or ''), style=style, script=script,
        style_hash=csp_hash(style), script_hash=csp_hash(script), facts=fact_items(facts))


def _json_in_html(value: object) -> str:
    # `<` could end the script element or begin a comment in it; escaping the others as well costs nothing.
    text = well_formed(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return re.sub('[<>&\u2028\u2029]', lambda match: f'\\u{ord(match[0]):04x}', text)

"""A result in a notebook: HTML with the image, its captions and their log-probabilities."""
import base64
import math
from typing import Any

from chainer_caption.report.gallery import thumbnail
from chainer_caption.report.html import escape

# Styles are in the elements, because the page is the notebook's; so are its colours, light or dark.
_FIGURE = ('<figure style="margin:0;display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{image}'
           '<figcaption><code>{filename}</code>{text}</figcaption></figure>')
_IMAGE = '<img alt="{alt}" width="{width}" height="{height}" src="data:image/webp;base64,{data}"/>'
_CAPTION = ('<li>{text} <small style="opacity:.7">{log_prob:.2f} nats</small><div style="height:3px;'
            'width:{share:.1f}%;background:currentColor;opacity:.5"></div></li>')


def result_html(result: Any, size: int = 320) -> str:
    """A result as one HTML element, which runs no script and fetches nothing; its image has at most `size` pixels on
    the longer side. The bars compare captions to the best one, as in the gallery."""
    filename = escape(result.filename)
    if result.error is not None:
        return _FIGURE.format(image='', filename=filename, text=f'<p>No captions: {escape(result.error)}</p>')
    best, image = result.captions[0] if result.captions else None, ''
    items = ''.join(_CAPTION.format(text=escape(caption.text), log_prob=caption.log_prob,
                                    share=100 * math.exp(min(0.0, caption.log_prob - result.captions[0].log_prob)))
                    for caption in result.captions)
    known = ', '.join(f'{name} {value:.0%}' for name in ('confidence', 'familiarity')
                      if (value := getattr(result, name)) is not None)
    text = f'<ol>{items}</ol>' if best else f'<p>Skipped: {escape(result.skipped)}</p>'
    text += f'<small style="opacity:.7">{known}</small>' if known else ''
    shown = thumbnail(result.path, size) if result.path is not None else None
    if shown is not None:
        image = _IMAGE.format(alt=escape(best.text) if best else '', data=base64.b64encode(shown[1]).decode('ascii'),
                              **shown[0])
    return _FIGURE.format(image=image, filename=filename, text=text)

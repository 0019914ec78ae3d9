"""The web page: shows captions of images that are dropped, pasted, chosen or taken with a camera."""
import string

from chainer_caption.report.html import caption_page, csp_hash, escape, resource
from chainer_caption.service.limits import Limits


def make_page(facts: dict[str, str], limits: Limits) -> tuple[str, dict[str, str]]:
    """The page as HTML, which shows `facts` about the model, and its headers: it may fetch captions alone."""
    style = resource('gallery.css') + resource('page.css')
    script = resource('cards.js') + resource('page.js') + resource('page.js', __package__)
    form = string.Template(resource('page.html', __package__)).substitute(most=escape(limits.body_bytes))
    private = 'Images are sent to the machine that serves this page and nowhere else. They are not stored.'
    page = caption_page(f'<style>{style}</style>\n<script>{script}</script>', facts, private, form)
    policy = ("default-src 'none'; connect-src 'self'; img-src blob:; media-src blob:; "
              f"style-src '{csp_hash(style)}'; script-src '{csp_hash(script)}'; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return page, {'content-security-policy': policy, 'permissions-policy': 'camera=(self), microphone=()'}

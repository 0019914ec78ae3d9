"""The web page: shows captions of images that are dropped, pasted, chosen or taken with a camera."""
import string

from chainer_caption.report.html import csp_hash, escape, fact_items, resource
from chainer_caption.service.limits import Limits


def make_page(facts: dict[str, str], limits: Limits) -> tuple[str, dict[str, str]]:
    """The page as HTML, which shows `facts` about the model, and its headers: it may fetch captions alone."""
    style = resource('gallery.css') + resource('page.css', __package__)
    script = resource('cards.js') + resource('page.js', __package__)
    page = string.Template(resource('page.html', __package__)).substitute(
        style=style, script=script, facts=fact_items(facts), most=escape(limits.body_bytes))
    policy = ("default-src 'none'; connect-src 'self'; img-src blob:; media-src blob:; "
              f"style-src '{csp_hash(style)}'; script-src '{csp_hash(script)}'; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return page, {'content-security-policy': policy, 'permissions-policy': 'camera=(self), microphone=()'}

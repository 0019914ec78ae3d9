"""The page: images are dropped on it, pasted, chosen or taken, and their captions shown as in the gallery."""
import string

from chainer_caption.report.html import csp_hash, escape, fact_items, resource


def make_page(facts, limits):
    """The page, and its headers, of which the Content-Security-Policy lets it fetch nothing but captions.

    Args:
        facts (dict): What captions, in the words to be shown: `{'Model': 'demo'}`.
        limits (Limits): What a request may have at most.

    Returns:
        tuple: HTML, str, and a dict of headers.
    """
    style = resource('gallery.css') + resource('page.css', __package__)
    script = resource('cards.js') + resource('page.js', __package__)
    page = string.Template(resource('page.html', __package__)).substitute(
        style=style, script=script, facts=fact_items(facts), most=escape(limits.body_bytes))
    policy = ("default-src 'none'; connect-src 'self'; img-src blob:; media-src blob:; "
              f"style-src '{csp_hash(style)}'; script-src '{csp_hash(script)}'; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return page, {'content-security-policy': policy, 'permissions-policy': 'camera=(self), microphone=()'}

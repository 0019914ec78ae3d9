"""Shared parts of the HTML pages: their resources, and the escaping of untrusted text."""
import base64
import hashlib
import html
import importlib.resources
import string
from collections.abc import Mapping


def resource(name: str, package: str = __package__) -> str:
    """The text of a file in a package, by default this one."""
    return importlib.resources.files(package).joinpath(name).read_text('utf-8')


def csp_hash(source: str) -> str:
    """The name of a style or a script in a Content-Security-Policy that allows it."""
    return 'sha256-' + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')


def escape(value: object) -> str:
    """A value as text for a page, also within a quoted attribute."""
    return html.escape(well_formed(str(value)))


def fact_items(facts: Mapping[str, object]) -> str:
    """The items of a `dl` element with facts: `{'Model': 'demo', 'Search': 'beam 20'}`."""
    return ''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in facts.items())


def caption_page(head: str, facts: Mapping[str, object], private: str, form: str = '') -> str:
    """The page on which images are captioned, which needs `gallery.css`, `page.css`, `cards.js` and `page.js`.

    Args:
        head: HTML for its head: style and scripts.
        facts: About the model.
        private: Where its images go, a sentence.
        form: More HTML, above the captions.
    """
    return string.Template(resource('page.html')).substitute(
        head=head, facts=fact_items(facts), private=escape(private), form=form)


def well_formed(text: str) -> str:
    """`text` with replacement characters in place of lone surrogates, which names that are not UTF-8 have."""
    # Some browsers crash on a lone surrogate.
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')

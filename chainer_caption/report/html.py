"""What our HTML pages share: their resources, and text of strangers made harmless."""
import base64
import hashlib
import html
import importlib.resources


def resource(name, package=__package__):
    """The text of a file of a package, by default of this one."""
    return importlib.resources.files(package).joinpath(name).read_text('utf-8')


def csp_hash(source):
    """How a Content-Security-Policy names a style or a script that it allows."""
    return 'sha256-' + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')


def escape(value):
    """A value as text of a page, also within a quoted attribute."""
    return html.escape(well_formed(str(value)))


def fact_items(facts):
    """The items of a `dl` that names facts: `{'Model': 'demo', 'Search': 'beam 20'}`."""
    return ''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in facts.items())


def well_formed(text):
    """`text` with replacement characters in place of lone surrogates."""
    # Names that are not UTF-8 are shown with replacement characters: nothing reads them back from a page, and a
    # browser may not survive a lone surrogate in what it displays.
    return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')

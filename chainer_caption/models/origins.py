"""Where features come from: the names of a network and of a profile, or None where nobody knows."""
from chainer_caption.features.networks import is_fine_tuned


def may_be(origin, wanted):
    """Whether features of one origin, perhaps unknown (None), may be those of the other. A network that was fine-tuned
    is nobody's guess: its features always say so."""
    if origin is None or wanted is None:
        return not any(known and is_fine_tuned(known['network']) for known in (origin, wanted))
    return origin == wanted


def origin_text(origin):
    """An origin, or None, for a line on it."""
    return '{network}/{profile}'.format(**origin) if origin else 'unknown origin'

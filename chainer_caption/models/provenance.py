"""Where features come from: the names of an encoder and of a preprocessing, or None where nobody knows."""
from chainer_caption.features.encoders import is_fine_tuned


def compatible(provenance, wanted):
    """Whether features of one provenance, perhaps unknown (None), may be those of the other. An encoder that was
    fine-tuned is nobody's guess: its features always say so."""
    if provenance is None or wanted is None:
        return not any(known and is_fine_tuned(known['encoder']) for known in (provenance, wanted))
    return provenance == wanted


def provenance_text(provenance):
    """An provenance, or None, for a line on it."""
    return '{encoder}/{preprocessing}'.format(**provenance) if provenance else 'unknown provenance'

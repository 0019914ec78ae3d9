"""Feature provenance: the names of an encoder and of a preprocessing, or None where they are unknown."""
from chainer_caption.features.encoders import is_fine_tuned
from chainer_caption.features.onnx_names import same_encoder


def compatible(provenance: dict[str, str] | None, wanted: dict[str, str] | None) -> bool:
    """Whether features of one provenance may be those of the other. Unknown features (None) may be those of any encoder
    that was not fine-tuned: the features of a fine-tuned encoder always record it."""
    if provenance is None or wanted is None:
        return not any(known and is_fine_tuned(known['encoder']) for known in (provenance, wanted))
    return same_encoder(provenance['encoder'], wanted['encoder']) and \
        provenance['preprocessing'] == wanted['preprocessing']


def provenance_text(provenance: dict[str, str] | None) -> str:
    """A provenance, for messages."""
    return '{encoder}/{preprocessing}'.format(**provenance) if provenance else 'unknown provenance'

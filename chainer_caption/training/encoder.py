"""The image encoder that a fine-tuning begins with."""
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import fine_tuned_name, get_encoder
from chainer_caption.features.extractor import load_encoder
from chainer_caption.features.weights import find_weights
from chainer_caption.models import bundle, fine_tuned_encoder
from chainer_caption.storage.files import sample_digest
from chainer_caption.training.settings import check_these, read_settings


def begin_encoder(settings, given, provenance, encoder_weights, resumed):
    """The encoder whose upper stages are to learn.

    Args:
        settings (Settings): Those of the training.
        given (Bundle or None): The model to start from, where that is a model directory.
        provenance (dict or None): The `encoder` and `preprocessing` of the dataset's features, recorded or declared.
        encoder_weights (str or os.PathLike or None): The file of its weights.
        resumed (pathlib.Path or None): The model directory of a training that goes on.

    Returns:
        tuple: The encoder, on the CPU; the provenance of features that it will make; and what tells the weights that
        the training began with, a str.

    Raises:
        InputError: Nobody says which encoder it is, or the weights are missing or those of another.
    """
    if resumed:
        before = read_settings(resumed)
        check_these(resumed, before, vars(settings), ['finetune'])
        own, provenance = fine_tuned_encoder.recover(resumed / bundle.WEIGHTS), bundle.read_provenance(resumed)
        if own is None or provenance is None:
            raise InputError(f'{resumed / fine_tuned_encoder.ENCODER}: missing; put it back, or begin anew with '
                             f'--overwrite')
        known = get_encoder(provenance['encoder'])
        encoder, *_ = load_encoder(known.name, own)
        began = sample_digest(find_weights(known, encoder_weights)) if encoder_weights else before['encoder_weights']
        return encoder, provenance, began
    known = given.provenance if given is not None and given.provenance else provenance
    if known is None:
        raise InputError('--finetune: nobody says which encoder made the features that the model learned from; name it '
                         'with --encoder and --preprocessing')
    path = encoder_weights or (given and given.encoder_path)
    encoder, digest, _ = load_encoder(known['encoder'], path)
    return encoder, {'encoder': fine_tuned_name(known['encoder']), 'preprocessing': known['preprocessing']}, digest

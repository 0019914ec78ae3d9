"""The image network that a fine-tuning begins with."""
from chainer_caption.errors import InputError
from chainer_caption.features.extractor import load_network
from chainer_caption.features.networks import described, fine_tuned
from chainer_caption.features.weights import find_weights
from chainer_caption.models import bundle, own_network
from chainer_caption.storage.files import sample_digest
from chainer_caption.training.settings import check_these, read_settings


def begin_network(settings, given, origin, image_weights, resumed):
    """The network whose upper stages are to learn.

    Args:
        settings (Settings): Those of the training.
        given (Bundle or None): The model to start from, where that is a model directory.
        origin (dict or None): The `network` and `profile` of the release's features, recorded or declared.
        image_weights (str or os.PathLike or None): The file of its weights.
        resumed (pathlib.Path or None): The model directory of a training that goes on.

    Returns:
        tuple: The network, on the CPU; the origin of features that it will make; and what tells the weights that the
        training began with, a str.

    Raises:
        InputError: Nobody says which network it is, or the weights are missing or those of another.
    """
    if resumed:
        before = read_settings(resumed)
        check_these(resumed, before, vars(settings), ['finetune'])
        own, origin = own_network.settle(resumed / bundle.WEIGHTS), bundle.read_origin(resumed)
        if own is None or origin is None:
            raise InputError(f'{resumed / own_network.NETWORK}: missing; put it back, or begin anew with --overwrite')
        known = described(origin['network'])
        network, *_ = load_network(known.name, own)
        began = sample_digest(find_weights(known, image_weights)) if image_weights else before['image_weights']
        return network, origin, began
    known = given.origin if given is not None and given.origin else origin
    if known is None:
        raise InputError('--finetune: nobody says which network made the features that the model learned from; name it '
                         'with --network and --profile')
    path = image_weights or (given and given.network_path)
    network, digest, _ = load_network(known['network'], path)
    return network, {'network': fine_tuned(known['network']), 'profile': known['profile']}, digest

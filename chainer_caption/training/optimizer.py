"""How a training learns: Adam, the mean over processes, the mean of its weights."""
from chainer_caption.functions import Adam
from chainer_caption.training.settings import Settings


def make_optimizer(model, device, processes, settings=None, encoder=None):
    """Adam on a model, as the settings want it; of several processes it takes the mean gradients.

    Args:
        model (chainer.Link): What is trained.
        device (chainer.backend.Device): Where.
        processes (Processes): Those that train together.
        settings (Settings): None for the defaults.
        encoder (chainer.Link or None): The part of what is trained that has the image encoder's learning rate.

    Returns:
        Adam: Set up.
    """
    settings = (settings or Settings()).resolved()
    optimizer = Adam(settings.learning_rate, average=settings.average)
    optimizer.setup(model)
    for param in encoder.params() if encoder is not None else ():
        # A factor of Adam's own rate.
        param.update_rule.hyperparam.eta = settings.encoder_learning_rate / settings.learning_rate
    if processes.size > 1:
        optimizer.add_hook(processes.mean_gradients(device))
    return optimizer

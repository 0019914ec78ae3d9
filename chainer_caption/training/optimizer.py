"""Adam, with the mean of the weights, and of the gradients of several processes."""
from __future__ import annotations

from typing import Any

from chainer_caption.functions import Adam
from chainer_caption.parallel import Processes
from chainer_caption.training.settings import Settings


def make_optimizer(model: Any, device: Any, processes: Processes, settings: Settings | None = None,
                   encoder: Any = None) -> Adam:
    """Adam, set up on a model; with several processes it takes the mean of their gradients.

    Args:
        model: Chainer link that is trained.
        device: Its Chainer device.
        processes: Processes that train together.
        settings: None for the defaults.
        encoder: The part of the model that has the image encoder's learning rate.
    """
    settings = (settings or Settings()).resolved()
    optimizer = Adam(settings.learning_rate, average=settings.average)
    optimizer.setup(model)
    if encoder is not None and settings.encoder_learning_rate and settings.learning_rate:
        for param in encoder.params():
            # A factor of Adam's own rate.
            param.update_rule.hyperparam.eta = settings.encoder_learning_rate / settings.learning_rate
    if processes.size > 1:
        optimizer.add_hook(processes.mean_gradients(device))
    return optimizer

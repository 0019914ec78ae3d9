"""How a training learns: Adam, the rate over its updates, the longest gradient, the mean of its weights."""
import math

import numpy as np

from chainer_caption.functions import Adam
from chainer_caption.functions.products import one_blas_thread
from chainer_caption.training.settings import Settings


def make_optimizer(model, device, processes, settings=None, updates=None, network=None):
    """Adam on a model, as the settings want it; of several processes it takes the mean gradients.

    Args:
        model (chainer.Link): What is trained.
        device (chainer.backend.Device): Where.
        processes (Processes): Those that train together.
        settings (Settings): None for the defaults.
        updates (int): Of the whole training; the cosine schedule wants to know.
        network (chainer.Link or None): The part of what is trained that has the image network's learning rate.

    Returns:
        Adam: Set up.
    """
    settings = (settings or Settings()).resolved()
    optimizer = Adam(settings.learning_rate, average=settings.average)
    optimizer.setup(model)
    for param in network.params() if network is not None else ():
        # A factor of Adam's, so that a schedule is one for both.
        param.update_rule.hyperparam.eta = settings.network_learning_rate / settings.learning_rate
    if processes.size > 1:
        optimizer.add_hook(processes.mean_gradients(device))
    if settings.clip is not None:
        optimizer.add_hook(ClipGradients(settings.clip))    # the mean over processes, hence the later of the two
    if settings.schedule == 'cosine':
        optimizer.add_hook(Cosine(settings.learning_rate, updates))
    return optimizer


class ClipGradients:
    """An optimizer hook: where the norm of all gradients together is above a threshold, they are scaled down to it.

    Chainer's GradientClipping has the host wait for a GPU to tell it the norm; here nobody asks.

    Args:
        threshold (float): The greatest norm.
    """
    name = 'ClipGradients'
    timing = 'pre'
    call_for_each_param = False

    def __init__(self, threshold):
        self._threshold = threshold

    def __call__(self, optimizer):
        xp = optimizer.target.xp
        gradients = [param.grad for param in optimizer.target.params() if param.grad is not None]
        with one_blas_thread():
            squares = [xp.dot(gradient.reshape(-1), gradient.reshape(-1)) for gradient in gradients]
        norm = xp.sqrt(sum(squares))
        factor = self._threshold / xp.maximum(norm, xp.float32(self._threshold))
        if xp is np and factor == 1:
            return                                      # on a GPU, looking would be waiting
        for gradient in gradients:
            xp.multiply(gradient, factor, out=gradient)


class Cosine:
    """An optimizer hook: the learning rate falls along half a cosine, from its start to 0 after the last update.

    It follows from the number of the update, so that nothing of it has to be saved.

    Args:
        rate (float): At the first update.
        updates (int): Of the whole training.
    """
    name = 'Cosine'
    timing = 'pre'
    call_for_each_param = False

    def __init__(self, rate, updates):
        self._rate = rate
        self._updates = updates

    def __call__(self, optimizer):
        optimizer.alpha = self._rate * (1 + math.cos(math.pi * optimizer.t / self._updates)) / 2

"""An encoder on a GPU, over as many images at a time as there is memory for.

Without cuDNN, which CuPy no longer has, Chainer unfolds the images for each convolution into a matrix of all that its
filters see, and turns that around: a quarter of a gigabyte for each image that VGG's second layer takes.
"""
from chainer_caption.functions.memory import enough_memory, free_bytes, peak_bytes

# Of the memory that is free, what the images may take: blocks of many sizes do not fit without gaps.
_SHARE = 0.8


class InSlices:
    """Computes a batch in slices that fit; a slice that does not fit after all is cut in half.

    Args:
        compute (callable): Takes images on the GPU, (n, 3, S, S) float32, and returns their features, (n, D).
        device (chainer.backend.Device): The GPU, which must be the current device in calls.
    """

    def __init__(self, compute, device):
        self._compute = compute
        self._device = device
        self._at_a_time = None                          # images; not known before one has been tried

    def __call__(self, batch):
        """Computes the features of images.

        Args:
            batch (numpy.ndarray): (N, 3, S, S), float32, on the host.

        Returns:
            cupy.ndarray: (N, D), float32.

        Raises:
            InputError: There is no room for a single image.
        """
        if self._at_a_time is None:
            self._at_a_time = self._fitting(batch[:1])
        made, start = [], 0
        while start < len(batch):
            images = batch[start:start + self._at_a_time]
            features = self._try(images)
            if features is None:
                self._at_a_time = len(images) // 2
            else:
                made.append(features)
                start += len(images)
        return self._device.xp.concatenate(made)

    def _fitting(self, image):
        one = peak_bytes(self._device, lambda: self._alone(image))
        return max(1, int(_SHARE * free_bytes(self._device)) // max(1, one))

    def _alone(self, image):
        with enough_memory(self._device):
            return self._compute(self._device.send(image))

    def _try(self, images):
        if len(images) == 1:
            return self._alone(images)
        try:
            return self._compute(self._device.send(images))
        except MemoryError:
            return None                                 # and with the exception goes all that it holds

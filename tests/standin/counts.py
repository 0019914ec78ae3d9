"""Prints what an update, a self-critical update and a step of the beam search launch, upload and wait for::

    python tests/standin/counts.py
"""
import pathlib

import cupy  # the stand-in beside this file
import numpy as np

from chainer_caption import Captioner, Dataset, Vocabulary
from chainer_caption.data.batches import CaptionDataset, CaptionIterator
from chainer_caption.data.vocabulary import EOS
from chainer_caption.functions import mask_key
from chainer_caption.models import ShowAndTell
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.training import make_converter, make_optimizer

DEMO = pathlib.Path(__file__).resolve().parents[2] / 'features' / 'demo'
STEPS = 10
LENGTH = 30


def show(title, launches, uploads, waits):
    print(f'{title}: {sum(launches.values()):g} launches, {uploads:g} uploads, {waits:g} waits')
    print('   ', ', '.join(f'{name} {count:g}' for name, count in sorted(launches.items(), key=lambda pair: -pair[1])
                            if count))


def show_update(model, vocabulary, dataset):
    data, alone = CaptionDataset.from_dataset(dataset, vocabulary, 'train'), Processes()
    optimizer, converter = make_optimizer(model, model.device, alone), make_converter(dataset.features, model.device,
                                                                                      alone)
    iterator = CaptionIterator(data, 128, seed=0)
    for update in range(3):                                 # the last one counts: the first makes Adam's arrays
        with cupy.standin.counted() as counts:
            batch = converter(iterator.next(), model.device)
            optimizer.update(model, *batch, update_key=(0, update))
    show(f'an update, captions of up to {len(batch[3])} words', counts.launches, len(counts.uploads),
         len(counts.synchronizations))


def show_self_critical_update(model, dataset):
    # Captions of the maximum length, without the reward, which the host computes.
    features = model.device.send(np.asarray(dataset.features[:25], np.float32))
    end = float(model.out_word.b.array[EOS])
    model.out_word.b.array[EOS] = -100
    with cupy.standin.counted() as counts:
        sampled = model.sample(features, mask_key(0, 0, 0), LENGTH)
        model.cleargrads()
        model.sampled_loss(features, sampled, np.ones(len(features), np.float32)).backward()
    model.out_word.b.array[EOS] = end
    show(f'a self-critical update, captions of {LENGTH} words', counts.launches, len(counts.uploads),
         len(counts.synchronizations))


def show_step(model, vocabulary, dataset):
    model.to_device('@numpy')
    model.out_word.b.array[EOS] = -100                      # no caption ends before it must
    captioner, found = Captioner(Bundle(model, vocabulary), '@cupy:0'), []
    for steps in (STEPS, 2 * STEPS):
        with cupy.standin.counted() as counts:
            list(captioner.caption_features(np.asarray(dataset.features[:8], np.float32), max_length=steps))
        found.append(counts)
    fewer, more = found
    show('a step of the beam search, width 20',
         {name: (count - fewer.launches[name]) / STEPS for name, count in more.launches.items()},
         (len(more.uploads) - len(fewer.uploads)) / STEPS,
         (len(more.synchronizations) - len(fewer.synchronizations)) / STEPS)


if __name__ == '__main__':
    demo = Dataset(DEMO)
    words = Vocabulary.from_counts(*demo.word_counts('train'), min_count=5)
    captioner_model = ShowAndTell(demo.feature_size, len(words), 32, seed=0)
    captioner_model.to_device('@cupy:0')
    show_update(captioner_model, words, demo)
    show_self_critical_update(captioner_model, demo)
    show_step(captioner_model, words, demo)

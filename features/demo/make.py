"""Makes the embedded dataset: draws it, teaches the encoder behind it, computes its features, writes it all.

    python features/demo/make.py                 everything anew, the encoder included (long)
    python features/demo/make.py --keep-encoder  with the encoder that the package has

The images and captions are a function of the seed; the encoder is too, but for roundings of the library that
multiplies matrices. Images of the splits are not kept, `dataset` draws them again; those in `unseen` are. (The
encoder in the package has had a longer course than `taught` gives: its convolutions had learned twice as many shapes
before. Of 500 new images it gets 99.8 % wholly right.)
"""
import argparse  # noqa: I001 (compat before Chainer)
import io
import itertools
import pathlib
import random
import tempfile

import draw
import numpy as np
import scipy.io
from tqdm import tqdm

import chainer_caption.compat  # noqa: F401
import chainer
import chainer.functions as F
import chainer.links as L
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.features.encoders import demo
from chainer_caption.storage.files import atomic_write, write_json, write_npz

HERE = pathlib.Path(__file__).resolve().parent
WEIGHTS = pathlib.Path(demo.__file__).with_suffix('.npz')
SPLITS = {'train': 1500, 'val': 150, 'test': 150}
UNSEEN = 48


# The dataset

def dataset(seed=0):
    """The scenes of the splits and what is said of them.

    Returns:
        list of (dict, dict): A scene, and the image's entry in `dataset.json`, for each `imgid` from 0.
    """
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    return [_described(f'{seed} {imgid}', imgid, split) for imgid, split in enumerate(splits)]


def _described(seed, imgid, split):
    rng = random.Random(seed)
    scene = draw.random_scene(rng)
    captions = draw.captions(scene, rng)
    sentids = [len(captions) * imgid + i for i in range(len(captions))]
    sentences = [{'tokens': tokens, 'raw': ' '.join(tokens).capitalize() + '.', 'imgid': imgid, 'sentid': sentid}
                 for tokens, sentid in zip(captions, sentids, strict=True)]
    return scene, {'filename': f'{imgid:04}.png', 'imgid': imgid, 'split': split, 'sentids': sentids,
                   'sentences': sentences}


def unseen(seed=0):
    """Scenes that are in no split, of every kind alike: file name -> scene."""
    kinds = itertools.cycle(draw.KINDS)
    return {f'{i:02}.png': draw.random_scene(random.Random(f'unseen {seed} {i}'), next(kinds))
            for i in range(1, UNSEEN + 1)}


def features(scenes, extractor, batch_size=100):
    """The features of scenes, computed from image files as a user's are: float32, shape (N, 4096)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'image.png')

        def prepared(scene):
            draw.draw(scene).save(path)
            return extractor.prepare(path)
        for start in tqdm(range(0, len(scenes), batch_size), 'features'):
            rows.append(extractor(np.stack([prepared(scene) for scene in scenes[start:start + batch_size]])))
    return np.concatenate(rows)


def write_dataset(folder, seed):
    """Writes `dataset.json`, `vgg_feats.mat` with its record, and the unseen images into `folder`."""
    extractor = Extractor.load('demo')
    scenes, images = zip(*dataset(seed), strict=True)
    write_json(folder / 'dataset.json', {'images': images, 'dataset': 'demo'}, indent=None)
    matrix = io.BytesIO()
    scipy.io.savemat(matrix, {'feats': features(scenes, extractor).T}, do_compression=True)
    with atomic_write(folder / 'vgg_feats.mat') as f:   # the first 116 bytes are free text; SciPy puts the time there
        f.write(b'MATLAB 5.0 MAT-file, features of the embedded dataset'.ljust(116) + matrix.getvalue()[116:])
    write_json(folder / 'vgg_feats.mat.json', {'encoder': extractor.encoder, 'preprocessing': extractor.preprocessing})
    (folder / 'unseen').mkdir(exist_ok=True)
    for name, scene in unseen(seed).items():
        draw.draw(scene).save(folder / 'unseen' / name, optimize=True)
    write_json(folder / 'unseen' / 'scenes.json', unseen(seed), indent=None)


# The encoder

# What it is asked of the whole image; None is the answer where a scene does not raise the question. Objects are first
# and second in the order in which captions name them.
_WHAT = {'shape': draw.SHAPES, 'colour': draw.COLOURS, 'size': ('small', 'big')}
QUESTIONS = {
    'count': (1, 2, 3, 4), 'ground': ('dark', 'light'), 'layout': ('row', 'column', 'group'),
    'row': ('top', 'middle', 'bottom'), 'column': ('left', 'middle', 'right'), 'relation': tuple(draw.RELATIONS),
    **{f'{which} {what}': choices for which in ('first', 'second') for what, choices in _WHAT.items()}}


def answers(scene):
    """For each of `QUESTIONS` the number of its answer, 0 for None."""
    first, *others = draw.big_first(scene['objects'])
    known = {'count': 1 + len(others), 'ground': draw.ground(scene)}
    known |= {f'first {what}': answer for what, answer in _seen_of(first).items()}
    if not others:
        for question, at in (('row', first['y']), ('column', first['x'])):
            known[question] = QUESTIONS[question][(at > 0.36) + (at > 0.64)]
    elif draw.are_alike(scene['objects']):
        known['layout'] = draw.layout(scene['objects'])
    else:
        known['relation'] = draw.relation(first, others[0])
        known |= {f'second {what}': answer for what, answer in _seen_of(others[0]).items()}
    return [1 + choices.index(known[question]) if question in known else 0 for question, choices in QUESTIONS.items()]


def answers_here(scene):
    """What it is asked of each of 6 x 6 places, as it learns: the shape, colour and size of the object whose centre is
    there, -1 where there is none; shape (3, 6, 6)."""
    found = np.full((len(_WHAT), 6, 6), -1)
    for thing in scene['objects']:
        found[:, int(6 * thing['y']), int(6 * thing['x'])] = [
            _WHAT[what].index(answer) for what, answer in _seen_of(thing).items()]
    return found


def _seen_of(thing):
    return {'shape': thing['shape'], 'colour': thing['colour'], 'size': draw.size(thing)}


def lesson(rng):
    """A scene to learn from: all kinds alike."""
    return draw.random_scene(rng, rng.choice(list(draw.KINDS)))


def crowd(rng):
    """A scene of many objects, to learn shapes and colours from faster: nine small ones, or four big ones of which
    some have a small one inside."""
    per_side = rng.choice((2, 3))
    objects = []
    for x, y in itertools.product([(i + 0.5) / per_side for i in range(per_side)], repeat=2):
        outer, inner = draw.random_scene(rng, 'inside')['objects']
        where = {'x': x + rng.uniform(-0.05, 0.05), 'y': y + rng.uniform(-0.05, 0.05)}
        if per_side == 2 and rng.random() < 0.5:
            objects += [{**outer, **where, 'r': 0.21}, {**inner, **where}]
        else:
            objects.append({**inner, **where, 'r': inner['r'] if per_side == 3 else rng.uniform(0.155, 0.18)})
    return {**lesson(rng), 'objects': objects}


class Teacher(chainer.Chain):
    """A `DemoNet` and the layer that questions each place. Called, it returns the loss of a batch."""

    def __init__(self, encoder):
        super().__init__()
        with self.init_scope():
            self.encoder = encoder
            self.here = L.Convolution2D(32, len(_WHAT) * encoder.choices, 1)

    def forward(self, x, truths, truths_here):
        seen = self.encoder.look(np.float32(x))
        here = F.reshape(self.here(seen), (len(x), self.encoder.choices, len(_WHAT), 6, 6))
        loss = len(_WHAT) * F.softmax_cross_entropy(here, truths_here)
        if (truths >= 0).any():
            loss += len(QUESTIONS) * F.softmax_cross_entropy(self.encoder.answer(seen), truths)
        return loss


def taught(seed, images=9600, crowds=9600, epochs=6, more_images=30000, more_epochs=8):
    """A `DemoNet` that has been taught with images of its own.

    First all of it learns, from images and crowds; then the layers that answer learn on alone, which is quick, from
    many more images as the convolutions see them.
    """
    rng = random.Random(f'encoder {seed}')
    np.random.seed(seed)                                # noqa: NPY002 (Chainer draws from NumPy's global generator)
    encoder = demo.DemoNet()
    scenes = [lesson(rng) for _ in range(images)] + [crowd(rng) for _ in range(crowds)]
    truths = np.full((len(scenes), len(QUESTIONS)), -1, np.int32)
    truths[:images] = [answers(scene) for scene in scenes[:images]]
    truths_here = np.array([answers_here(scene) for scene in scenes], np.int32)
    _fit(Teacher(encoder), [_prepared(scenes), truths, truths_here], epochs, 2e-3)

    scenes = [lesson(rng) for _ in range(more_images)]
    _fit(encoder, [_seen(encoder, scenes), np.array([answers(scene) for scene in scenes], np.int32)], more_epochs, 1e-3,
         lambda seen, truths: F.softmax_cross_entropy(encoder.answer(np.float32(seen)), truths))
    encoder.fc8.W.array[:] = spreading(rng)

    tests = [draw.random_scene(rng) for _ in range(1000)]
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        said = encoder.answer(np.float32(_seen(encoder, tests))).array.argmax(axis=1)
    right = (said == [answers(scene) for scene in tests]).all(axis=1)
    print(f'of {len(tests)} new images the encoder gets {right.mean():.1%} wholly right')
    return encoder


def _fit(link, data, epochs, alpha, loss=None, batch_size=64):
    optimizer = chainer.optimizers.Adam().setup(link)
    count = len(data[0])
    progress = tqdm(range(epochs * (count // batch_size)), 'teaching')
    for step in progress:
        start = step % (count // batch_size) * batch_size
        if start == 0:
            order = np.random.permutation(count)        # noqa: NPY002
        part = order[start:start + batch_size]
        optimizer.alpha = alpha * (1 - step / progress.total)
        optimizer.update(loss or link, *(values[part] for values in data))


def _prepared(scenes):
    prepare = PREPROCESSINGS['demo'].prepare
    bar = tqdm(scenes, 'drawing', leave=False)
    return np.stack([np.float16(prepare(np.asarray(draw.draw(scene)))) for scene in bar])


def _seen(encoder, scenes, batch_size=200):
    """What the encoder's convolutions see in scenes, shape (N, 32, 6, 6), float16."""
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return np.concatenate([
            np.float16(encoder.look(np.float32(_prepared(scenes[start:start + batch_size]))).array)
            for start in tqdm(range(0, len(scenes), batch_size), 'looking')])


def spreading(rng):
    """The last layer: to each of 4096 units a tenth of all answers, with whole numbers for weights."""
    encoder = demo.DemoNet
    weights = np.zeros((4096, encoder.choices, encoder.questions), np.float32)
    for unit in weights:
        for question, choices in enumerate(QUESTIONS.values()):
            for choice in range(1, 1 + len(choices)):
                if rng.random() < 0.1:
                    unit[choice, question] = round(rng.gauss(0, 1.5) * demo.STEPS)
    return weights.reshape(len(weights), -1)


def save_encoder(encoder, path):
    """Writes an encoder as Chainer's `save_npz` lays it out, in half precision, which is plenty, and whole numbers."""
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(encoder)
    arrays = {name: np.asarray(value) for name, value in sorted(serializer.target.items())}
    dtypes = {name: np.float16 if array.dtype.kind == 'f' else array.dtype for name, array in arrays.items()}
    dtypes['fc8/W'] = np.int8
    write_npz(path, {name: array.astype(dtypes[name]) for name, array in arrays.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, default=HERE, help='folder to write the dataset into')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep-encoder', action='store_true', help='use the encoder that the package has')
    args = parser.parse_args()
    if not args.keep_encoder:
        save_encoder(taught(args.seed), WEIGHTS)
    write_dataset(args.out, args.seed)


if __name__ == '__main__':
    main()

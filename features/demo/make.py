"""Makes the embedded dataset: its drawings and captions, its encoder, its features.

    python features/demo/make.py                 everything, the encoder included (long)
    python features/demo/make.py --keep-encoder  with the encoder of the package

The seed determines images and captions; the encoder also depends on the rounding of the BLAS. Images of the splits are
not stored, `dataset` draws them again; those in `unseen` are. (The package's encoder was trained for longer than
`train_encoder` does: its convolutions were pretrained on twice as many shapes. It answers all questions on 99.8 % of
500 new images.)
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

def dataset(seed: int = 0) -> list[tuple[dict, dict]]:
    """Pairs of a scene and its entry in `dataset.json`, for each `imgid` from 0."""
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    return [_entry(f'{seed} {imgid}', imgid, split) for imgid, split in enumerate(splits)]


def _entry(seed, imgid, split):
    rng = random.Random(seed)
    scene = draw.random_scene(rng)
    captions = draw.captions(scene, rng)
    sentids = [len(captions) * imgid + i for i in range(len(captions))]
    sentences = [{'tokens': tokens, 'raw': ' '.join(tokens).capitalize() + '.', 'imgid': imgid, 'sentid': sentid}
                 for tokens, sentid in zip(captions, sentids, strict=True)]
    return scene, {'filename': f'{imgid:04}.png', 'imgid': imgid, 'split': split, 'sentids': sentids,
                   'sentences': sentences}


def unseen(seed: int = 0) -> dict[str, dict]:
    """Scenes that are in no split, equally many of each kind: file name to scene."""
    kinds = itertools.cycle(draw.KINDS)
    return {f'{i:02}.png': draw.random_scene(random.Random(f'unseen {seed} {i}'), next(kinds))
            for i in range(1, UNSEEN + 1)}


def features(scenes: list[dict], extractor: Extractor, batch_size: int = 100) -> np.ndarray:
    """The features of scenes, (N, 4096) float32, computed from image files like a user's."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'image.png')

        def prepared(scene):
            draw.draw(scene).save(path)
            return extractor.prepare(path)
        for start in tqdm(range(0, len(scenes), batch_size), 'features'):
            rows.append(extractor(np.stack([prepared(scene) for scene in scenes[start:start + batch_size]])))
    return np.concatenate(rows)


def write_dataset(folder: pathlib.Path, seed: int) -> None:
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

# The questions about the whole image. The first and second object are in the order of captions.
_WHAT = {'shape': draw.SHAPES, 'colour': draw.COLOURS, 'size': ('small', 'big')}
QUESTIONS = {
    'count': (1, 2, 3, 4), 'ground': ('dark', 'light'), 'layout': ('row', 'column', 'group'),
    'row': ('top', 'middle', 'bottom'), 'column': ('left', 'middle', 'right'), 'relation': tuple(draw.RELATIONS),
    **{f'{which} {what}': choices for which in ('first', 'second') for what, choices in _WHAT.items()}}


def answers(scene: dict) -> list[int]:
    """The number of the answer to each of `QUESTIONS`, from 1; 0 for a question that does not apply."""
    first, *others = draw.big_first(scene['objects'])
    known = {'count': 1 + len(others), 'ground': draw.ground(scene)}
    known |= {f'first {what}': answer for what, answer in _attributes(first).items()}
    if not others:
        for question, at in (('row', first['y']), ('column', first['x'])):
            known[question] = QUESTIONS[question][(at > 0.36) + (at > 0.64)]
    elif draw.are_alike(scene['objects']):
        known['layout'] = draw.layout(scene['objects'])
    else:
        known['relation'] = draw.relation(first, others[0])
        known |= {f'second {what}': answer for what, answer in _attributes(others[0]).items()}
    return [1 + choices.index(known[question]) if question in known else 0 for question, choices in QUESTIONS.items()]


def local_answers(scene: dict) -> np.ndarray:
    """Training targets of 6 x 6 positions: shape, colour and size of the object whose centre is there, or -1;
    (3, 6, 6)."""
    found = np.full((len(_WHAT), 6, 6), -1)
    for thing in scene['objects']:
        found[:, int(6 * thing['y']), int(6 * thing['x'])] = [
            _WHAT[what].index(answer) for what, answer in _attributes(thing).items()]
    return found


def _attributes(thing):
    return {'shape': thing['shape'], 'colour': thing['colour'], 'size': draw.size(thing)}


def training_scene(rng: random.Random) -> dict:
    """A scene of a kind sampled uniformly."""
    return draw.random_scene(rng, rng.choice(list(draw.KINDS)))


def crowd(rng: random.Random) -> dict:
    """A scene of many objects, by which shapes and colours are learned faster: nine small ones, or four big ones, some
    with a small one inside."""
    per_side = rng.choice((2, 3))
    objects = []
    for x, y in itertools.product([(i + 0.5) / per_side for i in range(per_side)], repeat=2):
        outer, inner = draw.random_scene(rng, 'inside')['objects']
        where = {'x': x + rng.uniform(-0.05, 0.05), 'y': y + rng.uniform(-0.05, 0.05)}
        if per_side == 2 and rng.random() < 0.5:
            objects += [{**outer, **where, 'r': 0.21}, {**inner, **where}]
        else:
            objects.append({**inner, **where, 'r': inner['r'] if per_side == 3 else rng.uniform(0.155, 0.18)})
    return {**training_scene(rng), 'objects': objects}


class TrainingLoss(chainer.Chain):
    """The loss of a `DemoNet`, with a classifier of each position for training."""

    def __init__(self, encoder):
        super().__init__()
        with self.init_scope():
            self.encoder = encoder
            self.local = L.Convolution2D(32, len(_WHAT) * encoder.choices, 1)

    def forward(self, x, targets, local_targets):
        h = self.encoder.feature_map(np.float32(x))
        local = F.reshape(self.local(h), (len(x), self.encoder.choices, len(_WHAT), 6, 6))
        loss = len(_WHAT) * F.softmax_cross_entropy(local, local_targets)
        if (targets >= 0).any():
            loss += len(QUESTIONS) * F.softmax_cross_entropy(self.encoder.logits(h), targets)
        return loss


def train_encoder(seed: int, images: int = 9600, crowds: int = 9600, epochs: int = 6, more_images: int = 30000,
                  more_epochs: int = 8) -> demo.DemoNet:
    """Trains a `DemoNet`: first as a whole, on scenes and crowds, then the layers above the convolutions alone, on the
    feature maps of many more scenes, which is fast."""
    rng = random.Random(f'encoder {seed}')
    np.random.seed(seed)                                # noqa: NPY002 (Chainer samples from NumPy's global generator)
    encoder = demo.DemoNet()
    scenes = [training_scene(rng) for _ in range(images)] + [crowd(rng) for _ in range(crowds)]
    targets = np.full((len(scenes), len(QUESTIONS)), -1, np.int32)
    targets[:images] = [answers(scene) for scene in scenes[:images]]
    local_targets = np.array([local_answers(scene) for scene in scenes], np.int32)
    _fit(TrainingLoss(encoder), [_prepared(scenes), targets, local_targets], epochs, 2e-3)

    scenes = [training_scene(rng) for _ in range(more_images)]
    targets = np.array([answers(scene) for scene in scenes], np.int32)
    _fit(encoder, [_feature_maps(encoder, scenes), targets], more_epochs, 1e-3,
         lambda h, targets: F.softmax_cross_entropy(encoder.logits(np.float32(h)), targets))
    encoder.fc8.W.array[:] = sample_last_layer(rng)

    tests = [draw.random_scene(rng) for _ in range(1000)]
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        predicted = encoder.logits(np.float32(_feature_maps(encoder, tests))).array.argmax(axis=1)
    right = (predicted == [answers(scene) for scene in tests]).all(axis=1)
    print(f'the encoder answers all questions on {right.mean():.1%} of {len(tests)} new images')
    return encoder


def _fit(link, data, epochs, alpha, loss=None, batch_size=64):
    optimizer = chainer.optimizers.Adam().setup(link)
    count = len(data[0])
    progress = tqdm(range(epochs * (count // batch_size)), 'training')
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


def _feature_maps(encoder: demo.DemoNet, scenes: list[dict], batch_size: int = 200) -> np.ndarray:
    """The encoder's feature maps of scenes, (N, 32, 6, 6), float16."""
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return np.concatenate([
            np.float16(encoder.feature_map(np.float32(_prepared(scenes[start:start + batch_size]))).array)
            for start in tqdm(range(0, len(scenes), batch_size), 'feature maps')])


def sample_last_layer(rng: random.Random) -> np.ndarray:
    """Weights of the last layer: whole numbers from a tenth of all answers to each of 4096 units."""
    encoder = demo.DemoNet
    weights = np.zeros((4096, encoder.choices, encoder.questions), np.float32)
    for unit in weights:
        for question, choices in enumerate(QUESTIONS.values()):
            for choice in range(1, 1 + len(choices)):
                if rng.random() < 0.1:
                    unit[choice, question] = round(rng.gauss(0, 1.5) * demo.STEPS)
    return weights.reshape(len(weights), -1)


def save_encoder(encoder: demo.DemoNet, path: pathlib.Path) -> None:
    """Writes an encoder in the layout of Chainer's `save_npz`, in half precision and whole numbers."""
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(encoder)
    arrays = {name: np.asarray(value) for name, value in sorted(serializer.target.items())}
    dtypes = {name: np.float16 if array.dtype.kind == 'f' else array.dtype for name, array in arrays.items()}
    dtypes['fc8/W'] = np.int8
    write_npz(path, {name: array.astype(dtypes[name]) for name, array in arrays.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, default=HERE, help='folder of the dataset')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep-encoder', action='store_true', help='use the encoder of the package')
    args = parser.parse_args()
    if not args.keep_encoder:
        save_encoder(train_encoder(args.seed), WEIGHTS)
    write_dataset(args.out, args.seed)


if __name__ == '__main__':
    main()

"""The embedded dataset: well-formed, true in all that it says, and made by the code that is beside it."""
import itertools
import json
import pathlib
import random
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

from chainer_caption.data.caption_parsers import read_caption_file
from chainer_caption.data.tokenization import tokenize
from chainer_caption.features.encoders import demo
from chainer_caption.features.extractor import Extractor

DEMO = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo'
sys.path.insert(0, str(DEMO))
import draw  # noqa: E402
import japanese  # noqa: E402
import make  # noqa: E402


@pytest.fixture(scope='module')
def images():
    return json.loads((DEMO / 'dataset.json').read_text(encoding='utf-8'))['images']


@pytest.fixture(scope='module')
def matrix():
    return scipy.io.loadmat(DEMO / 'vgg_feats.mat')['feats']


@pytest.fixture(scope='module')
def scenes():
    return [scene for scene, _ in make.dataset()]


def scene_of(brightness, *things):
    keys = 'shape', 'colour', 'x', 'y', 'r'
    return {'background': [[brightness] * 3] * 4, 'objects': [dict(zip(keys, thing, strict=True)) for thing in things]}


CORNER = scene_of(35, ('star', 'yellow', 0.25, 0.25, 0.16))
PAIR = scene_of(240, ('circle', 'red', 0.27, 0.5, 0.16), ('square', 'blue', 0.7, 0.52, 0.07))
NESTED = scene_of(240, ('square', 'pink', 0.5, 0.5, 0.28), ('circle', 'green', 0.51, 0.5, 0.07))
ROW = scene_of(240, *(('triangle', 'green', x, 0.5, 0.07) for x in (0.2, 0.5, 0.8)))


def test_dataset_is_in_karpathys_layout(images, matrix):
    assert matrix.shape == (4096, len(images)) and matrix.dtype == np.float32
    assert np.isfinite(matrix).all() and matrix.min() == 0 and (matrix.max(axis=0) > 0).all()
    assert [image['imgid'] for image in images] == list(range(len(images)))
    assert {split: sum(image['split'] == split for image in images) for split in make.SPLITS} == make.SPLITS
    assert len({image['filename'] for image in images}) == len(images)
    sentids = []
    for image in images:
        assert image['sentids'] == [sentence['sentid'] for sentence in image['sentences']]
        sentids += image['sentids']
        assert len({tuple(sentence['tokens']) for sentence in image['sentences']}) == 5
        for sentence in image['sentences']:
            assert sentence['imgid'] == image['imgid']
            assert sentence['raw'].lower().rstrip('.').split() == sentence['tokens']
    assert sentids == list(range(5 * len(images)))
    record = json.loads((DEMO / 'vgg_feats.mat.json').read_text(encoding='utf-8'))
    assert record == {'encoder': 'demo', 'preprocessing': 'demo'}


def test_every_word_is_frequent_enough_to_be_learned(images):
    words = [word for image in images if image['split'] == 'train' for s in image['sentences'] for word in s['tokens']]
    assert min(words.count(word) for word in set(words)) >= 5


def test_dataset_is_small():
    files = [path for path in DEMO.rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    assert sum(path.stat().st_size for path in [*files, make.WEIGHTS]) <= 8e6


def test_dataset_is_what_its_script_makes(images):
    assert images == [image for _, image in make.dataset()]


def test_every_caption_is_true(images, scenes):
    for image, scene in zip(images, scenes, strict=True):
        for sentence in image['sentences']:
            assert draw.is_true(sentence['tokens'], scene), (image['imgid'], sentence['raw'])


def test_unseen_images_are_the_scenes_beside_them(scenes):
    unseen = json.loads((DEMO / 'unseen' / 'scenes.json').read_text(encoding='utf-8'))
    assert sorted(unseen) == sorted(path.name for path in (DEMO / 'unseen').glob('*.png'))
    assert unseen == make.unseen()
    assert not any(scene in scenes for scene in unseen.values())
    for name, scene in unseen.items():
        with Image.open(DEMO / 'unseen' / name) as image:
            difference = np.asarray(image, np.int16) - np.asarray(draw.draw(scene), np.int16)
        assert np.abs(difference).mean() < 0.1, name    # other versions of Pillow may round otherwise here and there


def test_matrix_is_what_the_extractor_makes_of_the_images(matrix, scenes):
    some = list(range(0, len(scenes), len(scenes) // 24))
    made = make.features([scenes[imgid] for imgid in some], Extractor.load('demo'))
    stored = matrix.T[some]
    assert made.shape == stored.shape and made.dtype == np.float32
    np.testing.assert_array_equal(made * demo.STEPS, np.round(made * demo.STEPS))
    assert (made == stored).mean() > 0.999              # a unit on the edge of a step may fall to either side
    np.testing.assert_allclose(made, stored, atol=1.01 / demo.STEPS)


@pytest.mark.parametrize('scene, caption, verdict', [
    (CORNER, 'a big yellow star in the top left corner', True),
    (CORNER, 'in the top left corner there is a yellow star', True),
    (CORNER, 'a yellow star on the left side on a dark background', True),
    (CORNER, 'a yellow star on a light background', False),
    (CORNER, 'a yellow star in the middle', False),
    (CORNER, 'a yellow star in the top right corner', False),
    (CORNER, 'a small yellow star', False),
    (PAIR, 'a big red circle to the left of a small blue square', True),
    (PAIR, 'there is a blue square to the right of a red circle', True),
    (PAIR, 'a red circle with a blue square to its right', True),
    (PAIR, 'a red circle with a blue square to its left', False),
    (PAIR, 'a blue square to the left of a red circle', False),
    (PAIR, 'a red square to the left of a blue circle', False),
    (PAIR, 'a small red circle to the left of a big blue square', False),
    (PAIR, 'a red circle above a blue square', False),
    (PAIR, 'a red circle inside a blue square', False),
    (NESTED, 'a small green circle inside a big pink square', True),
    (NESTED, 'a pink square with a green circle inside it', True),
    (NESTED, 'a pink square inside a green circle', False),
    (NESTED, 'a green circle above a pink square', False),
    (ROW, 'a row of three small green triangles', True),
    (ROW, 'there are three green triangles in a row', True),
    (ROW, 'three green triangles in a column', False),
    (ROW, 'a group of three green triangles', False),
    (ROW, 'two green triangles', False),
    (ROW, 'a green triangle', False),
    (ROW, 'four green triangles', False),
])
def test_captions_are_judged_as_a_person_would(scene, caption, verdict):
    assert draw.is_true(caption.split(), scene) is verdict


@pytest.mark.parametrize('caption', [
    '', 'a', 'a red', 'red circle', 'an red circle', 'a red circles', 'there are a red circle', 'the red circle',
    'a red circle a red circle', 'a red circle to the left of', 'a red circle in the top left', 'a red circle <UNK>',
    'a circle', 'a red circle on a dark background on a light background', 'A red circle', 'a red circle .'])
def test_what_cannot_be_parsed_is_not_true(caption):
    assert draw.is_true(caption.split(), PAIR) is False


OPPOSITES = dict(pair for one, other in (
    ('left', 'right'), ('above', 'below'), ('top', 'bottom'), ('inside', 'around'), ('row', 'column'), ('small', 'big'),
    ('dark', 'light')) for pair in ((one, other), (other, one)))
NEXT = {word: words[(i + 1) % len(words)] for words in (
    draw.COLOURS, draw.SHAPES, [shape + 's' for shape in draw.SHAPES],
    ('two', 'three', 'four')) for i, word in enumerate(words)}


def test_no_word_of_a_caption_can_be_changed():
    rng = random.Random(7)
    tried = set()
    for _ in range(400):
        scene = draw.random_scene(rng)
        for caption in draw.captions(scene, rng):
            assert draw.is_true(caption, scene)
            for i, word in enumerate(caption):
                for other in {OPPOSITES.get(word), NEXT.get(word)} - {None}:
                    tried.add(word)
                    changed = [*caption[:i], other, *caption[i + 1:]]
                    assert not draw.is_true(changed, scene), (' '.join(changed), scene)
    assert tried >= {*draw.COLOURS, *draw.SHAPES, 'left', 'above', 'inside', 'top', 'row', 'column', 'big', 'two'}


# In Japanese

@pytest.mark.parametrize('scene, caption, verdict', [
    (CORNER, '左上の隅に大きい黄色い星がある', True),
    (CORNER, '暗い背景で左上の隅の黄色い星', True),
    (CORNER, '右上の隅に大きい黄色い星がある', False),
    (CORNER, '左に小さい黄色い星がある', False),
    (PAIR, '青い四角の左に赤い丸がある', True),
    (PAIR, '大きい赤い丸が小さい青い四角の左にある', True),
    (PAIR, '赤い丸の左に青い四角がある', False),
    (PAIR, '青い四角が赤い丸の左にある', False),
    (PAIR, '暗い背景で青い四角の左に赤い丸がある', False),
    (PAIR, '青い四角の上の赤い丸', False),
    (NESTED, '大きいピンクの四角の中に小さい緑の丸がある', True),
    (NESTED, '緑の丸の周りのピンクの四角', True),
    (NESTED, '緑の丸の中にピンクの四角がある', False),
    (ROW, '三個の小さい緑の三角が横に並んでいる', True),
    (ROW, '横に並んだ三個の緑の三角', True),
    (ROW, '三個の緑の三角が縦に並んでいる', False),
    (ROW, '散らばった三個の緑の三角', False),
    (ROW, '二個の緑の三角がある', False),
    (ROW, '真ん中に緑の三角がある', False),
    (PAIR, '', False), (PAIR, '赤い丸', False), (PAIR, '丸の左に四角がある', False),
    (PAIR, '赤い丸赤い丸赤い丸がある', False), (PAIR, 'Aがある', False)])
def test_japanese_is_judged_as_a_person_would(scene, caption, verdict):
    assert japanese.is_true(list(caption), scene) is verdict


def test_every_japanese_caption_is_true_and_no_two_words_can_be_confused():
    rng = random.Random(7)
    opposites = dict(pair for one, other in (
        ('小さい', '大きい'), ('赤い', '青い'), ('丸', '星'), ('四角', '三角'), ('左', '右'), ('上', '下'),
        ('縦', '横'), ('二個', '三個')) for pair in ((one, other), (other, one)))
    tried = set()
    for _ in range(200):
        scene = draw.random_scene(rng)
        assert len(set(japanese.wordings(scene))) >= 5
        for caption in japanese.wordings(scene):
            words = caption.split()
            for script in (japanese.written, japanese.reading):
                assert japanese.is_true(script(caption), scene), caption
                for i in [i for i, word in enumerate(words) if word in opposites]:
                    changed = ' '.join([*words[:i], opposites[words[i]], *words[i + 1:]])
                    assert not japanese.is_true(script(changed), scene), (changed, scene)
                    tried.add(words[i])
    assert tried == {*opposites}


def test_a_dictionary_reads_japanese_as_it_is_read_here():
    pytest.importorskip('sudachidict_core', reason='needs readings: scripts/setup.sh japanese')
    rng = random.Random(8)
    for caption in itertools.chain.from_iterable(japanese.wordings(draw.random_scene(rng)) for _ in range(200)):
        assert ''.join(tokenize(japanese.written(caption), 'katakana')) == japanese.reading(caption)


@pytest.mark.parametrize('language', ['en', 'ja'])
def test_drawings_with_captions(language, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['draw.py', '-o', str(tmp_path), '--language', language, '--limit', '12',
                                      '--wordings', '3'])
    draw.main()
    scenes = json.loads((tmp_path / 'scenes.json').read_text(encoding='utf-8'))
    described = read_caption_file(tmp_path / 'captions.csv')
    assert sorted(scenes) == sorted(described) == sorted(path.name for path in tmp_path.glob('*.png'))
    assert {of.split for of in described.values()} == {'train', 'val', 'test'}
    lines = []
    for name, of in described.items():
        assert len(set(of.captions)) == 3
        wrong = len(lines) % 4 == 0
        tokens = tokenize('x' if wrong else of.captions[0], 'words' if language == 'en' else 'characters')
        lines.append(json.dumps({'filename': f'{tmp_path}/{name}', 'captions': [{'caption': '', 'tokens': tokens}]}))
    (tmp_path / 'captions.jsonl').write_text('\n'.join(lines))
    monkeypatch.setattr(sys, 'argv', ['draw.py', str(tmp_path / 'captions.jsonl'), '--language', language])
    draw.main()
    assert capsys.readouterr().out.endswith('9 of the 12 best captions are true of their image (75%)\n')

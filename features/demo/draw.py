"""Scenes of the embedded dataset: random flat shapes, their images, their captions, and which captions are true.

A scene is plain JSON: `{'background': [four corner colours], 'objects': [object, …]}`, an object being `{'shape',
'colour', 'x', 'y', 'r', 'angle', 'rgb'}`. `x` and `y` are its centre and `r` its radius as fractions of the image's
side, `y` downwards; `angle` is in degrees; `rgb` is the tint. Relations between objects follow from their positions.
`random_scene` keeps wide margins around the limits of all words, so that every caption is clearly true or false:

    words                       true when                                       sampled at
    small / big                 r < 0.14 / otherwise                            r ≤ 0.113 / r ≥ 0.165
    on the left, at the top …   x < 0.36, y < 0.36 …                            ≤ 0.28
    in the middle               0.4 < x, y < 0.6                                0.46 to 0.54
    to the left of, above …     centres ≥ 0.2 apart that way, and twice as far  ≥ 0.4, six times as far
                                as the other way
    inside, around              centres < half the outer radius apart,          at most 0.03 apart,
                                inner radius < half the outer                   0.113 in 0.27
    in a row, in a column       centres within 0.06 across the line             within 0.02, otherwise ≥ 0.2
    dark / light background     mean of the corners < 90 / > 180 of 255         ≤ 70 / ≥ 200

Numbers are exact, and "a" is a number: "two red stars" is false of three, "a star" of two. All randomness comes from
the `random.Random` argument.
"""
import argparse
import colorsys
import csv
import itertools
import json
import math
import pathlib
import random
import re

from PIL import Image, ImageDraw, ImageFilter

SHAPES = ('circle', 'square', 'triangle', 'star')
COLOURS = ('red', 'yellow', 'green', 'blue', 'purple', 'pink')
KINDS = {'single': 0.3, 'beside': 0.2, 'above': 0.2, 'inside': 0.1, 'several': 0.2}      # probabilities
NUMBERS = {1: 'a', 2: 'two', 3: 'three', 4: 'four'}

_HSV = {'red': (0.99, 0.80, 0.86), 'yellow': (0.145, 0.72, 0.98),
        'green': (0.37, 0.62, 0.68), 'blue': (0.60, 0.70, 0.88), 'purple': (0.77, 0.58, 0.70),
        'pink': (0.92, 0.42, 0.98)}
_TILT = {'circle': 0, 'square': 10, 'triangle': 12, 'star': 18}
_SMALL, _BIG, _HUGE = (0.1, 0.113), (0.165, 0.185), (0.27, 0.31)


# Scenes

def random_scene(rng: random.Random, kind: str | None = None) -> dict:
    """A scene of a kind (a key of `KINDS`), by default a random one."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    compose = {'single': _single, 'beside': _beside, 'above': _above, 'inside': _inside, 'several': _several}[kind]
    return {'background': _background(rng), 'objects': compose(rng)}


def _background(rng):
    dark, hue = rng.random() < 0.25, rng.random()
    saturation, value = (rng.uniform(0.2, 0.45), 0.22) if dark else (rng.uniform(0.04, 0.12), 0.96)
    return [_rgb((hue + rng.uniform(-0.06, 0.06)) % 1, saturation, value + rng.uniform(-0.04, 0.04)) for _ in range(4)]


def _rgb(hue, saturation, value):
    return [round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value)]


def _thing(rng, x, y, sizes, *, shapes=SHAPES, colours=COLOURS):
    shape, colour = rng.choice(shapes), rng.choice(colours)
    hue, saturation, value = _HSV[colour]
    tint = _rgb((hue + rng.uniform(-0.009, 0.009)) % 1, saturation + rng.uniform(-0.05, 0.05),
                value + rng.uniform(-0.05, 0.02))
    return {'shape': shape, 'colour': colour, 'x': round(x, 4), 'y': round(y, 4), 'r': round(rng.uniform(*sizes), 4),
            'angle': round(rng.uniform(-1, 1) * _TILT[shape], 1), 'rgb': tint}


def _single(rng):
    def along(third):
        return (rng.uniform(0.22, 0.28), rng.uniform(0.46, 0.54), rng.uniform(0.72, 0.78))[third]
    return [_thing(rng, along(rng.randrange(3)), along(rng.randrange(3)), rng.choice((_SMALL, _BIG)))]


def _beside(rng):
    apart, across = rng.uniform(0.4, 0.52), rng.uniform(0.27, 0.73)
    xs = 0.5 - apart / 2, 0.5 + apart / 2
    pair = [_thing(rng, x, across + rng.uniform(-0.03, 0.03), rng.choice((_SMALL, _BIG))) for x in xs]
    while all(pair[0][key] == pair[1][key] for key in ('shape', 'colour')):     # two alike are 'several'
        pair[1] = _thing(rng, pair[1]['x'], pair[1]['y'], rng.choice((_SMALL, _BIG)))
    return pair


def _above(rng):
    return [{**thing, 'x': thing['y'], 'y': thing['x']} for thing in _beside(rng)]


def _inside(rng):
    x, y = rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58)
    outer = _thing(rng, x, y, _HUGE, shapes=('circle', 'square', 'triangle'))
    inner = _thing(rng, x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), _SMALL,
                   colours=[c for c in COLOURS if c != outer['colour']])
    return [outer, inner]


def _several(rng):
    count = rng.randint(2, 4)
    # four in a row just fit
    sizes = rng.choice((_SMALL, _BIG)) if count == 2 else _SMALL if count == 3 else (0.09, 0.1)
    form = rng.choice(('row', 'column', 'group') if count > 2 else ('row', 'column'))
    if form == 'group':
        spots = [(0.28, 0.3), (0.72, 0.28), (0.3, 0.72), (0.7, 0.7)]
        rng.shuffle(spots)
        spots = [(x + rng.uniform(-0.06, 0.06), y + rng.uniform(-0.06, 0.06)) for x, y in spots[:count]]
    else:
        step, across = rng.uniform(0.24, 0.25) if count == 4 else rng.uniform(0.27, 0.31), rng.uniform(0.25, 0.75)
        step = 1.6 * step if count == 2 else step
        spots = [(0.5 + step * (i - (count - 1) / 2), across + rng.uniform(-0.01, 0.01)) for i in range(count)]
        spots = [(y, x) for x, y in spots] if form == 'column' else spots
    first = _thing(rng, 0, 0, sizes)
    return [{**first, 'x': round(x, 4), 'y': round(y, 4),
             'angle': round(rng.uniform(-1, 1) * _TILT[first['shape']], 1)} for x, y in spots]


# Images

def draw(scene: dict, side: int = 256) -> Image.Image:
    """The scene as a PIL image, RGB, `side` pixels square: soft background, faint shadows, smooth edges."""
    image = Image.new('RGB', (2, 2))
    image.putdata([tuple(c) for c in scene['background']])
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    for thing in scene['objects']:
        mask, corner = _mask(thing, side)
        blur = side / 64
        shadow = mask.filter(ImageFilter.GaussianBlur(blur)).point([level // 4 for level in range(256)])
        image.paste((20, 20, 40), (round(corner[0] + blur / 2), round(corner[1] + blur)), shadow)
        image.paste(tuple(thing['rgb']), corner, mask)
    return image


def _mask(thing, side, oversample=4):
    """The object's coverage as an L image with room for a shadow, and the position of its top left corner."""
    half = math.ceil(1.3 * thing['r'] * side) + side // 32
    left, top = math.floor(thing['x'] * side) - half, math.floor(thing['y'] * side) - half
    cos, sin = math.cos(math.radians(thing['angle'])), math.sin(math.radians(thing['angle']))
    points = [(((x * cos - y * sin) * thing['r'] + thing['x']) * side - left,
               ((x * sin + y * cos) * thing['r'] + thing['y']) * side - top) for x, y in _OUTLINES[thing['shape']]]
    mask = Image.new('L', (2 * half * oversample,) * 2)
    ImageDraw.Draw(mask).polygon([(x * oversample, y * oversample) for x, y in points], fill=255)
    return mask.reduce(oversample), (left, top)


def _arc(radius, start, end, x=0.0, steps=48):
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _star(outer, inner):
    return [((inner if i % 2 else outer) * math.sin(math.pi * i / 5),
             -(inner if i % 2 else outer) * math.cos(math.pi * i / 5)) for i in range(10)]


# Polygons of the shapes at radius 1, y downwards, scaled so that all look equally big.
_OUTLINES = {
    'circle': _arc(1, 0, 360),
    'square': [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    'triangle': [(0, -1.2), (1.12, 0.75), (-1.12, 0.75)],
    'star': _star(1.2, 0.52),
}


# Relations

def size(thing: dict) -> str:
    """`'small'` or `'big'`."""
    return 'small' if thing['r'] < 0.14 else 'big'


def relation(one: dict, other: dict) -> str | None:
    """Position of `one` relative to `other`: a key of `RELATIONS`, or None."""
    across, down = one['x'] - other['x'], one['y'] - other['y']
    if max(abs(across), abs(down)) >= max(0.2, 2 * min(abs(across), abs(down))):
        return ('left' if across < 0 else 'right') if abs(across) > abs(down) else 'above' if down < 0 else 'below'
    if math.hypot(across, down) < max(one['r'], other['r']) / 2 > min(one['r'], other['r']):
        return 'inside' if one['r'] < other['r'] else 'around'
    return None


def layout(things: list[dict]) -> str:
    """`'row'`, `'column'` or, where two or more objects form neither, `'group'`."""
    xs, ys = ([thing[axis] for thing in things] for axis in 'xy')
    return 'row' if max(ys) - min(ys) <= 0.06 else 'column' if max(xs) - min(xs) <= 0.06 else 'group'


def are_alike(things: list[dict]) -> bool:
    """Whether all objects are of one shape and colour."""
    return len({(thing['shape'], thing['colour']) for thing in things}) == 1


def big_first(things: list[dict]) -> list[dict]:
    """The objects in the order of captions: big ones first, otherwise as they are."""
    return sorted(things, key=lambda thing: size(thing) != 'big')


def ground(scene: dict) -> str | None:
    """`'dark'`, `'light'` or, between the two, None."""
    brightness = sum(map(sum, scene['background'])) / 12
    return 'dark' if brightness < 90 else 'light' if brightness > 180 else None


# Captions

RELATIONS = {
    'left': ('to the left of', 'to its left'), 'right': ('to the right of', 'to its right'),
    'above': ('above', 'above it'), 'below': ('below', 'below it'),
    'inside': ('inside', 'inside it'), 'around': ('around', 'around it')}


def captions(scene: dict, rng: random.Random, count: int = 5) -> list[list[str]]:
    """`count` different true captions: lists of tokens, in random order."""
    return [text.split() for text in rng.sample(wordings(scene), count)]


def wordings(scene: dict) -> list[str]:
    """All captions of a scene: five strings or more."""
    things = scene['objects']
    texts = _of_one(*things) if len(things) == 1 else (_of_several if are_alike(things) else _of_two)(things)
    if ground(scene) == 'dark':
        texts += [f'{text} on a dark background' for text in texts[:2]]
    return texts


def _phrase(count, size, colour, shape):
    plural = '' if count == 1 else 's'
    return ' '.join(filter(None, (NUMBERS[count], size, colour, shape + plural)))


def _names(thing, count=1):
    """The object's names, with its size and without."""
    return [_phrase(count, of_size, thing['colour'], thing['shape']) for of_size in (size(thing), None)]


def _of_one(thing):
    row = 'top' if thing['y'] < 0.36 else 'bottom' if thing['y'] > 0.64 else None
    column = 'left' if thing['x'] < 0.36 else 'right' if thing['x'] > 0.64 else None
    if row and column:
        place = f'in the {row} {column} corner'
    else:
        place = f'at the {row}' if row else f'on the {column} side' if column else 'in the middle'
    full, plain = _names(thing)
    return [f'{full} {place}', f'{plain} {place}', f'there is {full} {place}', f'there is {plain} {place}',
            f'{place} there is {full}', f'{place} there is {plain}']


def _of_two(things):
    one, other = big_first(things)
    there, (_, to_it) = RELATIONS[relation(one, other)][0], RELATIONS[relation(other, one)]
    (full, plain), (full_other, plain_other) = _names(one), _names(other)
    return [f'{full} {there} {full_other}', f'{plain} {there} {plain_other}', f'{full} with {full_other} {to_it}',
            f'{plain} with {plain_other} {to_it}', f'there is {full} {there} {full_other}',
            f'there is {plain} {there} {plain_other}']


def _of_several(things):
    full, plain = _names(things[0], len(things))
    form = layout(things)
    if form == 'group':
        return [f'a group of {full}', f'a group of {plain}', f'there are {full}', f'there is a group of {plain}',
                f'{plain} here and there', f'there are {full} here and there']
    if len(things) == 2:
        how = 'side by side' if form == 'row' else 'one above the other'
        return [f'{full} {how}', f'{plain} {how}', f'there are {full}', f'there are {plain}',
                f'there are {full} {how}', f'there are {plain} {how}']
    return [f'{full} in a {form}', f'a {form} of {plain}', f'there are {full}', f'there are {plain} in a {form}',
            f'there is a {form} of {full}', f'{plain} in a {form}', f'a {form} of {full}']


# Truth, by a grammar that is independent of the code that makes captions. A phrase such as "two small red stars" is
# replaced by ONE or MANY, and the sentence is looked up among the claims, each a predicate on the phrases' objects.

_PHRASE = re.compile(r'\b(a|two|three|four) (?:(small|big) )?({}) ({})s?\b'.format(
    '|'.join(COLOURS), '|'.join(SHAPES)))
_THERE = re.compile('^(there is (?=ONE|a )|there are (?=MANY))')
_GROUND = re.compile('(.*) on a (dark|light) background')
_SIDES = {'top': lambda a: a['y'] < 0.36, 'bottom': lambda a: a['y'] > 0.64,
          'left': lambda a: a['x'] < 0.36, 'right': lambda a: a['x'] > 0.64}


def _claims():
    places = {'in the middle': lambda a: 0.4 < a['x'] < 0.6 and 0.4 < a['y'] < 0.6,
              'at the top': _SIDES['top'], 'at the bottom': _SIDES['bottom'],
              'on the left side': _SIDES['left'], 'on the right side': _SIDES['right']}
    for row, column in itertools.product(('top', 'bottom'), ('left', 'right')):
        places[f'in the {row} {column} corner'] = lambda a, r=row, c=column: _SIDES[r](a) and _SIDES[c](a)
    claims = {'ONE': lambda a: True, 'MANY': lambda things: True, 'ONE and ONE': lambda a, b: True,
              'MANY side by side': lambda things: layout(things) == 'row',
              'MANY one above the other': lambda things: layout(things) == 'column' and len(things) == 2}
    for place, holds in places.items():
        claims[f'ONE {place}'] = claims[f'{place} there is ONE'] = holds
    for name, (there, to_it) in RELATIONS.items():
        claims[f'ONE {there} ONE'] = lambda a, b, name=name: relation(a, b) == name
        claims[f'ONE with ONE {to_it}'] = lambda a, b, name=name: relation(b, a) == name
    for form, how in (('row', 'in a row'), ('column', 'in a column'), ('group', 'here and there')):
        claims[f'MANY {how}'] = claims[f'a {form} of MANY'] = (
            lambda things, form=form: layout(things) == form and len(things) > 2)
    return claims


_CLAIMS = _claims()


def is_true(tokens: list[str], scene: dict) -> bool:
    """Whether a caption, a list of lower-case tokens without punctuation, is true of a scene.

    What the grammar does not know is false, such as wrong articles and plurals.
    """
    text, meant = ' '.join(tokens), []
    background = _GROUND.fullmatch(text)
    if background:
        text = background[1]
        if background[2] != ground(scene):
            return False

    def symbol(phrase):
        meant.append(_meant(phrase, scene))
        return 'ONE' if phrase[1] == 'a' else 'MANY'
    claim = _CLAIMS.get(_THERE.sub('', _PHRASE.sub(symbol, text)))
    return claim is not None and None not in meant and claim(*meant)


def _meant(phrase, scene):
    """The object of "a red star", or the objects of "two red stars"; None if the number is wrong."""
    number, of_size, colour, shape = phrase.groups()
    count = next(n for n, word in NUMBERS.items() if word == number)
    things = [thing for thing in scene['objects']
              if thing['shape'] == shape and thing['colour'] == colour and of_size in (None, size(thing))]
    if len(things) != count or phrase[0] != _phrase(count, of_size, colour, shape):
        return None
    return things[0] if count == 1 else things


# As a program

SPLITS = 'val', 'test', *['train'] * 10                # repeated


def write_drawings(folder: pathlib.Path, language: str = 'en', images: int = 1800, wordings: int = 5,
                   seed: int = 0) -> None:
    """Writes drawings (`0000.png` ...), their `captions.csv`, as `extract_features.py` reads it, and `scenes.json`.

    Args:
        folder: The folder to write.
        language: `'en'` or `'ja'`.
        images: Number of drawings.
        wordings: Captions an image, all different; 1 gives equal scenes equal captions.
        seed: Random seed.
    """
    rng, scenes = random.Random(f'{language} {seed}'), {}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'captions.csv', 'w', encoding='utf-8', newline='') as f:
        rows = csv.writer(f)
        rows.writerow(['filename', 'caption', 'split'])
        for i in range(images):
            name = f'{i:04}.png'
            scenes[name] = scene = random_scene(rng)
            texts = _wordings(scene, language)
            for caption in texts[:1] if wordings == 1 else rng.sample(texts, wordings):
                rows.writerow([name, caption, SPLITS[i % len(SPLITS)]])
            draw(scene).save(folder / name)
    (folder / 'scenes.json').write_text(json.dumps(scenes), encoding='utf-8')


def _wordings(scene: dict, language: str) -> list[str]:
    if language == 'en':
        return wordings(scene)
    import japanese
    return list(map(japanese.written, japanese.wordings(scene)))


def print_truth(path: pathlib.Path, language: str = 'en') -> None:
    """Prints the share of true best captions in JSON lines of `generate.py`, for images beside a `scenes.json`."""
    judge = is_true
    if language == 'ja':
        import japanese
        judge = japanese.is_true
    rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    right = 0
    for row in rows:
        image = pathlib.Path(row['filename'])
        scene = json.loads((image.parent / 'scenes.json').read_text(encoding='utf-8'))[image.name]
        best = row['captions'][0]
        right += judge(best['tokens'], scene)
        if not judge(best['tokens'], scene):
            print(f'not true: {image.name}: {best["caption"]}')
    print(f'{right} of the {len(rows)} best captions are true of their image ({right / len(rows):.0%})')


def main() -> None:
    parser = argparse.ArgumentParser(description='Count true captions of drawings; with -o, make drawings.')
    parser.add_argument('captions', type=pathlib.Path, nargs='?', help='JSON lines of generate.py, of images beside a '
                        'scenes.json')
    parser.add_argument('-o', '--output', type=pathlib.Path, help='folder to write: drawings, captions.csv, '
                        'scenes.json')
    parser.add_argument('--language', choices=('en', 'ja'), default='en', help='language of the captions (%(default)s)')
    parser.add_argument('--limit', type=int, default=1800, help='number of drawings (%(default)s)')
    parser.add_argument('--wordings', type=int, choices=range(1, 6), default=5, help='captions an image; with 1, '
                        'equal scenes have equal captions (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (%(default)s)')
    args = parser.parse_args()
    if (args.captions is None) == (args.output is None):
        parser.error('name a file of captions, or a folder for drawings with -o')
    if args.output is not None:
        write_drawings(args.output, args.language, args.limit, args.wordings, args.seed)
    elif args.captions.is_file():
        print_truth(args.captions, args.language)
    else:
        parser.error(f'{args.captions}: no such file')


if __name__ == '__main__':
    main()

"""Japanese captions of the drawings, their readings, and which captions are true.

Captions are in kanji and kana without spaces; their reading in katakana follows from the table of words. Captions in
either script can be judged. `draw` defines the words.
"""
import itertools
import re

import draw

# Words to their readings.
_READINGS = {
    '小さい': 'チイサイ', '大きい': 'オオキイ', '赤い': 'アカイ', '黄色い': 'キイロイ',
    '緑': 'ミドリ', '青い': 'アオイ', '紫': 'ムラサキ', 'ピンク': 'ピンク', '丸': 'マル',
    '四角': 'シカク', '三角': 'サンカク', '星': 'ホシ', '二個': 'ニコ', '三個': 'サンコ',
    '四個': 'ヨンコ', '左': 'ヒダリ', '右': 'ミギ', '上': 'ウエ', '下': 'シタ', '中': 'ナカ',
    '周り': 'マワリ', '真ん中': 'マンナカ', '左上': 'ヒダリウエ', '右上': 'ミギウエ',
    '左下': 'ヒダリシタ', '右下': 'ミギシタ', '隅': 'スミ', '横': 'ヨコ', '縦': 'タテ',
    '並んで': 'ナランデ', '並んだ': 'ナランダ', '散らばって': 'チラバッテ',
    '散らばった': 'チラバッタ', 'いる': 'イル', 'ある': 'アル', '暗い': 'クライ',
    '背景': 'ハイケイ', 'の': 'ノ', 'に': 'ニ', 'が': 'ガ', 'で': 'デ'}  # noqa: RUF001 (it is a letter)

_SIZES = {'small': '小さい', 'big': '大きい'}
_COLOURS = {'red': '赤い', 'yellow': '黄色い', 'green': '緑 の', 'blue': '青い', 'purple': '紫 の', 'pink': 'ピンク の'}
_SHAPES = {'circle': '丸', 'square': '四角', 'triangle': '三角', 'star': '星'}
_NUMBERS = {2: '二個', 3: '三個', 4: '四個'}
_RELATIONS = {'left': '左', 'right': '右', 'above': '上', 'below': '下', 'inside': '中', 'around': '周り'}
# Predicate and attribute, as in "are standing" and "that stand".
_LAYOUTS = {'row': ('横 に 並んで いる', '横 に 並んだ'), 'column': ('縦 に 並んで いる', '縦 に 並んだ'),
            'group': ('散らばって いる', '散らばった')}
_DARK = '暗い 背景 で'


def written(caption: str) -> str:
    """A caption of `wordings` without spaces."""
    return caption.replace(' ', '')


def reading(caption: str) -> str:
    """A caption of `wordings` in katakana."""
    return ''.join(_READINGS[word] for word in caption.split())


# Captions

def wordings(scene: dict) -> list[str]:
    """All captions of a scene, the most detailed first: five strings or more, with spaces between the words."""
    things = scene['objects']
    texts = _of_one(*things) if len(things) == 1 else (_of_several if draw.are_alike(things) else _of_two)(things)
    if draw.ground(scene) == 'dark':
        texts += [f'{_DARK} {text}' for text in texts[:2]]
    return texts


def _names(thing):
    """The object's names, with its size and without."""
    plain = f'{_COLOURS[thing["colour"]]} {_SHAPES[thing["shape"]]}'
    return f'{_SIZES[draw.size(thing)]} {plain}', plain


def _of_one(thing):
    row = '上' if thing['y'] < 0.36 else '下' if thing['y'] > 0.64 else ''
    column = '左' if thing['x'] < 0.36 else '右' if thing['x'] > 0.64 else ''
    place = f'{column}{row} の 隅' if row and column else row or column or '真ん中'
    return [text for form in ('{1} に {0} が ある', '{0} が {1} に ある', '{1} の {0}')
            for text in (form.format(name, place) for name in _names(thing))]


def _of_two(things):
    one, other = draw.big_first(things)
    there = _RELATIONS[draw.relation(one, other)]
    return [text for form in ('{1} の {2} に {0} が ある', '{0} が {1} の {2} に ある', '{1} の {2} の {0}')
            for text in (form.format(*pair, there) for pair in zip(_names(one), _names(other), strict=True))]


def _of_several(things):
    number, (standing, that_stand) = _NUMBERS[len(things)], _LAYOUTS[draw.layout(things)]
    return [form.format(f'{number} の {name}') for form in (f'{{}} が {standing}', f'{that_stand} {{}}', '{} が ある')
            for name in _names(things[0])]


# Truth, by an independent grammar as in `draw`, in either script.

class _Grammar:
    """The grammar in one script: `written` or `reading`."""

    def __init__(self, script):
        def any_of(words):
            self.meanings.update({script(word): meaning for meaning, word in words.items()})
            return '|'.join(script(word) for word in words.values())
        self.meanings = {}
        self.phrase = re.compile(f'(?:({any_of(_NUMBERS)}){script("の")})?({any_of(_SIZES)})?({any_of(_COLOURS)})'
                                 f'({any_of(_SHAPES)})')
        self.dark = script(_DARK)
        self.claims = {}
        for claim, holds in _claims():
            # No word contains the letters A and B.
            parts = re.split('([AB])', claim)
            self.claims[''.join(part if part in 'AB' else script(part.strip()) for part in parts if part)] = holds

    def judge(self, text, scene):
        if {*text} & {*'AB'}:
            return False
        if text.startswith(self.dark):
            if draw.ground(scene) != 'dark':
                return False
            text = text.removeprefix(self.dark)
        meant = []

        def symbol(phrase):
            number, of_size, colour, shape = (self.meanings.get(word) for word in phrase.groups())
            things = [thing for thing in scene['objects']
                      if thing['shape'] == shape and thing['colour'] == colour and of_size in (None, draw.size(thing))]
            meant.append(things if len(things) == (number or 1) else None)
            return 'AB?'[min(len(meant), 3) - 1]
        claim = self.claims.get(self.phrase.sub(symbol, text))
        return claim is not None and None not in meant and claim(*meant)


def _claims():
    """Pairs of a sentence and a predicate on the objects of its phrases, lists of one or more."""
    def one(holds):
        return lambda things: len(things) == 1 and holds(things[0])

    def related(name, one, other):
        return len(one) == len(other) == 1 and draw.relation(one[0], other[0]) == name

    sides = {'上': lambda a: a['y'] < 0.36, '下': lambda a: a['y'] > 0.64,
             '左': lambda a: a['x'] < 0.36, '右': lambda a: a['x'] > 0.64}
    places = {**sides, '真ん中': lambda a: 0.4 < a['x'] < 0.6 and 0.4 < a['y'] < 0.6}
    for column, row in itertools.product('左右', '上下'):
        places[f'{column}{row} の 隅'] = lambda a, c=column, r=row: sides[c](a) and sides[r](a)
    for place, holds in places.items():
        for form in ('{} に A が ある', 'A が {} に ある', '{} の A'):
            yield form.format(place), one(holds)
    for name, there in _RELATIONS.items():
        # A and B are in the order of their phrases.
        yield f'A が B の {there} に ある', lambda one, other, name=name: related(name, one, other)
        for claim in (f'A の {there} に B が ある', f'A の {there} の B'):
            yield claim, lambda other, one, name=name: related(name, one, other)
    for form, (standing, that_stand) in _LAYOUTS.items():
        for claim in (f'A が {standing}', f'{that_stand} A'):
            yield claim, lambda things, form=form: draw.layout(things) == form and len(things) > (form == 'group') + 1
    yield 'A が ある', lambda things: True


_GRAMMARS = [_Grammar(written), _Grammar(reading)]


def is_true(tokens: list[str], scene: dict) -> bool:
    """As `draw.is_true`, of a caption in words or characters, in kanji or in katakana."""
    return any(grammar.judge(''.join(tokens), scene) for grammar in _GRAMMARS)

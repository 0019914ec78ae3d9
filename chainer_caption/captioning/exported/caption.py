"""Captions images with the model in this folder: python caption.py IMAGE ... (pip install numpy pillow onnxruntime)"""
import json
import pathlib
import sys
from typing import NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
CONFIG, RECIPE, VOCABULARY = (json.loads((HERE / f'{name}.json').read_text('utf-8'))
                                     for name in ('config', 'preprocessing', 'vocabulary'))
ENCODER, START, STEP = (onnxruntime.InferenceSession(str(HERE / f'{name}.onnx'), providers=['CPUExecutionProvider'])
                        for name in ('encoder', 'decoder_start', 'decoder_step'))
BOS, EOS, UNK = range(3)        # <S> begins a caption and </S> ends it; <UNK>, any other word, is never written


class Hypothesis(NamedTuple):
    """A caption, or the beginning of one."""
    words: tuple                # ids of its words, without <S> and </S>
    log_prob: float             # sum of the log-probabilities of its words and its </S>, nats
    score: float                # that by which captions are compared
    finished: bool              # whether it has its </S>
    row: int = 0                # row of the state that it continues


def prepare(path: str) -> np.ndarray:
    """The image in a file as the encoder takes it: (3, S, S) float32."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith('I'):                      # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray(((np.asarray(image, int).clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image.convert('RGBA'))
    image = image.convert('RGB')
    size, name, (width, height) = RECIPE['size'], RECIPE['filter'], image.size
    box = 0, 0, width, height
    if RECIPE['resize'] == 'crop':               # the middle of the image whose short side is resized
        sides = [RECIPE['short_side'] * side // min(width, height) for side in (width, height)]
        left, top = ((side - size) // 2 if name == 'nearest' else round((side - size) / 2) for side in sides)
        across, down = width / sides[0], height / sides[1]
        box = left * across, top * down, (left + size) * across, (top + size) * down
    if name == 'matlab':
        from imresize import imresize
        image = imresize(np.asarray(image), size, size)
    elif name is not None:
        image = image.resize((size, size), Image.Resampling[name.upper()], box)
    pixels = np.asarray(image, np.float32)[:, :, ::-1 if RECIPE['channels'] == 'BGR' else 1]
    mean, scale = (np.array(RECIPE[key], np.float32) for key in ('mean', 'scale'))
    return np.ascontiguousarray(((pixels - mean) / scale).transpose(2, 0, 1))


def search(features: np.ndarray) -> list[Hypothesis]:
    """Beam search: the best captions of an image of these features, (1, D), best first."""
    width, top, longest, power = map(CONFIG['search'].get, ('width', 'top', 'max_length', 'length_normalization'))
    state, alive, finished = START.run(None, {'features': features}), [Hypothesis((), 0.0, 0.0, False)], []
    for length in range(1, longest + 2):
        rows = {'parents': np.array([h.row for h in alive]), 'tokens': np.array([(BOS, *h.words)[-1] for h in alive])}
        *state, log_probs = STEP.run(None, {**{f'state{i}': array for i, array in enumerate(state)}, **rows})
        log_probs[:, [BOS, UNK]] = -np.inf              # the probabilities of the others stay as they are
        if length > longest:                            # ends where </S> is the likeliest word, and is cut elsewhere
            for h, row in zip(alive, log_probs.astype(float), strict=True):
                total = h.log_prob + row[EOS]
                ended = h._replace(log_prob=total, score=total * length ** -power, finished=True)
                finished.append(ended if row.argmax() == EOS else h)
            break
        candidates, totals = [*finished], np.array([[h.log_prob] for h in alive]) + log_probs
        for place in np.argsort(-totals, axis=None, kind='stable')[:width]:
            (row, word), total = divmod(int(place), totals.shape[1]), float(totals.flat[place])
            words = alive[row].words + ((word,) if word != EOS else ())
            candidates.append(Hypothesis(words, total, total * length ** -power, word == EOS, row))
        beam = [h for h in sorted(candidates, key=lambda h: -h.score)[:width] if h.score > -np.inf]
        finished, alive = ([h for h in beam if h.finished == wanted] for wanted in (True, False))
        # What is alive keeps its log-probability at best.
        if not alive or (len(finished) >= top and
                         finished[top - 1].score >= max(h.log_prob for h in alive) * (longest + 1) ** -power):
            break
    return sorted(finished, key=lambda h: -h.score)[:top]


def main(paths: list[str]) -> int:
    """Prints the captions of each image, best first; returns the exit status, 1 where an image cannot be read."""
    status = 0
    for path in paths:
        try:
            images = prepare(path)[None]
        except Exception as e:                          # Pillow's decoders raise nearly anything on damaged files
            print(f'{path}: {e}', file=sys.stderr)
            status = 1
            continue
        print('#', path)
        for h in search(ENCODER.run(['features'], {'images': images})[0]):
            print((' ' if CONFIG['tokenizer'] == 'words' else '').join(VOCABULARY['words'][i] for i in h.words))
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else __doc__)

"""Shows what the captioner that comes along says of ten photographs: makes photographs.jpg.

    python features/demo/photographs.py FOLDER

FOLDER is skimage/data of scikit-image, which has photographs that are free to show. Whether a caption is right was
judged by hand, for the captions that are listed here.
"""
import pathlib
import sys
import textwrap

import matplotlib
import matplotlib.pyplot as plt
from PIL import Image, ImageOps

from chainer_caption import Captioner

matplotlib.use('agg')

# Of each file, where it is from.
SOURCES = {
    'astronaut.png': 'NASA, public domain', 'camera.png': 'Lav Varshney, CC0',
    'chelsea.png': 'Stéfan van der Walt, CC0', 'coffee.png': 'Rachel Michetti, CC0',
    'rocket.jpg': 'SpaceX, public domain', 'clock_motion.png': 'Stéfan van der Walt, public domain',
    'grass.png': 'linolafett, CC0', 'brick.png': 'CC0Textures, CC0', 'gravel.png': 'CC0Textures, CC0',
    'hubble_deep_field.jpg': 'NASA, public domain'}
VERDICTS = {
    ('astronaut.png', 'a man in a red shirt and blue jeans is standing next to a man in a blue shirt'): 'wrong',
    ('camera.png', 'a woman in a red jacket is standing in front of a brick wall'): 'wrong',
    ('chelsea.png', 'a little boy in a blue shirt is standing in front of a yellow building'): 'wrong',
    ('coffee.png', 'a brown and white dog is running through the grass'): 'wrong',
    ('rocket.jpg', 'a group of people stand in the snow'): 'wrong',
    ('clock_motion.png', 'a boy in a blue shirt is playing with a ball'): 'wrong',
    ('grass.png', 'a little girl in a pink shirt is running through the grass'): 'partly',
    ('brick.png', 'a man in a blue shirt is standing in front of a large crowd of people'): 'wrong',
    ('gravel.png', 'a child in a red shirt is standing in front of a white building'): 'wrong',
    ('hubble_deep_field.jpg', 'a man in a red shirt is standing in front of a crowd of people'): 'wrong'}
COLOURS = {'right': '#1a7f37', 'partly': '#9a6700', 'wrong': '#b3261e'}


def main(folder):
    captioner = Captioner.load(say=lambda line: None)
    figure, axes = plt.subplots(2, 5, figsize=(12.5, 6.3), dpi=100)
    results = captioner.caption_files([pathlib.Path(folder) / name for name in SOURCES])
    for axis, result in zip(axes.flat, results, strict=True):
        name, said = pathlib.Path(result.path).name, result.captions[0].text
        print(f'{name}: {said}')
        with Image.open(result.path) as picture:
            axis.imshow(ImageOps.fit(picture.convert('RGB'), (400, 320)))
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(textwrap.fill(said, 27), fontsize=11, labelpad=13)
        axis.text(0.5, -0.02, SOURCES[name], fontsize=7.5, color='grey', ha='center', va='top',
                  transform=axis.transAxes)
        verdict = VERDICTS.get((name, said), 'not judged')
        axis.set_title(verdict, color=COLOURS.get(verdict, 'black'), fontsize=11, fontweight='bold')
    figure.tight_layout(h_pad=2.5)
    figure.savefig(pathlib.Path(__file__).with_name('photographs.jpg'), pil_kwargs={'quality': 85})


if __name__ == '__main__':
    main(sys.argv[1])

"""Makes photos.jpg: ten photos with the captions of the pretrained model.

    python features/demo/photos.py FOLDER

FOLDER is skimage/data of scikit-image, whose photos are free to show. The verdicts were given by hand, for the
captions listed here.
"""
import pathlib
import sys
import textwrap

import matplotlib
import matplotlib.pyplot as plt
from PIL import Image, ImageOps

from chainer_caption import Captioner

matplotlib.use('agg')

# File to its source.
SOURCES = {
    'astronaut.png': 'NASA, public domain', 'camera.png': 'Lav Varshney, CC0',
    'chelsea.png': 'Stéfan van der Walt, CC0', 'coffee.png': 'Rachel Michetti, CC0',
    'rocket.jpg': 'SpaceX, public domain', 'clock_motion.png': 'Stéfan van der Walt, public domain',
    'grass.png': 'linolafett, CC0', 'brick.png': 'CC0Textures, CC0', 'gravel.png': 'CC0Textures, CC0',
    'hubble_deep_field.jpg': 'NASA, public domain'}
VERDICTS = {
    ('astronaut.png', 'a man in a blue shirt is holding a trophy'): 'wrong',
    ('camera.png', 'a man is looking at a microphone on a tripod'): 'partly',
    ('chelsea.png', 'a small brown and white dog is playing with a tennis ball'): 'wrong',
    ('coffee.png', 'a black and white dog is running through the grass'): 'wrong',
    ('rocket.jpg', 'a man is standing in front of a yellow building'): 'wrong',
    ('clock_motion.png', 'a young boy is playing with a soccer ball'): 'wrong',
    ('grass.png', 'a brown and white dog is running through the grass'): 'partly',
    ('brick.png', 'a boy in a blue shirt is running on the ice'): 'wrong',
    ('gravel.png', 'a man in a yellow shirt is standing in front of a large tree'): 'wrong',
    ('hubble_deep_field.jpg', 'a man is standing in front of a large tree'): 'wrong'}
COLOURS = {'right': '#1a7f37', 'partly': '#9a6700', 'wrong': '#b3261e'}


def main(folder: str) -> None:
    captioner = Captioner.load(say=lambda line: None)
    figure, axes = plt.subplots(2, 5, figsize=(12.5, 6.3), dpi=100)
    results = captioner.caption_files([pathlib.Path(folder) / name for name in SOURCES])
    for axis, result in zip(axes.flat, results, strict=True):
        name, caption = pathlib.Path(result.path).name, result.captions[0].text
        print(f'{name}: {caption}')
        with Image.open(result.path) as image:
            axis.imshow(ImageOps.fit(image.convert('RGB'), (400, 320)))
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(textwrap.fill(caption, 27), fontsize=11, labelpad=13)
        axis.text(0.5, -0.02, SOURCES[name], fontsize=7.5, color='grey', ha='center', va='top',
                  transform=axis.transAxes)
        verdict = VERDICTS.get((name, caption), 'not judged')
        axis.set_title(verdict, color=COLOURS.get(verdict, 'black'), fontsize=11, fontweight='bold')
    figure.tight_layout(h_pad=2.5)
    figure.savefig(pathlib.Path(__file__).with_name('photos.jpg'), pil_kwargs={'quality': 85})


if __name__ == '__main__':
    main(sys.argv[1])

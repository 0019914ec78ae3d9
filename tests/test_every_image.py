"""Every kind of file that a folder can hold, through the command: captioned, an error row, or passed over."""
import csv
import json
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'

pytestmark = pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')


@pytest.fixture
def image():
    with Image.open(UNSEEN / '01.png') as opened:
        return opened.convert('RGB')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'images').mkdir()
    return tmp_path / 'images'


@pytest.fixture
def generate(call, demo_model, folder, tmp_path):
    """Captions the folder: (exit status, rows by name, stderr). The names are relative to the folder, in the order of
    the rows, and are errors or captions' log-probabilities, rounded: BLAS may round by an image's row in its batch."""
    def run(*options):
        status, out, err = call('generate', '-m', demo_model, folder, '-o', tmp_path / 'c.jsonl', '--beam-width', 2,
                                *options)
        assert out == ''
        rows = [json.loads(line) for line in (tmp_path / 'c.jsonl').read_bytes().split(b'\n')[:-1]]
        assert [row['filename'] for row in rows] == sorted(row['filename'] for row in rows)
        return status, {os.path.relpath(row['filename'], folder): row.get('error') or
                        [round(caption['log_prob'], 4) for caption in row['captions']] for row in rows}, err
    return run


def save(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)


def grey16(image):
    return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6                                    # its top row is at the right
    return {'exif': exif}


# What is captioned

@pytest.mark.parametrize('name, plain, stored, options', [
    ('grey.png', lambda i: i.convert('L').convert('RGB'), lambda i: i.convert('L'), {}),
    ('16 bit.png', lambda i: i.convert('L').convert('RGB'), grey16, {}),
    ('palette.png', lambda i: i.quantize(16).convert('RGB'), lambda i: i.quantize(16), {}),
    ('transparent.png', lambda i: Image.new('RGB', i.size, 'white'), lambda i: i.quantize(16),
     {'transparency': bytes(16)}),
    ('animated.gif', lambda i: i.quantize(16).convert('RGB'), lambda i: i.quantize(16),
     {'save_all': True, 'append_images': [Image.new('RGB', (96, 96), 'red')]}),
    ('a.webp', lambda i: i, lambda i: i, {'lossless': True}),
    ('a.bmp', lambda i: i, lambda i: i, {}),
    ('a.tif', lambda i: i, lambda i: i, {}),
    ('named wrongly.jpg', lambda i: i, lambda i: i, {'format': 'PNG'}),
], ids=lambda value: value if isinstance(value, str) else '')
def test_captioned_as_the_same_image_in_plain_rgb(name, plain, stored, options, generate, folder, image):
    save(folder / name, stored(image), **options)
    save(folder / 'plain.png', plain(image))
    status, rows, err = generate()
    assert (status, err) == (0, '')
    assert rows[name] == rows['plain.png']


def test_turned_by_its_exif_orientation_or_not(generate, folder, image):
    save(folder / 'turned.png', image, **turned(image))
    save(folder / 'upright.png', image.transpose(Image.Transpose.ROTATE_270))
    save(folder / 'stored.png', image)
    _, rows, _ = generate()
    assert rows['turned.png'] == rows['upright.png'] != rows['stored.png']
    _, rows, _ = generate('--no-exif')
    assert rows['turned.png'] == rows['stored.png'] != rows['upright.png']


@pytest.mark.parametrize('name, image_of', [
    ('cmyk.jpg', lambda i: i.convert('CMYK')), ('grey.jpg', lambda i: i.convert('L')),
    ('one.png', lambda i: Image.new('RGB', (1, 1))), ('thin.png', lambda i: Image.new('RGB', (3000, 2), 'red'))])
def test_captioned(name, image_of, generate, folder, image):
    save(folder / name, image_of(image))
    status, rows, err = generate()
    assert (status, err) == (0, '') and len(rows[name]) == 2


ODD = ['two words.png', '\'single\' and "double".png', 'new\nline.png', 'größe 日本 🙂.png', 'a,b;c\td.png',
       '<script>alert(1)<script>.png', '-o.png', '# not a heading.png', 'deep/er/still.PNG', 'x.jpg/inside.png']


@pytest.mark.parametrize('name', ODD)
def test_odd_names(name, generate, folder, image, call, demo_model, tmp_path):
    save(folder / name, image)
    status, rows, err = generate()
    assert (status, err, list(rows)) == (0, '', [name])
    path = str(folder / name)
    for suffix in ('csv', 'html', 'txt'):
        assert call('generate', '-m', demo_model, folder, '-o', tmp_path / f'c.{suffix}', '--top', 1)[0] == 0
    with open(tmp_path / 'c.csv', encoding='utf-8', newline='') as f:
        assert [row['filename'] for row in csv.DictReader(f)] == [path]
    page = (tmp_path / 'c.html').read_text(encoding='utf-8')
    assert '<script>alert' not in page
    assert len((tmp_path / 'c.txt').read_text(encoding='utf-8').splitlines()) == 2, 'a heading and a caption'
    (tmp_path / 'list').write_text(f'{path}\n', encoding='utf-8')
    if '\n' not in name:                                # a list has a path on each line
        status, _, err = call('generate', '-m', demo_model, '-l', tmp_path / 'list', '--top', 1)
        assert (status, err) == (0, '')


def test_a_name_that_is_no_text(generate, folder, image, call, demo_model, tmp_path):
    with open(os.fsencode(folder) + b'/\xff.png', 'wb') as f:
        image.save(f, format='PNG')
    status, rows, _ = generate()
    assert status == 0 and len(rows) == 1
    for suffix in ('csv', 'html', 'txt'):
        assert call('generate', '-m', demo_model, folder, '-o', tmp_path / f'c.{suffix}', '--top', 1)[0] == 0


# Error rows

def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def claim(path, width, height):
    """A PNG of a few bytes that says it has so many pixels."""
    header = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in (header, b'IDAT')))


@pytest.mark.parametrize('name, damage, reason', [
    ('truncated.jpg', cut, 'truncated'),
    ('truncated.png', cut, ''),
    ('truncated.webp', cut, ''),
    ('truncated.gif', cut, ''),
    ('zero bytes.jpg', lambda path: path.write_bytes(b''), 'the file is empty'),
    ('text.jpg', lambda path: path.write_text('not an image'), 'not an image in a supported format'),
    ('huge.png', lambda path: claim(path, 20_000, 20_000), '20000 x 20000 pixels are more than the limit of 120,000,0'),
    ('long.png', lambda path: claim(path, 70_000, 1), 'a side of more than 65,535'),
    ('gone.jpg', lambda path: (path.unlink(), path.symlink_to('nowhere')), 'cannot be read (No such file'),
    ('itself.jpg', lambda path: (path.unlink(), path.symlink_to('itself.jpg')), 'cannot be read (Too many levels'),
    ('pipe.jpg', lambda path: (path.unlink(), os.mkfifo(path)), 'not a regular file'),
    pytest.param('forbidden.png', lambda path: path.chmod(0), 'cannot be read (Permission denied)',
                 marks=pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')),
])
def test_error_rows(name, damage, reason, generate, folder, image):
    save(folder / name, image)
    damage(folder / name)
    save(folder / 'sound.png', image)
    status, rows, err = generate()
    assert status == 1 and rows.keys() == {name, 'sound.png'}
    assert isinstance(rows[name], str) and reason in rows[name]
    assert isinstance(rows['sound.png'], list)
    assert err == f'{folder / name}: {rows[name]}\n'.replace('max_pixels', '--max-pixels')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_folder_that_cannot_be_listed(generate, folder, image):
    save(folder / 'sound.png', image)
    (folder / 'closed').mkdir(mode=0)
    status, rows, err = generate()
    assert status == 1 and 'cannot be listed' in rows['closed'] and err.count('\n') == 1


def test_the_limit_of_pixels_can_be_set(generate, folder, image):
    save(folder / 'a.png', image)
    pixels = image.width * image.height
    assert generate('--max-pixels', pixels)[0] == 0
    status, rows, _ = generate('--max-pixels', pixels - 1)
    assert status == 1 and f'more than the limit of {pixels - 1:,}' in rows['a.png']


# What is passed over

def test_passed_over(generate, folder, image):
    for name in ('notes.txt', 'dataset.json', 'movie.mp4', '.hidden.png', '.thumbnails/a.png', 'png'):
        save(folder / name, image, format='PNG')
    save(folder / 'x.jpg' / 'inside.png', image)
    (folder / 'x.jpg' / 'loop').symlink_to(folder)
    (folder / 'loop.jpg').symlink_to('.')
    (folder / 'again').symlink_to('x.jpg')
    status, rows, err = generate()
    assert (status, err, list(rows)) == (0, '', ['x.jpg/inside.png'])


def test_nothing_but_what_is_passed_over(refused, demo_model, folder):
    (folder / 'notes.txt').touch()
    assert refused('generate', '-m', demo_model, folder) == f'{folder}: no images in there'

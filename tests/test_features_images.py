"""Every kind of image file is decoded correctly, or is one ImageError."""
import errno
import io
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import SHARED, read_image
from PIL import Image

from chainer_caption.cli.common import failure
from chainer_caption.features import images
from chainer_caption.features.folders import find_images
from chainer_caption.features.images import ImageError, open_image
from chainer_caption.features.prefetch import prepared_batches
from chainer_caption.features.preprocessing import PREPROCESSINGS

PNG = b'\x89PNG\r\n\x1a\n'


@pytest.fixture
def rgb():
    """A smooth image, 24 x 32, that survives JPEG nearly unchanged."""
    y, x = np.mgrid[:24, :32]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], axis=2).astype(np.uint8)


def close(a, b, levels):
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= levels


@pytest.mark.parametrize('name', ['a.png', 'a.webp', 'a.bmp', 'a.tif', 'a.ppm', 'with space.png', '"quotes\'.png',
                                  'new\nline.png', 'größe 日本.png', '<script>alert(1)<script>.png', 'no suffix'])
def test_lossless_formats_and_odd_names(tmp_path, rgb, name):
    path = tmp_path / name
    lossless = {'lossless': True} if name.endswith('webp') else {}
    Image.fromarray(rgb).save(path, format=None if path.suffix else 'PNG', **lossless)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable
    np.testing.assert_array_equal(read, rgb)
    assert find_images(tmp_path) == ([str(path)] if path.suffix else [])


def test_jpeg_rgb_grey_and_cmyk(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / 'rgb.jpg', quality=98, subsampling=0)
    assert close(read_image(tmp_path / 'rgb.jpg'), rgb, 6)
    Image.fromarray(rgb).convert('L').save(tmp_path / 'grey.jpg', quality=98)
    assert close(read_image(tmp_path / 'grey.jpg'), np.asarray(Image.fromarray(rgb).convert('L').convert('RGB')), 6)
    Image.fromarray(rgb).convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=98)
    assert close(read_image(tmp_path / 'cmyk.jpg'), rgb, 12)


def test_16_bit_images_keep_their_range(tmp_path):
    grey = np.linspace(0, 65535, 300).round().astype(np.uint16).reshape(15, 20)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    Image.fromarray(grey).save(tmp_path / 'grey.tif')
    expected = np.repeat(np.round(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / 'grey.png'), expected)
    np.testing.assert_array_equal(read_image(tmp_path / 'grey.tif'), expected)


def test_transparent_pixels_are_composed_on_white(tmp_path):
    palette = Image.new('P', (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    palette.save(tmp_path / 'palette.png', transparency=bytes([128, 0]))
    Image.fromarray(np.array([[[255, 0, 0, 128], [0, 255, 0, 0]]], np.uint8)).save(tmp_path / 'rgba.png')
    for name in ('palette.png', 'rgba.png'):
        assert close(read_image(tmp_path / name), np.array([[[255, 127, 127], [255, 255, 255]]]), 1)
    grey, alpha = Image.new('L', (2, 1)), Image.fromarray(np.array([[255, 0]], np.uint8))
    Image.merge('LA', (grey, alpha)).save(tmp_path / 'la.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'la.png'), [[[0] * 3, [255] * 3]])


@pytest.mark.parametrize('name', ['a.gif', 'a.webp', 'a.tif'])
def test_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new('RGB', (8, 6), colour) for colour in ('red', 'lime', 'blue')]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **({'lossless': True} if 'webp' in name
                                                                                 else {}))
    np.testing.assert_array_equal(read_image(tmp_path / name), np.broadcast_to([255, 0, 0], (6, 8, 3)))


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, rgb, orientation, suffix):
    # The rotations and mirrorings of the EXIF standard, as rows and columns of the stored image
    shown = [rgb, rgb[:, ::-1], rgb[::-1, ::-1], rgb[::-1], rgb.transpose(1, 0, 2), rgb[::-1].transpose(1, 0, 2),
             rgb[::-1, ::-1].transpose(1, 0, 2), rgb[:, ::-1].transpose(1, 0, 2)][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / f'a.{suffix}', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / f'a.{suffix}'), shown)
    np.testing.assert_array_equal(read_image(tmp_path / f'a.{suffix}', honour_exif=False), rgb)


def every_mode(rgb):
    """The image in all modes that files come in."""
    image = Image.fromarray(rgb)
    alpha = image.copy()
    alpha.putalpha(image.convert('L'))
    return {'rgb.png': image, 'cmyk.tif': image.convert('CMYK'), 'grey.png': image.convert('L'), 'rgba.png': alpha,
            'bits.png': image.convert('1'), 'palette.png': image.quantize(9), 'la.png': alpha.convert('LA'),
            '16.png': Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)}


@pytest.mark.parametrize('orientation', range(1, 9))
def test_bands_equal_the_whole(tmp_path, rgb, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, image in every_mode(rgb).items():
        image.save(tmp_path / name, exif=exif, **({'transparency': 3} if name == 'palette.png' else {}))
        results = []
        for band in (2 ** 20, 70, 1):
            monkeypatch.setattr(images, '_BAND_PIXELS', band)
            with open_image(tmp_path / name) as decoded:
                results.append([np.asarray(decoded), np.asarray(decoded.to_image()),
                                *(PREPROCESSINGS[preprocessing].prepare(decoded) for preprocessing in ('karpathy',
                                                                                                       'demo',
                                                                                                       'seed'))])
                assert decoded.shape == results[-1][0].shape
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(results[0][0], results[0][1])


def test_damaged_exif_is_ignored(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / 'a.png', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), rgb)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'jp2', 'webp', 'gif'])
def test_open_files(tmp_path, rgb, suffix):
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(rgb).save(path)
    expected = read_image(path)
    with open(path, 'rb') as on_disk, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(path.read_bytes())
        for f in (io.BytesIO(path.read_bytes()), on_disk, spooled):
            np.testing.assert_array_equal(read_image(f), expected)
            np.testing.assert_array_equal(read_image(f), expected)      # from any position, and left open


def test_open_files_without_an_image():
    for content in (b'', b'nothing', b'\x89PNG\r\n\x1a\n'):
        with pytest.raises(ImageError, match='not an image') as caught:
            read_image(io.BytesIO(content))
        assert caught.value.path is None


def test_one_pixel(tmp_path):
    Image.new('RGB', (1, 1), (1, 2, 3)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), [[[1, 2, 3]]])


def refusal(path, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(ImageError) as caught:
            read_image(path, **kwargs)
    assert caught.value.path == str(path)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_damaged_files(tmp_path, rgb):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    for name in ('a.jpg', 'a.png', 'a.gif', 'a.webp', 'a.bmp', 'a.tif'):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (1, 10, 40, len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:length])
            assert refusal(tmp_path / name)
    (tmp_path / 'a.jpg').write_bytes(b'')
    assert refusal(tmp_path / 'a.jpg') == 'the file is empty'
    (tmp_path / 'a.jpg').write_text('not an image')
    assert 'not an image' in refusal(tmp_path / 'a.jpg')
    assert refusal(tmp_path / 'missing.jpg') == 'cannot be read (No such file or directory)'


def test_randomly_damaged_files_raise_only_image_errors(tmp_path, rgb):
    rng = np.random.default_rng(0)
    for name in ('a.jpg', 'a.png', 'a.gif', 'a.webp', 'a.tif'):
        path = tmp_path / name
        Image.fromarray(rgb).save(path)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 5)] = rng.integers(0, 256, 5)
            path.write_bytes(damaged.tobytes())
            try:
                assert read_image(path).ndim == 3
            except ImageError as e:
                assert str(e)


def chunk(kind, body=b'', checksum=None):
    return struct.pack('>I', len(body)) + kind + body + struct.pack(
        '>I', zlib.crc32(kind + body) if checksum is None else checksum)


def png_header(width, height):
    return PNG + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(b'IDAT')


TEXT = {'wrong checksum': chunk(b'tEXt', b'Comment\0x', 1), 'wrong checksum of EXIF': chunk(b'eXIf', b'MM\0*', 1),
        'long': chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(2 ** 21))),
        'cut off': chunk(b'iTXt', b'Comment\0\1\0\0\0' + zlib.compress(bytes(2 ** 21))[:99])}


@pytest.mark.parametrize('text', TEXT)
def test_png_with_damaged_metadata(tmp_path, rgb, text):
    path = tmp_path / 'a.png'
    palette = Image.fromarray(rgb).quantize(9)
    for image, transparency in ((Image.fromarray(rgb), {}), (palette, {'transparency': 3})):
        image.save(path, **transparency)
        expected, sound = read_image(path), path.read_bytes()
        for at in (33, len(sound) - 12):                # after IHDR, before IEND
            path.write_bytes(sound[:at] + TEXT[text] + sound[at:])
            np.testing.assert_array_equal(read_image(path), expected)
        damaged = bytearray(sound[:33] + TEXT[text] + sound[33:])
        damaged[-30] ^= 1
        path.write_bytes(damaged)
        assert refusal(path)


# Scans

def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, 'JPEG', **options)
    return stream.getvalue()


@pytest.mark.parametrize('size', [4, 5, 7, 64, 2 ** 18])
def test_scans_are_counted_up_to_the_end_of_the_image(rgb, size, monkeypatch):
    monkeypatch.setattr(images, '_CHUNK', size)
    image = Image.fromarray(rgb)
    trailer, exif = b'\xff\xda\0\2' * 50, b'Exif\0\0' + b'\xff\xda\0\2' * 50 + b'\xff\xd9'
    for mode, progressive, scans in (('RGB', True, 10), ('L', True, 6), ('RGB', False, 1)):
        data = jpeg(image.convert(mode), progressive=progressive, exif=exif)
        for content in (data, data + trailer, data[:-2]):
            assert images._count_scans(io.BytesIO(content), 1000) == scans
    data = jpeg(image, progressive=True)
    segment = b'\xff\xe1\0\x06\xff\xd9\xff\xd9'      # before the second scan: it does not end the image
    at = data.index(b'\xff\xda', data.index(b'\xff\xda') + 2)
    assert images._count_scans(io.BytesIO(data[:at] + segment + data[at:]), 1000) == 10
    assert images._count_scans(io.BytesIO(data[:-2] + trailer), 20) == 21
    monkeypatch.setattr(images, '_MAX_SEGMENTS', 99)
    with pytest.raises(ValueError, match='more than 99 segments'):
        images._count_scans(io.BytesIO(data[:-2] + b'\xff\xe1\0\2' * 100), 20)


def test_motion_photo(tmp_path):
    # 50 megapixels, for which 100 scans are the limit, and a video behind the image
    image = Image.new('L', (8160, 6120), 121)
    (tmp_path / 'a.jpg').write_bytes(jpeg(image) + b'\0\0\0\x18ftypmp42' + b'\xff\xda' * 200)
    with open_image(tmp_path / 'a.jpg', min_side=224) as decoded:
        assert decoded.shape == (765, 1020, 3)


def test_files_are_not_mapped(tmp_path, rgb, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENODEV, 'No such device')

    monkeypatch.setattr(mmap, 'mmap', refuse)           # as on a file system that cannot map files
    for name in ('a.jpg', 'a.jp2', 'a.png'):
        Image.fromarray(rgb).save(tmp_path / name)
        assert read_image(tmp_path / name).shape == rgb.shape


MINIFUSE = SHARED.parent / 'cases' / 'unreadable' / 'minifuse.py'


@pytest.mark.skipif(not MINIFUSE.exists() or not os.path.exists('/dev/fuse') or os.geteuid() != 0,
                    reason='needs minifuse.py, /dev/fuse and root')
@pytest.mark.parametrize('mode', ['eio=b.jpg@160000', 'direct_io'])
def test_bad_sector(tmp_path, mode):
    source, mount = tmp_path / 'source', tmp_path / 'mount'
    source.mkdir()
    mount.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for name in 'abc':
        Image.fromarray(noise).save(source / f'{name}.jpg', quality=95)
    assert (source / 'b.jpg').stat().st_size > 160_000
    with subprocess.Popen([sys.executable, MINIFUSE, mount, source, mode], stdout=subprocess.PIPE) as server:
        try:
            for _ in range(500):
                if os.path.ismount(mount) or server.poll() is not None:
                    break
                time.sleep(0.01)
            if not os.path.ismount(mount):
                pytest.skip('FUSE cannot be mounted here')
            batch, = prepared_batches(Preparing(), find_images(mount))
        finally:
            subprocess.run(['umount', '-l', mount], capture_output=True, check=False)
            server.kill()
    rows = [str(image) if isinstance(image, ImageError) else image.shape for _, image in batch]
    assert rows == [(400, 400, 3), 'cannot be read (Input/output error)' if mode != 'direct_io' else (400, 400, 3),
                    (400, 400, 3)]


class Preparing:
    prepare = staticmethod(read_image)


# HEIC

def test_heic(tmp_path, rgb):
    pillow_heif = pytest.importorskip('pillow_heif')
    image = Image.fromarray(rgb)
    image.getexif()[0x0112] = 6
    pillow_heif.register_heif_opener()
    image.save(tmp_path / 'a.heic', quality=100, chroma=444)
    (tmp_path / 'b.jpg').write_bytes((tmp_path / 'a.heic').read_bytes())
    shown = rgb[::-1].transpose(1, 0, 2)
    for name in ('a.heic', 'b.jpg'):
        for honour_exif in (True, False):
            assert close(read_image(tmp_path / name, honour_exif=honour_exif), shown, 8)
    assert 'limit of 767' in refusal(tmp_path / 'a.heic', max_pixels=24 * 32 - 1)
    assert find_images(tmp_path) == [str(tmp_path / 'a.heic'), str(tmp_path / 'b.jpg')]
    (tmp_path / 'b.jpg').write_bytes((tmp_path / 'a.heic').read_bytes()[:-100])
    assert refusal(tmp_path / 'b.jpg')


@pytest.mark.parametrize('name', ['a.heic', 'a.jpg'])
def test_heic_without_pillow_heif(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    for brand in (b'heic', b'mif1'):
        (tmp_path / name).write_bytes(b'\0\0\0\x18ftyp' + brand + bytes(4) + b'mif1heic' + bytes(500))
        assert refusal(tmp_path / name) == 'HEIC image: install pillow-heif (scripts/setup.sh heif)'


def test_too_many_pixels_are_refused_by_the_header(tmp_path, rgb):
    (tmp_path / 'a.png').write_bytes(png_header(20_000, 20_000))
    reason = '20000 x 20000 pixels are more than the limit of 120,000,000 ({})'
    assert refusal(tmp_path / 'a.png') == reason.format('max_pixels')
    assert failure('a.png', reason.format('max_pixels')) == f'a.png: {reason.format("--max-pixels")}'
    # Between Pillow's own warning and error, and above: neither is raised.
    for side in (10_500, 20_000):
        (tmp_path / 'a.png').write_bytes(png_header(side, side))
        assert 'limit' not in refusal(tmp_path / 'a.png', max_pixels=10 ** 9)
    (tmp_path / 'a.png').write_bytes(png_header(100_000, 1))
    assert 'a side of more than 65,535' in refusal(tmp_path / 'a.png')
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    assert read_image(tmp_path / 'a.png', max_pixels=24 * 32).shape == (24, 32, 3)
    assert 'limit of 767' in refusal(tmp_path / 'a.png', max_pixels=24 * 32 - 1)


def test_threads_restore_pillows_settings(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [tmp_path / 'a.png'] * 200))
    assert warnings.filters == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_large_images_wait_for_each_other(tmp_path, rgb, monkeypatch):
    sizes = [(32, 24), (16, 12), (8, 6)] * 20
    for i, size in enumerate(sizes):
        Image.fromarray(rgb).resize(size).save(tmp_path / f'{i}.png')
    monkeypatch.setattr(images, '_PIXELS_AT_ONCE', 400)
    together = []

    def read(i):
        with open_image(tmp_path / f'{i}.png'):
            together.append(images._in_memory)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(len(sizes))))
    assert len(together) == len(sizes) and set(together) <= {768, *range(48, 401, 48)} and images._in_memory == 0


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_no_permission(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    (tmp_path / 'a.png').chmod(0)
    assert 'Permission denied' in refusal(tmp_path / 'a.png')
    (tmp_path / 'closed').mkdir(mode=0)
    assert str(tmp_path / 'closed') in find_images(tmp_path)
    assert 'cannot be listed' in refusal(tmp_path / 'closed')


def test_pipes_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    assert refusal(tmp_path / 'a.jpg') == 'not a regular file'


@pytest.mark.skipif(sys.platform != 'linux', reason='names of any bytes')
def test_undecodable_names(tmp_path, rgb):
    path = os.fsencode(tmp_path) + b'/\xff.png'
    with open(path, 'wb') as f:
        Image.fromarray(rgb).save(f, format='PNG')
    found, = find_images(tmp_path)
    np.testing.assert_array_equal(read_image(found), rgb)

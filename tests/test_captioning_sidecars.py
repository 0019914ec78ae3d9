"""Sidecars: each image's best caption in a file beside it, none half-written, none written twice, none elsewhere."""
import errno
import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image

from chainer_caption.captioning.sidecars import Sidecars

RDF = '{http://www.w3.org/1999/02/22-rdf-syntax-ns#}'

# A process that kills itself while it writes its eighth sidecar, when half of that is on the disk.
KILLING = '''
import os, signal, sys
from chainer_caption import cli
from chainer_caption.storage import files

left = 8
def replace(*names, replace=os.replace):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)

files.os.replace = replace
sys.exit(cli.run('generate', sys.argv[1:], 'generate.py'))
'''


@pytest.fixture
def folder(tmp_path):
    """Twenty images in two folders, one of them damaged."""
    for i in range(20):
        path = tmp_path / 'holiday' / ('day 1' if i % 2 else '.') / f'{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 20 + 10 * i).save(path)
    (tmp_path / 'holiday' / '06.png').write_bytes(b'\x89PNG')
    return tmp_path / 'holiday'


@pytest.fixture
def generate(call, demo_model):
    """Captions images: (exit status, stdout, stderr)."""
    return lambda *options: call('generate', '-m', demo_model, '--beam-width', 2, *options)


def tree(folder):
    """What a folder holds: name to bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def best_captions(generate, *images):
    """The best caption of each image, as on standard output."""
    blocks = generate(*images, '--top', 1)[1].split('# ')[1:]
    return dict(block.rstrip('\n').split('\n', 1) for block in blocks if '\n! ' not in block)


def test_text_beside_each_image(generate, folder):
    expected, before = best_captions(generate, folder), tree(folder)
    status, out, err = generate(folder, '--sidecar', '.txt')
    assert (status, out, err.count('\n')) == (1, '', 1) and '06.png: ' in err
    made = tree(folder)
    assert {name: made.pop(name) for name in before} == before, 'images are never touched'
    assert len(made) == 19
    assert {os.path.join(folder, name.replace('.txt', '.png')): text.decode() for name, text in made.items()} == \
        {name: caption + '\n' for name, caption in expected.items()}


def test_the_same_command_goes_on_where_it_was_killed(generate, folder, demo_model, package_environment, tmp_path):
    assert generate(folder, '--sidecar', 'txt', '--output-dir', tmp_path / 'expected')[0] == 1
    made = tmp_path / 'made'
    done = subprocess.run(
        [sys.executable, '-c', KILLING, '-m', demo_model, folder, '--beam-width', '2', '--sidecar', 'txt',
         '--output-dir',
         made], env=package_environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    written = {path: path.stat().st_mtime_ns for path in made.rglob('[!.]*.txt')}
    assert len(written) == 7 and len(list(made.rglob('.*'))) == 1, 'one was half-written'
    assert generate(folder, '--sidecar', 'txt', '--output-dir', made)[0] == 1
    assert tree(made) == tree(tmp_path / 'expected')
    assert all(path.stat().st_mtime_ns == time for path, time in written.items()), 'none is written twice'


def test_what_is_there_stays_unless_it_is_to_be_replaced(generate, folder):
    (folder / '00.txt').write_text('our own words')
    (folder / '06.png').unlink()
    assert generate(folder, '--sidecar', 'txt')[0] == 0
    assert (folder / '00.txt').read_text() == 'our own words'
    assert generate(folder, '--sidecar', 'txt') == (
        0, '', 'all 19 images have a sidecar; --overwrite replaces them\n')
    assert generate(folder, '--sidecar', 'txt', '--overwrite')[0] == 0
    assert 'our own' not in (folder / '00.txt').read_text()


def test_xmp_is_named_as_photo_managers_name_it(generate, folder, tmp_path):
    expected = best_captions(generate, folder)
    assert generate(folder, '--sidecar', 'xmp', '--output-dir', tmp_path / 'xmp')[0] == 1
    made = tree(tmp_path / 'xmp')
    assert {os.path.join(folder, name.removesuffix('.xmp')) for name in made} == expected.keys()
    for name, content in made.items():
        found = ElementTree.fromstring(content).findall(
            f'{RDF}RDF/{RDF}Description/{{http://purl.org/dc/elements/1.1/}}description/{RDF}Alt/{RDF}li')
        caption = expected[os.path.join(folder, name.removesuffix('.xmp'))]
        assert [(li.text, *li.attrib.values()) for li in found] == [(caption, 'x-default')]


def test_two_images_that_differ_in_their_suffix(generate, folder):
    Image.new('RGB', (8, 8)).save(folder / 'day 1' / '01.bmp')
    Image.new('RGB', (8, 8)).save(folder / 'day 1' / '01.gif')
    expected = best_captions(generate, folder)
    status, _, err = generate(folder, '--sidecar', 'txt')
    assert status == 1 and err.splitlines()[0] == (
        f'{folder}/day 1/01.gif.txt: keeps the suffix of its image, because another image has the name without it; '
        'so do 1 others')
    for sidecar, image in (('01.txt', '01.bmp'), ('01.gif.txt', '01.gif'), ('01.png.txt', '01.png')):
        assert (folder / 'day 1' / sidecar).read_text() == expected[f'{folder}/day 1/{image}'] + '\n'
    (folder / '06.png').unlink()
    assert generate(folder, '--sidecar', 'txt')[2].startswith('all 21 images have a sidecar')


def test_one_that_cannot_be_written_does_not_end_the_run(generate, folder, monkeypatch):
    def write(self, result, write=Sidecars.write):
        if result.path.endswith('08.png'):
            raise PermissionError(errno.EACCES, 'Permission denied', result.path)
        write(self, result)
    monkeypatch.setattr(Sidecars, 'write', write)
    status, out, err = generate(folder, '--sidecar', 'txt')
    assert (status, out) == (1, '') and len(list(folder.rglob('*.txt'))) == 18
    assert f'{folder}/08.png: its sidecar cannot be written (Permission denied)\n' in err and err.count('\n') == 2


def test_a_folder_that_cannot_be_made(generate, refused, demo_model, folder, tmp_path):
    (tmp_path / 'into').mkdir()
    (tmp_path / 'into' / 'day 1').write_text('a file')
    (folder / '06.png').unlink()
    status, _, err = generate(folder, '--sidecar', 'txt', '--output-dir', tmp_path / 'into')
    assert status == 1 and err.count('its sidecar cannot be written (') == 10
    (tmp_path / 'file').write_text('a file')
    assert 'cannot be made' in refused('generate', '-m', demo_model, folder, '--sidecar', 'txt', '--output-dir',
                                       tmp_path / 'file')


@pytest.mark.parametrize('name', ['x' * 240, '\u72d7' * 80])
def test_names_as_long_as_the_system_allows(name, generate, folder, tmp_path):
    (folder / '00.png').rename(tmp_path / f'{name}.png')
    assert generate(tmp_path / f'{name}.png', '--sidecar', 'txt') == (0, '', '')
    assert generate(tmp_path / f'{name}.png', '--sidecar', 'txt', '--overwrite') == (0, '', '')
    assert (tmp_path / f'{name}.txt').read_text()
    for suffix in ('.jsonl', '.html'):
        assert generate(tmp_path / f'{name}.png', '-o', tmp_path / (name + suffix)) == (0, '', '')
    assert {os.path.splitext(path)[1] for path in os.listdir(tmp_path)} == {'.png', '.txt', '.jsonl', '.html', ''}


def test_a_limit_continues_with_the_next_images(generate, folder):
    (folder / '06.png').unlink()
    assert generate(folder, '--sidecar', 'txt', '--limit', 5) == (0, '', '')
    assert len(list(folder.rglob('*.txt'))) == 5
    assert generate(folder, '--sidecar', 'txt', '--limit', 5) == (0, '', '')
    assert len(list(folder.rglob('*.txt'))) == 10


def test_ctrl_c_tells_how_much_is_done(generate, folder, monkeypatch):
    (folder / '00.txt').write_text('there')
    (folder / '06.png').unlink()

    def write(self, result, write=Sidecars.write):
        if result.path.endswith('08.png'):
            raise KeyboardInterrupt
        write(self, result)
    monkeypatch.setattr(Sidecars, 'write', write)
    status, _, err = generate(folder, '--sidecar', 'txt')
    assert status == 130 and err == '\ngenerate.py: 3 of 19 images done; the same command continues\n'


def test_two_images_that_would_share_one(generate, refused, demo_model, folder, tmp_path):
    before = tree(folder)
    other, into = tmp_path / 'other', tmp_path / 'into'
    other.mkdir()
    Image.new('RGB', (8, 8)).save(other / '00.png')
    line = refused('generate', '-m', demo_model, folder, other, '--sidecar', 'xmp', '--output-dir', into)
    assert line.startswith(f'{folder}/00.png and {other}/00.png would share the sidecar {into}/00.png.xmp; ')
    assert tree(folder) == before and not into.exists()
    (folder / '06.png').unlink()
    assert generate(folder, folder / '00.png', os.path.join(folder, '.', '02.png'), '--sidecar', 'xmp')[0] == 0
    assert len(tree(folder)) == 2 * (len(before) - 1), 'the same image may be named twice'


def test_nothing_is_written_through_links(generate, refused, demo_model, folder, tmp_path):
    outside = tmp_path / 'outside'
    outside.mkdir()
    Image.new('RGB', (8, 8)).save(outside / 'a.png')
    command = 'generate', '-m', demo_model, folder, '--sidecar', 'txt'
    (folder / '00.txt').symlink_to(outside / 'new.txt')
    assert '00.txt: not a plain file' in refused(*command, '--overwrite')
    assert generate(*command[3:])[0] == 1
    assert not (outside / 'new.txt').exists(), 'a link counts as a sidecar'
    (folder / 'linked').symlink_to(outside)
    assert f'{folder}/linked/a.txt: a link leads out of {folder}; ' in refused(*command)
    (tmp_path / 'into' / 'x').mkdir(parents=True)
    (tmp_path / 'into' / 'linked').symlink_to(outside)
    assert f'/into/linked/a.txt: a link leads out of {tmp_path}/into' in refused(*command, '--output-dir',
                                                                                 tmp_path / 'into')
    assert generate(*command[3:], '--output-dir', tmp_path / 'fresh')[0] == 1
    assert (tmp_path / 'fresh' / 'linked' / 'a.txt').exists() and os.listdir(outside) == ['a.png']


@pytest.mark.parametrize(('options', 'reason'), [
    (['--sidecar', 'txt', '-o', 'x'], '--sidecar writes a caption beside each image, without --output'),
    (['--sidecar', 'txt', '--format', 'csv'], 'without --format'), (['--sidecar', 'txt', '--scores'], '--scores'),
    (['--output-dir', 'x'], '--output-dir belongs to --sidecar'), (['--overwrite'], '--overwrite belongs to --sidecar'),
    (['--sidecar', 'png'], '--sidecar png: not a suffix for captions'), (['--sidecar', 'a/b'], 'not a suffix'),
    (['--sidecar', '.'], 'not a suffix'), (['--sidecar', 'JPG'], 'not a suffix')])
def test_what_does_not_go_together(options, reason, refused, demo_model, folder):
    assert reason in refused('generate', '-m', demo_model, folder, *options)


def test_an_image_is_no_sidecar(refused, demo_model, folder):
    (folder / '00.png').rename(folder / 'a.txt')
    for more in [], ['--overwrite']:
        line = refused('generate', '-m', demo_model, folder / 'a.txt', '--sidecar', 'txt', *more)
        assert 'its sidecar would take the place of the image' in line


def test_metadata_lies_where_its_images_are(generate, refused, demo_model, folder, tmp_path):
    expected = best_captions(generate, folder)
    assert generate(folder, '--format', 'metadata', '-o', folder / 'metadata.jsonl')[0] == 1
    rows = list(map(json.loads, (folder / 'metadata.jsonl').read_text('utf-8').splitlines()))
    assert {os.path.join(folder, row['file_name']): row['text'] for row in rows} == expected
    (tmp_path / 'x').mkdir()
    line = refused('generate', '-m', demo_model, folder, '--format', 'metadata', '-o', tmp_path / 'x' / 'm.jsonl')
    assert line.startswith(f'{folder}/00.png: not below {tmp_path}/x, ')

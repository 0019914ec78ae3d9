"""Images are found in folders, and by the names that caption files give them."""
import pathlib
import sys

import pytest

from chainer_caption.features.folders import find_by_name, find_images, find_in_folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_are_walked(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'notes.txt', 'dataset.json', '.hidden.jpg', 'x.jpg/c.jpeg', 'x.jpg/deep/d.webp',
                 '.git/e.jpg', 'elsewhere.txt'):
        touch(tmp_path, name)
    (tmp_path / 'again').symlink_to(tmp_path / 'x.jpg')
    assert find_images([tmp_path / 'again']) == [str(tmp_path / 'again' / name) for name in ('c.jpeg', 'deep/d.webp')]
    (tmp_path / 'x.jpg' / 'loop').symlink_to(tmp_path)
    names = ['a.PNG', 'b.jpg', 'x.jpg/c.jpeg', 'x.jpg/deep/d.webp']
    assert find_images(tmp_path) == [str(tmp_path / name) for name in names]


def test_paths_of_files_are_taken_as_they_are(tmp_path):
    (tmp_path / 'folder').mkdir()
    for name in ('folder/a.jpg', 'image'):
        (tmp_path / name).touch()
    given = [tmp_path / 'image', str(tmp_path / 'missing.jpg'), tmp_path / 'folder', tmp_path / 'folder' / 'a.jpg']
    assert find_images(given) == [str(tmp_path / name) for name in ('folder/a.jpg', 'image', 'missing.jpg')]


def test_folders_of_copies_are_not_walked(tmp_path):
    touch(tmp_path, 'holiday.jpg', '._holiday.jpg', 'Thumbs.db', *(f'{folder}/holiday.jpg' for folder in (
        '@eaDir', '#recycle', '$RECYCLE.BIN', '__MACOSX', '.thumbnails', 'sub/@eaDir/holiday.jpg', '.hidden')))
    assert find_images(tmp_path) == [str(tmp_path / 'holiday.jpg')]
    assert find_images(tmp_path / '#recycle') == [str(tmp_path / '#recycle' / 'holiday.jpg')]


def test_types_that_are_not_read_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    touch(tmp_path, 'a.jpg', 'b.HEIC', 'c.heif', 'd/e.DNG', 'f.psd', 'notes.txt', '.g.psd', '@eaDir/h.psd')
    assert find_images([tmp_path, 'missing.heic']) == [str(tmp_path / 'a.jpg'), 'missing.heic']
    assert caplog.messages == [
        '4 files of types not read here were skipped (.heic, .heif: scripts/setup.sh heif; .dng, .psd)']
    caplog.clear()
    assert find_images(tmp_path / 'd') == []
    assert caplog.messages == ['1 file of a type not read here was skipped (.dng)']
    caplog.clear()
    find_in_folder(['a.jpg'], tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize(('wanted', 'names', 'found'), [
    ('Gr\u00fcn.jpg', ['Gru\u0308n.jpg', 'Grun.jpg'], 0), ('Gru\u0308n.jpg', ['Gr\u00fcn.jpg'], 0),
    ('1.jpg', ['1.JPG', '2.JPG'], 0), ('IMG.JPG', ['img.jpg', 'IMG.jpg'], None), ('IMG.jpg', ['img.jpg', 'IMG.jpg'], 1),
    ('images\\cats\\1.jpg', ['dogs/1.jpg', 'cats/1.jpg'], 1), ('cats\\1.jpg', ['1.jpg'], 0),
    ('1', ['1.jpg', '2.jpg'], 0), ('1', ['1.jpg', '1.png'], None), ('1.jpg', ['1.jpg.png'], None)])
def test_names_that_differ_in_spelling(wanted, names, found):
    assert find_by_name([wanted], names) == ({} if found is None else {wanted: names[found]})


def test_spellings_of_one_name_are_no_guess():
    assert find_by_name(['a.jpg', 'A.jpg'], ['a.JPG']) == {}
    assert find_by_name(['a.JPG', 'A.jpg'], ['a.JPG']) == {'a.JPG': 'a.JPG'}


def test_images_of_a_folder(tmp_path):
    touch(tmp_path, 'cats/1.JPG')
    assert find_in_folder(['1.jpg', '2.jpg'], pathlib.Path(tmp_path)) == {'1.jpg': str(tmp_path / 'cats/1.JPG')}

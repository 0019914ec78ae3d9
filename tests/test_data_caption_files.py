"""Captions in the layouts in which people have them become datasets, and no name in them leads to another file."""
import json

import pytest
from test_data_building import FakeExtractor, images_of, write_csv

from chainer_caption import Dataset, InputError
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.data.building import extract_features
from chainer_caption.data.caption_parsers import read_caption_file
from chainer_caption.report import open_writer
from chainer_caption.report.sidecars import sidecar

# As the files of the datasets have it, key by key.
COCO = {'images': [
    {'filepath': 'val2014', 'sentids': [770337], 'filename': '1.jpg', 'imgid': 0, 'split': 'test', 'cocoid': 391895,
     'sentences': [{'tokens': ['a', 'man', 'with', 'a', 'red', 'helmet'], 'raw': 'A man with a red helmet. ',
                    'imgid': 0, 'sentid': 770337}]},
    {'filepath': 'train2014', 'sentids': [1, 2], 'filename': '2.jpg', 'imgid': 1, 'split': 'train', 'cocoid': 57870,
     'sentences': [{'tokens': ["isn't", 'U.S.'], 'raw': "Isn't U.S.", 'imgid': 1, 'sentid': 1},
                   {'tokens': ['a', 'table'], 'raw': 'A table', 'imgid': 1, 'sentid': 2}]},
    {'filepath': 'val2014', 'sentids': [3], 'filename': '2.jpg', 'imgid': 2, 'split': 'restval', 'cocoid': 522418,
     'sentences': [{'tokens': ['cake'], 'raw': 'Cake', 'imgid': 2, 'sentid': 3}]}], 'dataset': 'coco'}
FLICKR8K = {'images': [
    {'sentids': [0], 'imgid': 0, 'sentences': [{'tokens': ['a', 'dog'], 'raw': 'A dog .', 'imgid': 0, 'sentid': 0}],
     'split': 'val', 'filename': '1.jpg'}], 'dataset': 'flickr8k'}

TOKENS = ('1.jpg#0\tA child in a pink dress is climbing up a set of stairs in an entry way .\n'
          '1.jpg#1\tA girl going into a wooden building .\n2.jpg#0\tTwo dogs , #1\tand a bone .\n')


@pytest.fixture
def images(tmp_path):
    """Three images in two folders, two of which have the same name."""
    for name in 'val2014/1.jpg', 'val2014/2.jpg', 'train2014/2.jpg':
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'image')
    return tmp_path / 'images'


@pytest.fixture
def made_of(images, tmp_path):
    """The entries of the dataset that is made of the images with captions."""
    def make(captions):
        extract_features(images, tmp_path / 'dataset', FakeExtractor(), captions)
        Dataset(tmp_path / 'dataset')
        return {image['filename']: image for image in images_of(tmp_path / 'dataset')}
    return make


def spoken(images):
    return {name: [sentence['raw'] for sentence in image['sentences']] for name, image in images.items()}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    return path


@pytest.mark.parametrize('name', ['dataset_coco.json', 'splits'])
def test_karpathys_splits(name, made_of, tmp_path):
    images = made_of(write(tmp_path / name, COCO))
    assert {name: (image['split'], image['cocoid'], [sentence['tokens'] for sentence in image['sentences']])
            for name, image in images.items()} == {
        'train2014/2.jpg': ('train', 57870, [["isn't", 'U.S.'], ['a', 'table']]),
        'val2014/1.jpg': ('test', 391895, [['a', 'man', 'with', 'a', 'red', 'helmet']]),
        'val2014/2.jpg': ('restval', 522418, [['cake']])}
    assert spoken(images)['val2014/1.jpg'] == ['A man with a red helmet. ']


def test_karpathys_splits_without_folders(made_of, tmp_path):
    images = made_of(write(tmp_path / 'dataset_flickr8k.json', FLICKR8K))
    assert [(name, image['split'], image.get('cocoid')) for name, image in images.items()] == \
        [('val2014/1.jpg', 'val', None)]


def test_a_genuine_dataset_is_read_to_the_last_word(shared):
    path = shared / 'flickr8k' / 'dataset.json'
    found, expected = read_caption_file(path), json.loads(path.read_text(encoding='utf-8'))['images']
    assert len(found) == len(expected) == 8000
    for image in expected:
        of = found[image['filename']]
        assert of.split == image['split']
        assert list(zip(of.captions, of.tokens, strict=True)) == [(s['raw'], s['tokens']) for s in image['sentences']]


def test_flickrs_tokens(made_of, images, tmp_path):
    (images / 'train2014' / '2.jpg').unlink()
    images = made_of(write(tmp_path / 'Flickr8k.token.txt', '\ufeff' + TOKENS.replace('\n', '\r\n')))
    assert spoken(images) == {
        'val2014/1.jpg': ['A child in a pink dress is climbing up a set of stairs in an entry way .',
                          'A girl going into a wooden building .'],
        'val2014/2.jpg': ['Two dogs , #1\tand a bone .']}
    assert images['val2014/2.jpg']['sentences'][0]['tokens'] == ['two', 'dogs', '1', 'and', 'a', 'bone']


def test_the_metadata_of_an_image_folder(made_of, tmp_path):
    rows = [{'file_name': 'val2014/1.jpg', 'text': 'A dog', 'split': 'validation', 'width': 5},
            {'file_name': './train2014/2.jpg', 'caption_0': 'One', 'caption_1': 'Two\u2028', 'caption_2': None},
            {'file_name': 'val2014/2.jpg', 'captions': ['Three', 'Four'], 'additional_feature': 'x'}]
    images = made_of(write(tmp_path / 'metadata.jsonl', '\n'.join(map(json.dumps, rows))))
    assert spoken(images) == {'train2014/2.jpg': ['One', 'Two\u2028'], 'val2014/1.jpg': ['A dog'],
                              'val2014/2.jpg': ['Three', 'Four']}
    assert images['val2014/1.jpg']['split'] == 'val'


def test_what_generate_writes_is_read_back(made_of, images, tmp_path):
    said = {'train2014/2.jpg': 'a dog', 'val2014/1.jpg': 'chó 狗', 'val2014/2.jpg': 'two dogs'}
    with open_writer('metadata', images / 'metadata.jsonl', folder=str(images)) as writer:
        for name, text in said.items():
            path = images / name
            writer.write(Result(str(path), name, captions=[Caption(text.split(), -1.0, -0.5, True)]))
            path.with_suffix('.txt').write_text(sidecar('txt', text), encoding='utf-8')
    expected = {name: [text] for name, text in said.items()}
    assert spoken(made_of(images / 'metadata.jsonl')) == spoken(made_of(images)) == expected


def test_text_files_in_a_folder(made_of, images, tmp_path):
    folder = tmp_path / 'captions' / 'val2014'
    folder.mkdir(parents=True)
    write(folder / '1.txt', '\ufeffA dog runs.\r\n\n  Two words \n')
    write(folder / '9.txt', 'Of no image.')
    assert spoken(made_of(folder.parent)) == {'val2014/1.jpg': ['A dog runs.', 'Two words']}
    (images / 'val2014' / '1.png').write_bytes(b'image')
    with pytest.raises(InputError, match=r'1\.txt: could be of val2014/1\.jpg and of val2014/1\.png; rename one'):
        read_caption_file(folder.parent, ['val2014/1.jpg', 'val2014/1.png'])


def test_no_name_leads_to_another_file(made_of, images, tmp_path):
    secret = write(tmp_path / 'secret.txt', 'secret')
    (tmp_path / '1.jpg').write_bytes(b'image')
    for name in '../1.jpg', str(tmp_path / '1.jpg'), 'val2014/../../1.jpg':
        for captions in (write_csv(tmp_path / 'c', [f'{name},x']),
                         write(tmp_path / 'd', {'images': [{**FLICKR8K['images'][0], 'filename': name}]}),
                         write(tmp_path / 'e', {'images': [{**COCO['images'][0], 'filepath': '/', 'filename': name}]}),
                         write(tmp_path / 'f', f'{name}#0\tx\n'),
                         write(tmp_path / 'g', json.dumps({'file_name': name, 'text': 'x'}))):
            with pytest.raises(InputError, match='describes no image of the folder; the first it names is'):
                made_of(captions)
    (images / 'val2014' / '1.txt').symlink_to(secret)
    with pytest.raises(InputError, match=r'val2014/1\.txt: a link leads out of .*images; copy the file there'):
        made_of(images)
    (images / 'val2014' / '1.txt').unlink()
    (tmp_path / 'captions').mkdir()
    (tmp_path / 'captions' / 'val2014').symlink_to(images / 'val2014')
    write(images / 'val2014' / '2.txt', 'x')
    with pytest.raises(InputError, match='a link leads out of'):
        made_of(tmp_path / 'captions')


IMAGE = {'filename': 'a', 'split': 'val', 'sentences': []}


@pytest.mark.parametrize(('content', 'reason'), [
    ('', 'no captions in a format known here: metadata.jsonl .*; CSV .*; or a folder with a .txt'),
    ('a dog\n', 'no captions in a format known here'), ('\x89PNG', 'no captions in a format known here'),
    ({'images': [{**IMAGE, 'split': 'dev'}]}, r'images\[0\]: the split "dev" is none of train'),
    ({'images': [IMAGE, IMAGE]}, r'images\[1\]: a is there twice'),
    ({'images': [IMAGE, {}]}, r'images\[1\] has no string "filename"'),
    ({'images': [{**IMAGE, 'filepath': 5}]}, r'images\[0\]: its "filepath" is no string'),
    ({'images': [{**IMAGE, 'sentences': [{'tokens': ['a', 5]}]}]}, r'images\[0\].sentences\[0\] has no list "tokens"'),
    ('{"file_name": "a", "text": "b"}\n{"text": "x"}', 'line 2 has no string "file_name"'),
    ('{"file_name": "a", "text": "b"}\n{"file', 'line 2: no JSON'),
    ('{"file_name": "a", "width": 1}', 'line 1 has no captions'),
    ('{"file_name": "a", "text": [1]}', 'line 1: a caption that is no string'),
    ('{"file_name": "a", "text": "x", "split": "all"}', 'line 1: the split "all" is none of'),
    ('{"file_name": "a", "text": "", "split": "val"}\n{"file_name": "a", "text": ""}', 'line 2: a is of the split val'),
    ('a.jpg#0\tx\n\na.jpg x\n', 'line 3 is not a name, #, a number, a tab and a caption')])
def test_what_is_wrong_with_a_file(content, reason, tmp_path):
    with pytest.raises(InputError, match=reason) as caught:
        read_caption_file(write(tmp_path / 'captions', content))
    assert str(caught.value).startswith(f'{tmp_path}/captions: ') and '\n' not in str(caught.value)

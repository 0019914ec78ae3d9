"""Captions in the formats in which people keep them become datasets, and no name in them leads to another file."""
import codecs
import json
import os
import re

import pytest
from test_data_building import FakeExtractor, images_of, write_csv

from chainer_caption import Dataset, InputError
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.data.building import extract_features
from chainer_caption.data.caption_parsers import match_images, read_caption_file
from chainer_caption.features.folders import find_images
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
    with pytest.raises(InputError,
            match=r'1\.txt: could be of val2014/1\.jpg and of val2014/1\.png; rename one of them'):
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



# Every format that is read

IMAGES = ['DSC_2.JPG', 'Café.jpg', 'COCO_val2014_000000391895.jpg', 'four.jpeg', 'sub/three.jpg', '1000268.jpg']
DOG, BOTH = {'four.jpeg': ['a dog']}, {'four.jpeg': ['a dog'], 'DSC_2.JPG': ['a cat']}
ROWS = [{'image': 'four.jpeg', 'caption': 'a dog'}, {'image': 'DSC_2.JPG', 'caption': 'a cat'}]
IN_COCO = {'images': [{'id': 1, 'file_name': 'four.jpeg'}, {'id': 2, 'file_name': 'DSC_2.JPG'}],
           'annotations': [{'image_id': 1, 'caption': 'a dog'}, {'image_id': 2, 'caption': 'a cat'}]}
TWO = 'four.jpeg{0}a dog\nDSC_2.JPG{0}a cat\n'
KINDS = {
    # Tables
    **{f'{name}, {caption}': (f'{name},{caption}\nfour.jpeg,a dog\n', DOG) for name, caption in (
        ('filename', 'caption'), ('image', 'caption'), ('image_name', 'comment'), ('Image Path', 'Text'),
        ('file', 'description'), ('FILE_NAME', 'Captions'), (' filepath ', ' sentence '), ('imageName', 'prompt'),
        ('img', 'raw'), ('image-id', 'caption_0'), ('Bild', 'Beschreibung'), ('画像', '説明'), ('unknown', 'column'))},
    **{f'header, {d!r}': (f'image{d}caption\n' + TWO.format(d), BOTH) for d in ',;\t|'},
    **{f'no header, {d!r}': (TWO.format(d), BOTH) for d in (',', ';', '\t', '|', ' ', ': ', ' -> ')},
    'padded': ('image_name| comment_number| comment\nfour.jpeg| 0| a dog\nDSC_2.JPG| 0|  a cat\n', BOTH),
    'an index column': (',image,caption\n0,four.jpeg,a dog\n1,DSC_2.JPG,a cat\n', BOTH),
    'columns of which values show the meaning': (
        'id,Datei,Text auf Deutsch\n1,four.jpeg,ein Hund\n2,DSC_2.JPG,eine Katze',
                                                 {'four.jpeg': ['ein Hund'], 'DSC_2.JPG': ['eine Katze']}),
    'url and name': ('url,image_id,caption\nhttp://x/1.jpg,four.jpeg,a dog\nhttp://x/2.jpg,DSC_2.JPG,a cat\n', BOTH),
    'names without suffix': ('image,caption\nfour,a dog\nDSC_2,a cat\n', BOTH),
    'names without suffix or header': ('four a dog\nDSC_2 a cat\n', BOTH),
    'a broken row': ('image|n|caption\nfour.jpeg|0|a dog\nDSC_2.JPG|0   a cat\nDSC_2.JPG|1|a cat\n', BOTH),
    'commas without quotes': ('image,caption\nfour.jpeg,a dog, and a ball\n', {'four.jpeg': ['a dog, and a ball']}),
    'commas without quotes, split last': ('image,caption,split\nfour.jpeg,a dog, a ball,train\n',
                                          {'four.jpeg': ['a dog, a ball']}),
    'commas without quotes or header': ('four.jpeg,a dog, and a ball\nDSC_2.JPG,a cat\n',
                                        {'four.jpeg': ['a dog, and a ball'], 'DSC_2.JPG': ['a cat']}),
    'quotes': ('image,caption\n"four.jpeg", "a ""red"" dog, sits"\n', {'four.jpeg': ['a "red" dog, sits']}),
    'quotes with backslashes': ('image,caption\nfour.jpeg,"a \\"red\\" dog, sits"\n',
        {'four.jpeg': ['a "red" dog, sits']}),
    'stray quotes': ('image,caption\nfour.jpeg,"a dog\nDSC_2.JPG,"a 5"" cat, sits"\nsub/three.jpg,"x" y\n',
                     {'four.jpeg': ['a dog'], 'DSC_2.JPG': ['a 5" cat, sits'], 'sub/three.jpg': ['"x" y']}),
    'a line break in quotes': ('image,caption\nfour.jpeg,"a dog\nsits"\n', {'four.jpeg': ['a dog\nsits']}),
    'old line ends': ('image,caption\rfour.jpeg,a dog\r', DOG),
        "Excel's first line": ('sep=;\nimage;caption\nfour.jpeg;a dog\n', DOG),
    'wide': ('image,caption_0,caption_1\nfour.jpeg,a dog,two dogs\n', {'four.jpeg': ['a dog', 'two dogs']}),
    'equal headers': ('image,caption,caption\nfour.jpeg,a dog,two dogs\n', {'four.jpeg': ['a dog', 'two dogs']}),
    'lists in cells': ('raw,sentids,split,filename,img_id\n"[""a dog"", ""two, dogs""]","[0, 1]",train,four.jpeg,0\n',
                       {'four.jpeg': ['a dog', 'two, dogs']}),
    "lists in cells, Python's": ("filename\traw\nfour.jpeg\t['a dog', \"two\"]\n", {'four.jpeg': ['a dog', 'two']}),
    'an object in a cell': ("image,text\n\"{'bytes': None, 'path': 'four.jpeg'}\",a dog\n", DOG),
    'names of images in second place': ('nr;Datei;Text auf Deutsch;Quelle\n1;four.jpeg;ein Hund;flickr\n', {
        'four.jpeg': ['ein Hund']}),
    'empty cells': ('image,caption\nfour.jpeg,a dog\nDSC_2.JPG,\nDSC_2.JPG,NaN\n', DOG),
    'UTF-16': (codecs.BOM_UTF16_LE + 'image\tcaption\r\nCafé.jpg\ta dog'.encode('utf-16-le'), {'Café.jpg': ['a dog']}),
    'UTF-16 without a mark': ('image,caption\nfour.jpeg,a dog'.encode('utf-16-le'), DOG),
    'UTF-8 with a mark': (codecs.BOM_UTF8 + b'image,caption\nfour.jpeg,a dog', DOG),
    'cp1252': (b'image,caption\nfour.jpeg,the dog\x92s ball\n', {'four.jpeg': ['the dog\u2019s ball']}),
    'one path in two spellings': (
        'image,caption\nsub/three.jpg,one\n./sub/three.jpg,two\nC:\\x\\sub\\three.jpg,three\n',
                                  {'sub/three.jpg': ['one', 'two', 'three']}),
    'URLs': ('image,caption\nhttps://h/x/four.jpeg?w=3,a dog\nfile:///C%3A/DSC_2.JPG,a cat\n', BOTH),
    'our CSV': ("filename,rank,caption,log_prob,log_prob_per_token,finished,error\nfour.jpeg,1,a dog,-1,-1,true,\n"
                "four.jpeg,2,'=dog,-1,-1,true,\nDSC_2.JPG,,,,,,no image\n", {'four.jpeg': ['a dog', '=dog']}),
    'our text': ('# four.jpeg\na dog\ntwo dogs (p=0.040413)\n# x.jpg\n! no image\n', {'four.jpeg': ['a dog',
        'two dogs']}),
    # JSON
    'list': (ROWS, BOTH), 'lines': ('\n'.join(map(json.dumps, ROWS)), BOTH), 'one line': (json.dumps(ROWS[0]) + '\n',
        DOG),
    'an object for each name': ({'/data/four.jpeg': {'caption': 'a dog', 'tags': 'x'}, 'DSC_2': {'caption': 'a cat'}},
        BOTH),
    'captions for each name': ({'four.jpeg': 'a dog', 'DSC_2.JPG': ['a cat']}, BOTH),
    'objects for each name': ({'four.jpeg': [{'caption': 'a dog'}], 'DSC_2.JPG': [{'raw': 'a cat'}]}, BOTH),
    'one list in an object': ({'info': {}, 'data': ROWS}, BOTH), 'splits of lists': ({'train': ROWS[:1],
        'dev': ROWS[1:]}, BOTH),
    'splits of objects': ({'train': {'four.jpeg': 'a dog'}, 'test': {'DSC_2.JPG': 'a cat'}}, BOTH),
    'lists for each column': ({'image': ['four.jpeg', 'DSC_2.JPG'], 'caption': ['a dog', 'a cat']}, BOTH),
    'objects for each column': ({'image': {'0': 'four.jpeg', '1': 'DSC_2.JPG'}, 'caption': {'0': 'a dog',
        '1': 'a cat'}}, BOTH),
    'columns and data': ({'columns': ['image', 'caption'], 'index': [0], 'data': [['four.jpeg', 'a dog']]}, DOG),
    'list of lists': ([['four.jpeg', 'a dog'], ['DSC_2.JPG', 'a cat']], BOTH),
    'file_path and captions': ([{'file_path': 'x/four.jpeg', 'captions': ['a dog'], 'id': 7}], DOG),
    'conversations': ([{'id': '1', 'image': 'four.jpeg', 'conversations': [
        {'from': 'human', 'value': '<image>\nWhat is it?'}, {'from': 'gpt', 'value': 'a dog'},
        {'from': 'human', 'value': 'Is it red?'}, {'from': 'gpt', 'value': 'no'}]}], DOG),
    'messages': ([{'images': ['four.jpeg'], 'messages': [{'role': 'user', 'content': '<image>'}, {
        'role': 'assistant', 'content': [{'type': 'text', 'text': 'a dog'}]}]}], DOG),
    'several': ([{'image_path': 'four.jpeg', 'reference_strs': ['a dog', 'two dogs'], 'image_id': 'x'}],
                {'four.jpeg': ['a dog', 'two dogs']}),
    'an image as an object': ([{'image': {'bytes': None, 'path': 'four.jpeg'}, 'text': 'a dog'}], DOG),
    'numbers as names': ([{'image_id': 1000268, 'caption': 'a dog'}, {'image_id': 391895, 'caption': 'a cat'}],
                         {'1000268.jpg': ['a dog'], 'COCO_val2014_000000391895.jpg': ['a cat']}),
    'null and NaN': ('[{"image": "four.jpeg", "caption": "a dog"}, {"image": "DSC_2.JPG", "caption": NaN}, '
                     '{"image": "DSC_2.JPG", "caption": null}]', DOG),
    'our JSON lines': (json.dumps({'filename': 'four.jpeg', 'image_id': 3, 'captions': [
        {'caption': 'a dog', 'tokens': ['a', 'dog'], 'log_prob': -1}]}) + '\n{"filename": "x", "error": "no image"}\n',
            DOG),
    # COCO's
    'COCO': (IN_COCO, BOTH),
    'COCO, ids of other types': ({'images': [{'id': 1.0, 'file_name': 'train/four.jpeg'}],
                                  'annotations': [{'image_id': '1', 'caption': 'a dog'}]}, DOG),
    'COCO, URLs': ({**IN_COCO, 'images': [{'id': 1, 'coco_url': 'http://h/four.jpeg'}, {'id': 2,
        'path': 'DSC_2.JPG'}]}, BOTH),
    'COCO, one file twice': ({**IN_COCO, 'images': [{'id': i, 'file_name': 'four.jpeg'} for i in (1, 2)]},
                             {'four.jpeg': ['a dog', 'a cat']}),
    'COCO, an annotation without image': ({**IN_COCO, 'images': IN_COCO['images'][:1]}, DOG),
    'a language in the name': ('four.jpeg#zhb#0 a dog\nDSC_2.JPG#zhb#0 a cat\n', BOTH),
    'VizWiz': ({**IN_COCO, 'annotations': [*IN_COCO['annotations'], {'image_id': 1, 'caption': 'x',
        'is_rejected': True}]}, BOTH),
}
# The wording of a notice for each kind that has one.
NOTICES = {
    'a broken row': '1 of 3 records are skipped: line 3 has fewer columns than the first line (in all 1)',
    'cp1252': 'not UTF-8; read as Windows-1252', 'null and NaN': '[1] has no caption of DSC_2.JPG (in all 2)',
    'empty cells': '2 of 3 records are skipped: line 3 has no caption of DSC_2.JPG (in all 2)',
    'our CSV': 'line 4 has no caption of DSC_2.JPG (no image) (in all 1)',
    'our text': 'line 4 has no caption of x.jpg (no image)', 'our JSON lines': 'line 2 has no caption of x (no image)',
    'COCO, an annotation without image': 'annotations[1] is of an image that the file does not list (in all 1)',
    'VizWiz': 'annotations[2] is marked as rejected (in all 1)'}


def captions_of(path, images, say=lambda line: None):
    """Captions and splits by image, of a file and the names of the images that there are."""
    described, found = read_caption_file(path, images, say), {}
    matched = match_images(described, images)
    for name, of in described.items():
        if name in matched:
            found.setdefault(matched[name], []).extend(of.captions)
    return found, {matched[name]: of.split for name, of in described.items() if name in matched}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file(kind, tmp_path):
    content, expected = KINDS[kind]
    path, said = tmp_path / 'file', []
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    assert captions_of(path, IMAGES, said.append)[0] == expected
    if kind in NOTICES:
        assert len(said) == 1 and NOTICES[kind] in said[0], said
    else:
        assert not said


@pytest.mark.parametrize(('given', 'split'), [
    ('train', 'train'), ('Training', 'train'), ('train2014', 'train'), ('restval', 'restval'), ('validation', 'val'),
    ('VALID', 'val'), ('dev', 'val'), (' Testing ', 'test'), ('test_set', 'test'), ('', None), ('NaN', None)])
def test_splits(given, split, tmp_path):
    for content in (f'image,caption,split\nfour.jpeg,a dog,{given}\n', [{**ROWS[0], 'Split': given}],
                    {**IN_COCO, 'images': [{**image, 'split': given} for image in IN_COCO['images']]}):
        assert captions_of(write(tmp_path / 'file', content), IMAGES)[1]['four.jpeg'] == split
    if split is not None:
        assert set(captions_of(write(tmp_path / 'file', {given: ROWS}), IMAGES)[1].values()) == {split}


def test_two_images_of_one_name_are_not_confused(tmp_path):
    path = write(tmp_path / 'file', 'image,caption\na/3.jpg,one\nb/3.jpg,two\n')
    assert captions_of(path, ['3.jpg'])[0] == {}
    assert captions_of(path, ['b/3.jpg', 'a/3.jpg'])[0] == {'a/3.jpg': ['one'], 'b/3.jpg': ['two']}
    assert match_images(['four', '7'], ['four.jpg', 'four.png', 'a_7.jpg']) == {}


@pytest.mark.parametrize('name', ['a.txt', 'a.caption', 'a.jpg.txt', 'metadata.csv', 'captions.json'])
def test_files_in_a_folder(name, tmp_path):
    write(tmp_path / name, {'a.jpg': 'a dog'} if name.endswith('json') else 'image,text\na.jpg,a dog\n' if 'csv' in name
          else 'a dog\n')
    assert read_caption_file(tmp_path, ['a.jpg', 'b.jpg'])['a.jpg'].captions == ['a dog']


def test_empty_sidecars(tmp_path):
    for name in 'ab':
        write(tmp_path / f'{name}.txt', ' \n')
    with pytest.raises(InputError, match=r'all 2 files with captions \(a\.txt, …\) are empty'):
        read_caption_file(tmp_path, ['a.jpg', 'b.jpg'])
    write(tmp_path / 'a.txt', 'a dog')
    said = []
    assert read_caption_file(tmp_path, ['a.jpg', 'b.jpg'], said.append)['a.jpg'].captions == ['a dog']
    assert said == [f'{tmp_path}: 1 files with captions are empty']


IMAGE = {'filename': 'a', 'split': 'val', 'sentences': [{'raw': 'x', 'tokens': ['x']}]}


@pytest.mark.parametrize(('content', 'reason'), [
    ('', 'no captions in it, the file is empty'), ('filename,caption\n', 'no captions in it'),
    ('a dog\n', "no column of image names or captions; the columns are 'a dog'; expected one for the image"),
    ('a.jpg\nb.jpg\n', 'no column of image names or captions'), ('name,width\na.jpg,5\n',
        "captions; the columns are 'name', 'width';"),
    ('caption,text\na,b\n', "no column of image names; the columns are 'caption', 'text'"),
    ('image,caption_de,caption_fr\na.jpg,ein Hund,un chien\n', "'image', 'caption_de', 'caption_fr'"),
    ('image,label\na.jpg,dog\nb.jpg,cat\n', "no column of captions; the columns are 'image', 'label'"),
    (b'\x89PNG', 'is an image'), (b'PK\x03\x04', 'is an archive or an Excel workbook; save the captions as CSV'),
    ('文件,描述\n一个女人坐在椅子上,一个女人坐在椅子上一个女人\n'.encode('gbk') * 3, 'not UTF-8; save it as UTF-8'),
    ({'images': [{**IMAGE, 'split': 'all'}]}, r'images\[0\]: the split "all" is none of train'),
    ({'images': [IMAGE, {**IMAGE, 'split': 'test'}]}, r'images\[1\]: a: is of the split val and of test'),
    ({'images': [IMAGE, {}]}, r'images\[1\] names no image by'),
    ({'images': [{**IMAGE, 'sentences': [5]}]}, r'images\[0\] has a caption that is no text: 5'),
    ({'images': [{'id': 1}]}, "the columns are 'id'"), ([], 'no captions in it'), ('{', 'cut short'), ('5',
        'no column of'),
    ({'images': [{'id': 1}], 'annotations': [{'image_id': 1, 'caption': 'x'}]},
        r'images\[0\] has no "file_name"; it has'),
    ({**IN_COCO, 'annotations': [{'image_id': 1, 'bbox': [0, 1]}]}, "captions; the columns are 'image_id', 'bbox'"),
    ({**IN_COCO, 'annotations': [{'image_id': 9, 'caption': 'x'}]},
        r'no captions in it; annotations\[0\] is of an image'),
    ({**IN_COCO, 'images': [{'id': 1, 'file_name': name} for name in 'ab']}, r'images\[1\]: the id 1 is of a and of b'),
    ('{"file_name": "a", "text": "b"}\n{"text": "x"}', 'line 2 names no image by'),
    ('{"file_name": "a", "text": "b"}\n{"file', 'line 2 is no JSON'),
    ('{"file_name": "a", "width": 1}', "the columns are 'file_name', 'width'"),
    ('{"file_name": "a", "text": [1]}', 'line 1 has a caption that is no text'),
    ('{"file_name": "a", "text": "x", "split": "all"}', 'line 1: the split "all" is none of'),
    ('image,caption,split\na,b,val\na,b,test\n', 'line 3: a: is of the split val and of test'),
    ('image,caption\na.jpg\nb.jpg\n', 'line 2 has fewer columns than the first line'),
    ('image,caption\n,one\n', "line 2 names no image by 'image'"),
    ('image,caption_0,caption_1\na.jpg,x,y,z\n', 'line 2 has more columns than the first line'),
    ('a.jpg#0\tx\n\nb.jpg\n', 'line 3 has fewer columns')])
def test_refused_files(content, reason, tmp_path):
    path = tmp_path / 'captions'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content)
    with pytest.raises(InputError, match=reason) as caught:
        read_caption_file(path)
    assert str(caught.value).startswith(f'{tmp_path}/captions: ') and '\n' not in str(caught.value)


# Files as they are in public repositories

GRASS, BALL = 'a dog runs over the grass', 'two children play , one of them with a ball'
SIX = ['1000268.jpg', '1001773.jpg', '1002674.jpg', '1003163.jpg', '1007129.jpg', '1007320.jpg']
FIVE = [GRASS, BALL, 'a man in a red coat stands', 'a girl paints a "rainbow"', 'a cat on a wall']


def same(keys, value):
    return {key: value for key in keys}                 # noqa: C420 (the value is a list, which is not changed)


CASES = {
    **same((f'coco/{name}.json' for name in (
        'annotation-without-image', 'file-name-with-folder', 'float-ids', 'sound', 'string-ids', 'vizwiz')), [GRASS]),
    'coco/caption-null.json': same(SIX[:5], [GRASS]), 'coco/latin1.json': ['un café'],
    'coco/same-file-two-ids.json': {SIX[0]: [f'the {n} caption of this picture' for n in ('first', 'second')],
                                    SIX[1]: ['another picture']},
    'coco/same-file-with-folder.json': {SIX[0]: ['first', 'second']},
        'coco/same-id-same-file.json': {SIX[0]: ['a dog']},
    'coco/same-id-two-files.json': 'the id 1 is of 1000268.jpg and of 1001773.jpg',
    'coco/instances.json': "the columns are 'id', 'image_id', 'category_id', 'bbox'",
    'coco/test-info-only.json': "no column of captions; the columns are 'id', 'file_name'",
    'coco/pictures/metadata.jsonl': None,
    'flickr30k-results/results.csv': {
        name: [caption + ' .' for caption in FIVE][:4 + (name != SIX[3])] for name in SIX},
    **same((f'kaggle-captions/{name}' for name in ('captions.csv', 'captions.txt', 'renamed.csv')), FIVE),
    **same((f'json-lists/{name}' for name in ('kohya-meta.json', 'lavis.json', 'llava.jsonl')), [GRASS]),
    **same((f'json-lists/{name}' for name in ('name-to-captions.json', 'nt2-raw.json')), [GRASS, BALL]),
    'json-lists/aichallenger.json': ['一个女人坐在椅子上', '女人坐着'],
    **same((f'metadata-csv/{name}' for name in (
        'metadata-bom.jsonl', 'metadata-image.jsonl', 'pictures/metadata.csv')), [GRASS]),
    'metadata-csv/wide.csv': [GRASS, FIVE[2]],
    **same((f'names/{name}' for name in ('capitals.csv', 'semicolon.csv', 'spaces.csv', 'tab.tsv', 'url.csv',
                                                  'utf16.csv', 'windows-absolute.csv')), DOG),
    **same((f'names/{name}.csv' for name in ('no-suffix', 'splits', 'splits-capital', 'splits-empty')), BOTH),
    **same((f'names/{name}.csv' for name in ('empty-caption', 'nan')), {'DSC_2.JPG': ['a cat']}),
    'names/backslash.csv': {'sub/three.jpg': ['a dog'], 'four.jpeg': ['a cat']},
    'names/cp1252.csv': {'four.jpeg': ['the dog\u2019s ball']},
        'names/unquoted-comma.csv': {'four.jpeg': ['a dog, and a ball']},
    'names/stray-quote.csv': {'four.jpeg': ['a 5" dog'], 'DSC_2.JPG': ['a cat']},
    **same(('names/case.csv', 'names/nfd.csv'), {'Café.jpg': ['a dog'], 'DSC_2.JPG': ['a cat']})}


@pytest.mark.parametrize('case', CASES)
def test_files_of_public_repositories(case, shared):
    path, expected = shared.parent / 'cases' / case, CASES[case]
    if not path.exists():
        pytest.skip('needs ../shared/cases')
    folder = shared.parent / 'cases' / case.split('/')[0] / 'pictures'
    names = [os.path.relpath(image, folder) for image in find_images(folder)]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=re.escape(expected)):
            read_caption_file(path, names)
        return
    found, splits = captions_of(path, names)
    if expected is None:
        assert len(found) == 6
    else:
        assert found == (expected if isinstance(expected, dict) else same(SIX, expected))
    assert set(splits.values()) == {'splits.csv': {'train', 'val'}, 'splits-capital.csv': {'train', 'test'},
            'wide.csv': {
        'val'}, 'splits-empty.csv': {None, 'test'}}.get(path.name, {None})

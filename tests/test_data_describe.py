"""The description of a dataset: its figures, and each usual fault where it is planted and nowhere else."""
import json

import numpy as np
import pytest

from chainer_caption import Dataset, Vocabulary
from chainer_caption.data.batches import MAX_WORDS, CaptionDataset
from chainer_caption.data.describe import describe, find_faults

SPLITS = ['train'] * 240 + ['restval'] * 20 + ['val'] * 20 + ['test'] * 20


@pytest.fixture
def clean(tmp_path):
    """A factory of datasets without faults but for what `change(images, features)` makes of them."""
    rng = np.random.default_rng(0)
    words = [f'{a}{b}{c}' for a in 'bdkl' for b in 'aeiou' for c in 'mnrst'] + ["'s", 'u.s.', 'well-known', 'm\xfcde']
    images = [{'filename': f'{i:03}.jpg', 'imgid': len(SPLITS) - 1 - i, 'split': split, 'sentences': [
        {'tokens': rng.choice(words, 3 + j).tolist(), 'raw': ''} for j in range(5)]} for i, split in enumerate(SPLITS)]
    features = np.maximum(rng.normal(size=(len(SPLITS), 12)), 0)
    features[:, 0] += 0.5

    def make(change=lambda images, features: None):
        change(images, features)
        folder = tmp_path / 'dataset'
        folder.mkdir(exist_ok=True)
        (folder / 'dataset.json').write_text(json.dumps({'images': images}))
        np.save(folder / 'feats.npy', features.astype(np.float32))
        return folder
    return make


def test_a_clean_dataset_has_no_faults(clean):
    assert find_faults(Dataset(clean())) == []


def tokens(*changed):
    """Gives the first tokens of a training image's captions."""
    def change(images, features):
        for sentence, words in zip(images[7]['sentences'], changed, strict=False):
            sentence['tokens'] = words
    return change


def duplicate_names(images, features):
    images[3]['filename'] = images[9]['filename']


def no_captions(images, features):
    images[3]['sentences'] = images[4]['sentences'] = []


def no_split(name):
    def change(images, features):
        for image in images:
            image['split'] = 'train' if image['split'] == name else image['split']
    return change


def few(images, features):
    for image in images:
        image['sentences'] = image['sentences'][:2]


def shared_captions(split):
    def change(images, features):
        there = [image for image in images if image['split'] == split]
        for image, source in zip(there[:5], images, strict=False):
            image['sentences'][1:4] = source['sentences'][2:5]
    return change


def same_rows(*places, value=None):
    def change(images, features):
        rows = [images[i]['imgid'] for i in places]
        features[rows] = features[rows[0]] if value is None else value
    return change


@pytest.mark.parametrize('change, fault, count, example', [
    (duplicate_names, 'duplicate file names', 1, '009.jpg'),
    (no_captions, 'images without captions', 2, '003.jpg'),
    (tokens([], []), 'empty captions', 2, '007.jpg'),
    (tokens(['bam'] * (MAX_WORDS + 1), ['bam'] * MAX_WORDS), 'long captions', 1, '007.jpg'),
    (tokens(['A', 'bam'], ['A', 'Bam']), 'upper case', 3, "'A'"),
    (tokens(['bam', '.'], ['bam', ',', 'ben.'], ['bam', '.'], ['bam', '\u3002']), 'punctuation', 5, "'.'"),
    (tokens(['bam', ''], ['a bam', 'bam\n', 'a bam']), 'white space', 4, "'a bam'"),
    (tokens(['<UNK>', 'bam'], ['<S>']), 'special words', 2, "'<UNK>'"),
    (no_split('val'), 'no val split', 1, 'val'),
    (no_split('test'), 'no test split', 1, 'test'),
    (few, 'few captions', 520, '520'),
    (shared_captions('val'), 'val captions in training', 5, '260.jpg'),
    (shared_captions('test'), 'test captions in training', 5, '280.jpg'),
    (same_rows(7, 290, 291), 'same features across splits', 3, '007.jpg (train) and 290.jpg (test)'),
    (same_rows(7, 250, 8), 'same features within a split', 2, '007.jpg and 008.jpg'),
    (same_rows(7, 290, value=0), 'zero features', 2, '007.jpg'),
    (same_rows(7, value=2.5), 'constant features', 1, '007.jpg'),
])
def test_planted_faults_are_found_and_no_others(change, fault, count, example, clean):
    found, = find_faults(Dataset(clean(change)))
    assert (found['fault'], found['count']) == (fault, count)
    assert example in found['line'] and '\n' not in found['line']


def test_unused_rows(clean):
    folder = clean()
    np.save(folder / 'feats.npy', np.vstack([np.load(folder / 'feats.npy'), np.ones((7, 12), np.float32)]))
    found, = find_faults(Dataset(folder))
    assert (found['fault'], found['count']) == ('unused feature rows', 7)


def test_grids(clean, call):
    folder = clean(same_rows(7, 290, value=0))
    vectors = np.load(folder / 'feats.npy')
    np.save(folder / 'grids.npy', np.repeat(vectors[:, None], 3, axis=1).astype(np.float16))
    both = describe(Dataset(folder))
    assert both['grids'] == {'locations': 3, 'size': 12} and both['features']['locations'] is None
    (folder / 'feats.npy').unlink()
    alone = describe(Dataset(folder))
    assert alone['grids'] is None and (alone['features']['size'], alone['features']['locations']) == (12, 3)
    assert [fault['fault'] for fault in alone['faults']] == ['zero features']
    assert alone['features']['zeros'] == pytest.approx(both['features']['zeros'], abs=1e-3)
    assert alone['features']['norms']['mean'] == pytest.approx(both['features']['norms']['mean'] * 3 ** 0.5, rel=1e-3)
    assert 'features: 12 numbers at each of 3 locations' in call('describe', folder)[1]


def test_captions_that_a_few_images_share_are_no_fault(clean):
    def change(images, features):
        images[281]['sentences'] = images[0]['sentences']       # one of twenty
        for image in images[260:280]:
            image['sentences'][0] = images[1]['sentences'][0]   # one of five
    assert find_faults(Dataset(clean(change))) == []


def test_figures(clean):
    dataset = Dataset(clean(lambda images, features: images[5]['sentences'].pop()))
    described = describe(dataset, [1, 40, 99])
    assert described['splits']['train'] == {
        'images': 240, 'captions': 1199, 'words': 240 * 25 - 7,
        'captions_per_image': {'least': 4, 'mean': 1199 / 240, 'most': 5}}
    assert {split: own['captions'] for split, own in described['splits'].items()} == {
        'train': 1199, 'restval': 100, 'val': 100, 'test': 100}
    assert described['lengths']['longest'] == 7 and described['lengths']['percentiles']['50'] == 5
    assert described['lengths']['mean'] == (300 * 25 - 7) / 1499
    matrix = dataset.features
    norms = np.linalg.norm(matrix, axis=1)
    assert described['features'] == {
        'size': 12, 'locations': None, 'rows': 300, 'zeros': float((matrix == 0).mean()), 'constant': 0, 'duplicate': 0,
        'norms': pytest.approx({'least': norms.min(), 'mean': norms.mean(), 'most': norms.max()})}


def test_vocabularies_are_those_that_training_makes(clean):
    dataset = Dataset(clean(tokens(['<UNK>', '<S>'] * 30)))
    for entry in describe(dataset, [1, 55, 60, 65])['vocabulary']:
        vocabulary = Vocabulary.from_counts(*dataset.word_counts('train', 'restval'), min_count=entry['min_count'])
        assert entry['size'] == len(vocabulary) - 3
        for split in ('val', 'test'):
            data = CaptionDataset.from_dataset(dataset, vocabulary, split)
            ids = np.concatenate([data[i][1][:-1] for i in range(len(data))])
            assert entry[split]['unk'] == (ids == 2).mean()
            distinct = set(dataset.word_counts(split)[0])
            assert entry[split]['coverage'] == len(distinct & set(vocabulary.words)) / len(distinct)
    assert 0 < entry['size'] < 104, 'otherwise this tests nothing'


def test_command(call, clean, tmp_path):
    folder = clean(duplicate_names)
    status, out, err = call('describe', folder, '--json')
    assert (status, err) == (0, '') and json.loads(out) == describe(Dataset(folder))
    status, out, err = call('describe', folder, '--min-count', '1,60')
    assert (status, err) == (0, '') and 'faults found:' in out and '009.jpg' in out and out.endswith('\n')
    assert [line.split()[0] for line in out.splitlines() if line[:1].isdigit() and '%' in line] == ['1', '60']
    duplicate_names_gone = clean(lambda images, features: images[3].update(filename='new\x1b.jpg'))
    assert 'no faults found' in call('describe', duplicate_names_gone)[1]
    for options, words in (([tmp_path / 'none'], 'no such folder'), ([folder, '--min-count', '0'], '--min-count 0'),
                           ([folder, '--min-count', 'x'], '--min-count')):
        status, out, err = call('describe', *options)
        assert (status, out, err.count('\n')) == (2, '', 1) and words in err


def test_datasets_with_almost_no_content(call, clean, dataset_dir):
    def no_sentences(images, features):
        for image in images:
            image['sentences'] = []
            image['split'] = 'test'
    folder = clean(no_sentences)
    assert {fault['fault'] for fault in find_faults(Dataset(folder))} == {
        'images without captions', 'no val split', 'few captions'}
    for dataset in (folder, dataset_dir):
        assert call('describe', dataset)[0] == 0
        assert json.loads(call('describe', dataset, '--json')[1])['splits']['test']

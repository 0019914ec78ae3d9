"""What captions are cut into, and that each part of the package joins them as they should be."""
import csv
import io
import json
import pathlib
import sys

import numpy as np
import pytest
from conftest import write_dataset
from test_training import SMALL

from chainer_caption import Dataset, InputError, Settings, train
from chainer_caption.data import tokenization
from chainer_caption.models.bundle import Bundle
from chainer_caption.storage.files import read_json

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'

# Sixty characters, each of which stands once: the old poem of all kana, and some kanji.
POEM = 'いろはにほへとちりぬるをわかよたれそつねならむうゐのおくやまけふこえてあさきゆめみしゑひもせす'
LONG = POEM + '山川草木花鳥風月雪星空海夢'


@pytest.fixture
def sudachi():
    pytest.importorskip('sudachipy', reason='needs readings: scripts/setup.sh japanese')
    pytest.importorskip('sudachidict_core', reason='needs readings: scripts/setup.sh japanese')


@pytest.mark.parametrize(('caption', 'text'), [
    ('二匹の犬が、走っている。', '二匹の犬が走っている'), ('人々とコーヒー\u3000Tシャツ', '人々とコーヒー tシャツ'),
    ('か\u3099', 'が'), (' A "red"  circle. ', 'a red circle'), ('एक कुत्ता', 'एक कुत्ता'), ('、。', ''), ('', '')])
def test_characters(caption, text):
    tokens = tokenization.tokenize(caption, 'characters')
    assert tokens == list(text)
    assert tokenization.detokenize(tokens, 'characters') == text and tokenization.split_text(text,
                                                                                             'characters') == tokens


@pytest.mark.parametrize(('caption', 'reading'), [
    ('今日は、東京へ行った。', 'キョウハトウキョウヘイッタ'), ('一人の男性がいる', 'ヒトリノダンセイガイル'),
    ('「小さい」Ｔシャツの ﾊﾟﾝ ♪', 'チイサイティーシャツノパン'), ('2匹の犬', 'ニヒキノイヌ'),
    ('xyz\ud800を', 'xyzヲ'), ('', '')])
def test_readings(sudachi, caption, reading):
    assert ''.join(tokenization.tokenize(caption, 'katakana')) == reading


def test_without_a_dictionary_readings_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sudachipy', None)
    tokenization._analyser.cache_clear()
    with pytest.raises(InputError,
                       match=r'^tokenizer katakana: needs a dictionary of readings; scripts/setup\.sh jap'):
        tokenization.tokenize('丸', 'katakana')


def test_sixty_characters_survive_from_csv_to_everything(call, tmp_path):
    captions = tmp_path / 'captions.csv'
    captions.write_text('filename,caption\n' + ''.join(f'{path.name},「{POEM}」、{LONG[47:]}。\n' for path in
                                                       sorted(UNSEEN.glob('*.png'))), encoding='utf-8')
    dataset, model = tmp_path / 'dataset', tmp_path / 'model'
    assert call('extract_features', UNSEEN, '-o', dataset, '--encoder', 'demo', '--captions', captions,
                '--tokenizer', 'characters')[0] == 0
    data = read_json(dataset / 'dataset.json')
    assert data['tokenizer'] == 'characters' and data['images'][0]['sentences'][0]['tokens'] == list(LONG)
    assert call('train', dataset, '-o', model, '--hidden', '64', '--batch-size', '8', '--epochs', '14', '--dropout',
                '0', '--learning-rate', '0.02', '--score-every', '14')[0] == 0
    assert read_json(model / 'config.json')['tokenizer'] == 'characters'
    assert read_json(model / 'log.json')[-1]['samples'][0]['caption'] == LONG
    assert LONG in (model / 'run.html').read_text(encoding='utf-8')

    said = {}
    for name in ('text', 'csv', 'jsonl', 'html'):
        status, said[name], err = call('generate', '-m', model, UNSEEN / '01.png', '--format', name, '--top', '1')
        assert (status, err) == (0, '')
    assert said['text'].splitlines()[1] == LONG
    assert next(csv.DictReader(io.StringIO(said['csv'])))['caption'] == LONG
    caption, = json.loads(said['jsonl'])['captions']
    assert (caption['caption'], caption['tokens'], caption['finished']) == (LONG, list(LONG), True)
    assert LONG in said['html']

    status, out, _ = call('evaluate', dataset, '-m', model, '--split', 'test', '--json', '--html',
                          tmp_path / 'page.html', '--coco-results', tmp_path / 'coco.json')
    figures = json.loads(out.splitlines()[-1])
    assert status == 0 and figures['mean_length'] == 60
    assert [figures[name] for name in ('BLEU-4', 'ROUGE-L')] == pytest.approx([1, 1])
    assert LONG in (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert read_json(tmp_path / 'coco.json')[0]['caption'] == LONG
    # What comes back as text is cut as it was.
    again = call('evaluate', dataset, '--captions', tmp_path / 'coco.json', '--split', 'test', '--json')
    assert json.loads(again[1].splitlines()[-1])['BLEU-4'] == pytest.approx(1)


@pytest.fixture
def characters(tmp_path):
    """A dataset of characters."""
    folder = write_dataset(tmp_path / 'characters')
    data = read_json(folder / 'dataset.json')
    for image in data['images']:
        for sentence in image['sentences']:
            sentence['tokens'] = list(''.join(sentence['tokens']))
    (folder / 'dataset.json').write_text(json.dumps({**data, 'tokenizer': 'characters'}))
    return folder


def test_units_are_not_confused(characters, model_dir, call, refused, tmp_path):
    for _ in range(2):                                  # the second time from the cache
        assert Dataset(characters).captions.tokenizer == 'characters'
    line = refused('train', characters, '-m', model_dir, '-o', tmp_path / 'm')
    assert line == f'{model_dir}: generates words, but {characters}/dataset.json has captions in characters'
    status, out, err = call('evaluate', characters, '-m', model_dir)
    assert (status, out) == (2, '')
    assert f'model: generates words, but {characters}/dataset.json has captions in characters; scores need' in err
    bundle = train(Dataset(characters), tmp_path / 'm', Settings(epochs=0, **SMALL))
    assert bundle.tokenizer == Bundle.load(tmp_path / 'm').tokenizer == 'characters'


def test_a_description_calls_characters_by_their_name(characters, dataset_dir, call):
    for folder, tokenizer in ((characters, 'characters'), (dataset_dir, 'words')):
        described = call('describe', folder)[1]
        assert f' {tokenizer} on average' in described and f'val {tokenizer} covered' in described
        assert json.loads(call('describe', folder, '--json')[1])['tokenizer'] == tokenizer


def test_a_unit_that_nobody_knows(characters, model_dir, refused, tmp_path):
    for folder, name in ((characters, 'dataset.json'), (tmp_path / 'model', 'config.json')):
        if not folder.exists():
            Bundle.load(model_dir).save(folder)
        (folder / name).write_text(json.dumps({**read_json(folder / name), 'tokenizer': ['syllables']}))
    assert refused('describe',
                   characters) == (f'{characters}/dataset.json: "tokenizer" should be words or characters or '
                                               "katakana, not ['syllables']")
    assert '"tokenizer" should be' in refused('neighbours', tmp_path / 'model', 'red')
    assert refused('extract_features', UNSEEN, '-o', tmp_path / 'r', '--encoder', 'demo', '--tokenizer',
                   'characters') == '--tokenizer belongs to --captions'


def test_coco_layout_in_katakana(sudachi, call, tmp_path):
    # As STAIR Captions and YJ Captions come.
    names = sorted(path.name for path in UNSEEN.glob('*.png'))
    captions = tmp_path / 'stair_captions.json'
    captions.write_text(json.dumps({
        'info': {}, 'licenses': [], 'images': [{'id': 9 + i, 'file_name': name} for i, name in enumerate(names)],
        'annotations': [{'id': i, 'image_id': 9 + i, 'caption': '赤い星が二つある。'} for i in range(len(names))]}))
    assert call('extract_features', UNSEEN, '-o', tmp_path / 'r', '--encoder', 'demo', '--captions', captions,
                '--tokenizer',
                'katakana')[0] == 0
    dataset = Dataset(tmp_path / 'r')
    assert dataset.captions.tokenizer == 'katakana' and np.unique(dataset.captions.coco_ids)[0] == 9
    assert ''.join(dataset.references(0)[0]) == 'アカイホシガフタツアル'

"""Evaluation: a model's captions and anybody's score as the public COCO code scores them; wrong files are refused."""
import json
import math
import os
import subprocess
import sys

import chainer
import chainer.functions as F
import numpy as np
import pytest
from test_evaluation_metrics import coco_scores
from test_report_gallery import ATTACK, Elements

from chainer_caption import Bundle, Captioner, Dataset, cli
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.report import open_writer

SCORES = ['BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr']
MISSING = 'METEOR needs data'


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch):
    """As on a machine without WordNet's data, whatever there is on this one."""
    monkeypatch.setattr('chainer_caption.evaluation.metrics.meteor_missing', lambda: MISSING)


@pytest.fixture
def evaluate(call):
    """Calls the command: `evaluate(…)` gives (exit status, stdout, stderr without the line about METEOR)."""
    def run(*argv):
        status, out, err = call('evaluate', *argv)
        return status, out, err.replace(MISSING + '\n', '')
    return run


@pytest.fixture
def figures(evaluate):
    """Calls the command with `--json` and gives the object that it prints."""
    def run(*argv):
        status, out, err = evaluate(*argv, '--json')
        assert (status, err) == (0, ''), err
        return json.loads(out.splitlines()[-1])
    return run


@pytest.fixture
def refused(evaluate):
    """Calls the command, which must end with status 2 and one line, which is returned."""
    def run(*argv):
        status, out, err = evaluate(*argv)
        assert status == 2 and out == '' and err.count('\n') == 1 and err.startswith('evaluate.py: '), (out, err)
        return err.removeprefix('evaluate.py: ').rstrip('\n')
    return run


@pytest.fixture
def images(dataset_dir):
    """The images of the dataset's test split, as in dataset.json."""
    data = json.loads((dataset_dir / 'dataset.json').read_text(encoding='utf-8'))
    return [image for image in data['images'] if image['split'] == 'test']


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    return path


def write_list(path, rows):
    path.write_text(json.dumps(rows), encoding='utf-8')
    return path


def said_of(images, change=lambda i: ''):
    """Rows with a caption for each image: one of its own, and what `change` adds to it."""
    return [{'image_id': image['imgid'], 'caption': ' '.join(image['sentences'][i % 3]['tokens']) + change(i)}
            for i, image in enumerate(images)]


def coco(images, captions):
    return coco_scores([[s['tokens'] for s in image['sentences']] for image in images], captions)


def with_coco_ids(folder):
    data = json.loads((folder / 'dataset.json').read_text())
    for image in data['images']:
        image['cocoid'] = 100000 - 7 * image['imgid']
    (folder / 'dataset.json').write_text(json.dumps(data))
    return folder


# Scores

def test_a_model_scores_as_its_captions_do(figures, dataset_dir, model_dir, images):
    captioner, dataset = Captioner.load(model_dir, images=False), Dataset(dataset_dir)
    best = [result.captions[0] for result in captioner.caption_dataset(dataset, 'test')]
    found = figures(dataset_dir, '-m', model_dir)
    expected, _ = coco(images, [caption.tokens for caption in best])
    assert {name: found[name] for name in SCORES} == pytest.approx(expected, abs=1e-9)
    assert found['distinct'] == len({tuple(c.tokens) for c in best}) / len(best)
    assert found['unfinished'] == sum(not c.finished for c in best) / len(best)
    assert found['mean_length'] == sum(len(c.tokens) for c in best) / len(best)
    assert {key: found[key] for key in ('name', 'split', 'images', 'beam_width', 'length_normalization')} == {
        'name': 'model', 'split': 'test', 'images': 8, 'beam_width': 20, 'length_normalization': 0}


def test_captions_in_files_score_as_the_coco_code_scores_them(figures, dataset_dir, images, tmp_path):
    rows = said_of(images, lambda i: ' and red' * (i % 2))
    expected, each = coco(images, [row['caption'].split() for row in rows])
    found = figures(dataset_dir, '--captions', write_lines(tmp_path / 'c.jsonl', rows), '--per-image',
                    tmp_path / 'each.jsonl')
    assert {name: found[name] for name in SCORES} == pytest.approx(expected, abs=1e-9)
    assert 'perplexity' not in found and 'METEOR' not in found and 'unfinished' not in found
    own = [json.loads(line) for line in (tmp_path / 'each.jsonl').read_text().splitlines()]
    assert [row['image_id'] for row in own] == [row['image_id'] for row in rows]
    assert [row['caption'] for row in own] == [row['caption'] for row in rows]
    for name in SCORES:
        np.testing.assert_allclose([row[name] for row in own], each[name], atol=1e-9)


def test_scores_are_those_of_the_public_script(figures, dataset_dir, images, shared, tmp_path):
    script = shared.parent / 'bench' / 'score.py'
    if not script.exists():
        pytest.skip('needs ../shared/bench/score.py')
    for write in write_lines, write_list:
        path = write(tmp_path / 'c.json', said_of(images, lambda i: ' and red' * (i % 2)))
        done = subprocess.run([sys.executable, script, dataset_dir, path], capture_output=True, text=True, check=True)
        found = figures(dataset_dir, '--captions', path)
        assert {name: round(found[name], 4) for name in SCORES} == json.loads(done.stdout)


def test_cider_of_a_single_image_is_said_to_mean_nothing(make_dataset, tmp_path):
    dataset, said = Dataset(make_dataset(images=6)), []
    evaluator = Evaluator(dataset, 'test', say=said.append)
    own = evaluator.references[0][0]
    file = write_lines(tmp_path / 'c.jsonl', [{'image_id': 5, 'caption': ' '.join(own)}])
    figures = evaluator.evaluate_file(file).figures
    assert figures['BLEU-1'] == pytest.approx(1) and figures['CIDEr'] == 0
    assert len(said) == 1 and 'CIDEr of a single image is 0' in said[0]


def test_genuine_captions_by_file(figures, shared, tmp_path):
    folder = shared / 'vi2932'
    data = json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))
    images = [image for image in data['images'] if image['split'] == 'test']
    # What is said of each image is said of the next.
    rows = [{'filename': image['filename'], 'caption': ' '.join(images[i - 1]['sentences'][0]['tokens'])}
            for i, image in enumerate(images)]
    expected, _ = coco(images, [row['caption'].split() for row in rows])
    found = figures(folder, '--captions', write_lines(tmp_path / 'c.jsonl', rows))
    assert {name: found[name] for name in SCORES} == pytest.approx(expected, abs=1e-9)


def test_perplexity_is_that_of_one_caption_at_a_time(figures, dataset_dir, model_dir):
    bundle, dataset = Bundle.load(model_dir), Dataset(dataset_dir)
    model, nats, tokens = bundle.model, 0.0, 0
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        for image in dataset.images('val'):
            feature = dataset.features[dataset.captions.image_ids[image]][None]
            for reference in dataset.references(image):
                model.lstm.reset_state()
                model.lstm(model.image_vec(np.asarray(feature, np.float32)))
                for word, target in zip([0, *bundle.vocabulary.encode(reference)],
                                        [*bundle.vocabulary.encode(reference), 1], strict=True):
                    scores = model.out_word(model.lstm(model.word_vec(np.array([word], np.int32)))).array[0]
                    scores = scores.astype(np.float64) - scores.max()
                    nats += math.log(np.exp(scores).sum()) - scores[target]
                    tokens += 1
    found = figures(dataset_dir, '-m', model_dir, '--split', 'val', '--beam-widths', 1)
    assert found['perplexity'] == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_an_infinite_perplexity_is_null(figures, dataset_dir, model_dir, tmp_path):
    bundle = Bundle.load(model_dir)
    bundle.model.out_word.b.array[3:] = -1e6            # more nats than a float's exponent has room for
    bundle.save(tmp_path / 'model')
    assert figures(dataset_dir, '-m', tmp_path / 'model', '--split', 'val')['perplexity'] is None


def test_perplexity_of_several_models_is_that_of_their_mean_probabilities(figures, dataset_dir, model_dir, tmp_path):
    bundle, dataset = Bundle.load(model_dir), Dataset(dataset_dir)
    second = Bundle.load(model_dir)
    second.model.out_word.W.array[...] *= -0.5
    second.save(tmp_path / 'second')
    nats, tokens = 0.0, 0
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        for image in dataset.images('val'):
            feature = np.asarray(dataset.features[dataset.captions.image_ids[image]][None], np.float32)
            for reference in dataset.references(image):
                said = [*bundle.vocabulary.encode(reference), 1]
                probabilities = []
                for model in (bundle.model, second.model):
                    model.lstm.reset_state()
                    model.lstm(model.image_vec(feature))
                    rows = [F.softmax(model.out_word(model.lstm(model.word_vec(np.array([word], np.int32))))).array[0]
                            for word in [0, *said[:-1]]]
                    probabilities.append([row[word] for row, word in zip(rows, said, strict=True)])
                nats -= np.log(np.mean(probabilities, axis=0)).sum()
                tokens += len(said)
    found = figures(dataset_dir, '-m', model_dir, '-m', tmp_path / 'second', '--split', 'val', '--beam-widths', 1)
    assert found['perplexity'] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found['name'] == 'model + second'
    same = figures(dataset_dir, '-m', model_dir, '-m', model_dir, '--split', 'val', '--beam-widths', 1)
    alone = figures(dataset_dir, '-m', model_dir, '--split', 'val', '--beam-widths', 1)
    assert same['perplexity'] == pytest.approx(alone['perplexity'], rel=1e-5)
    assert same['CIDEr'] == alone['CIDEr']


@pytest.mark.parametrize('options', [(), ('--sample', '--seed', 2), ('--beam-groups', 4)], ids=str)
def test_how_much_the_captions_of_an_image_differ(options, call, figures, dataset_dir, model_dir, images):
    options = (*options, '--min-length', 2, '--max-length', 6)
    found = figures(dataset_dir, '-m', model_dir, '--top', 4, *options)
    _, out, _ = call('generate', '--dataset', dataset_dir, '-m', model_dir, '--format', 'jsonl', '--top', 4, *options)
    captions = [[c['tokens'] for c in json.loads(line)['captions']] for line in out.splitlines()]
    for n in (1, 2):
        shares = []
        for of_image in captions:
            grams = [tuple(words[i:i + n]) for words in of_image for i in range(len(words) - n + 1)]
            shares += [len(set(grams)) / len(grams)] if grams else []
        assert found[f'distinct-{n}'] == pytest.approx(np.mean(shares))
    by_rank = [coco(images, [of_image[rank] for of_image in captions])[1]['CIDEr'] for rank in range(4)]
    assert found['best-CIDEr'] == pytest.approx(np.max(by_rank, axis=0).mean(), abs=1e-9)
    assert found['CIDEr'] == pytest.approx(np.mean(by_rank[0]), abs=1e-9)
    assert not {'distinct-1', 'best-CIDEr'} & figures(dataset_dir, '-m', model_dir, *options).keys()


def test_novel_captions_are_those_that_training_has_not(figures, dataset_dir, images, tmp_path):
    rows = said_of(images, lambda i: '' if i < 2 else ' never')
    assert figures(dataset_dir, '--captions', write_lines(tmp_path / 'c', rows))['novel'] == 6 / 8


# Several

def test_several_files_side_by_side(evaluate, figures, dataset_dir, images, tmp_path):
    good = write_lines(tmp_path / 'good.jsonl', said_of(images))
    bad = write_list(tmp_path / 'bad.json', said_of(images, lambda i: ' so they say'))
    results = figures(dataset_dir, '--captions', good, bad)['results']
    assert [result['name'] for result in results] == [str(good), str(bad)]
    assert results == [figures(dataset_dir, '--captions', path) for path in (good, bad)]
    status, out, err = evaluate(dataset_dir, '--captions', good, bad)
    assert (status, err) == (0, '') and out.count(str(good)) == 2 and f'{results[1]["CIDEr"]:.4f}' in out


def test_beam_widths_and_normalizations_in_one_call(figures, dataset_dir, model_dir):
    results = figures(dataset_dir, '-m', model_dir, '--beam-widths', '1,3', '--length-normalization', 0, 0.7,
                      '--max-length', 4)['results']
    assert [(r['beam_width'], r['length_normalization']) for r in results] == [(1, 0), (1, 0.7), (3, 0), (3, 0.7)]
    assert len({result['perplexity'] for result in results}) == 1
    assert results[2] == figures(dataset_dir, '-m', model_dir, '--beam-widths', 3, '--max-length', 4)
    assert all(result['mean_length'] <= 4 for result in results)


def test_meteor_where_there_is_wordnet(evaluate, dataset_dir, images, monkeypatch, tmp_path):
    class Fake:
        def __init__(self, references):
            pass

        def score(self, predictions):
            return {'METEOR': 0.25}, {'METEOR': np.full(len(predictions), 0.25)}

    path = write_lines(tmp_path / 'c', said_of(images))
    monkeypatch.setattr('chainer_caption.evaluation.metrics.meteor_missing', lambda: None)
    monkeypatch.setitem(sys.modules['chainer_caption.evaluation.metrics'].METRICS, 'METEOR', Fake)
    assert json.loads(evaluate(dataset_dir, '--captions', path, '--json')[1])['METEOR'] == 0.25
    assert 'METEOR (NLTK)' in evaluate(dataset_dir, '--captions', path)[1]


# Files of captions

@pytest.mark.parametrize('coco_ids', [False, True])
def test_coco_results_there_and_back(coco_ids, figures, make_dataset, model_dir, tmp_path):
    dataset = with_coco_ids(make_dataset()) if coco_ids else make_dataset()
    made = figures(dataset, '-m', model_dir, '--beam-widths', 2, '--coco-results', tmp_path / 'results.json')
    rows = json.loads((tmp_path / 'results.json').read_text())
    ids = Dataset(dataset).images('test')             # imgid and place are the same in this dataset
    assert [row['image_id'] for row in rows] == [100000 - 7 * int(i) if coco_ids else int(i) for i in ids]
    assert all(set(row) == {'image_id', 'caption'} for row in rows)
    read = figures(dataset, '--captions', tmp_path / 'results.json')
    assert {name: read[name] for name in SCORES} == {name: made[name] for name in SCORES}


def test_generated_lines_score_as_the_model(figures, dataset_dir, model_dir, tmp_path):
    assert cli.run('generate', ['-m', str(model_dir), '--dataset', str(dataset_dir), '-o', f'{tmp_path}/c.jsonl']) == 0
    made, read = figures(dataset_dir, '-m', model_dir), figures(dataset_dir, '--captions', tmp_path / 'c.jsonl')
    for name in (*SCORES, 'distinct', 'vocabulary', 'novel', 'unfinished'):
        assert read[name] == made[name]


@pytest.mark.parametrize('kind', ['csv', 'text', 'metadata', 'json', 'tsv', 'semicolons'])
def test_what_other_formats_hold_scores_the_same(kind, evaluate, figures, make_dataset, images, tmp_path):
    dataset, path = make_dataset(), tmp_path / 'c'
    rows = [(image['filename'], row['caption']) for image, row in zip(images, said_of(images), strict=True)]
    if kind in ('csv', 'text', 'metadata'):
        with open_writer(kind, path) as writer:
            for i, (name, text) in enumerate(rows):
                best = Caption(text.split(), -1.0, -0.5, True)
                writer.write(Result(name, name, captions=[best] + [Caption(['x'], -2.0, -1.0, False)] * (i % 2)))
    elif kind == 'json':
        path.write_text(json.dumps({name.removesuffix('.png'): [text, 'x'] for name, text in rows}))
    elif kind == 'tsv':
        path.write_text('image\tcaption\n' + ''.join(f'some/where/{name}\t{text}\n' for name, text in rows))
    else:
        path.write_text('Image Name;Text\n' + ''.join(f'{name};{text}\n' for name, text in rows))
    found = figures(dataset, '--captions', path)
    expected = figures(dataset, '--captions', write_lines(tmp_path / 'expected', said_of(images)))
    assert {name: found[name] for name in SCORES} == {name: expected[name] for name in SCORES}
    assert found.get('unfinished') == (0 if kind == 'csv' else None)


def test_limit(figures, refused, dataset_dir, model_dir, images, tmp_path):
    found = figures(dataset_dir, '-m', model_dir, '--limit', 3, '--beam-widths', 1, '--per-image', tmp_path / 'each')
    rows = [json.loads(line) for line in (tmp_path / 'each').read_text().splitlines()]
    assert found['images'] == 3 and [row['filename'] for row in rows] == [image['filename'] for image in images[:3]]
    assert {name: found[name] for name in SCORES} == pytest.approx(
        coco(images[:3], [row['caption'].split() for row in rows])[0], abs=1e-9)
    own = figures(dataset_dir, '--captions', write_lines(tmp_path / 'c', said_of(images[:3])), '--limit', 3)
    assert own['images'] == 3 and own['BLEU-1'] == pytest.approx(1)
    assert refused(dataset_dir, '-m', model_dir, '--limit', 0) in ('limit 0: must be at least 1',
                                                                   '--limit 0: must be at least 1')


def test_every_way_to_name_an_image(figures, make_dataset, tmp_path):
    dataset = with_coco_ids(make_dataset())
    data = json.loads((dataset / 'dataset.json').read_text())
    images = [image for image in data['images'] if image['split'] == 'test']
    plain = said_of(images)
    by_coco_id = [{**row, 'image_id': image['cocoid']} for row, image in zip(plain, images, strict=True)]
    by_name = [{'filename': image['filename'], 'captions': [{'caption': row['caption']}, {'caption': 'no'}]}
               for row, image in zip(plain, images, strict=True)]
    by_path = [{**row, 'filename': f'some/where/{row["filename"]}'} for row in reversed(by_name)]
    by_both = [{**row, 'filename': image['filename']} for row, image in zip(plain, images, strict=True)]
    found = [figures(dataset, '--captions', write(tmp_path / 'c', rows)) for write in (write_lines, write_list)
             for rows in (plain, by_coco_id, by_name, by_path, by_both)]
    assert all(one == found[0] for one in found)


def test_tokens_count_before_text(dataset_dir, images, tmp_path):
    rows = [{'image_id': image['imgid'], 'captions': [{'caption': 'x y', 'tokens': ['x y'], 'finished': i > 0}]}
            for i, image in enumerate(images)]
    evaluation = Evaluator(Dataset(dataset_dir), 'test').evaluate_file(write_lines(tmp_path / 'c', rows))
    assert [prediction.tokens for prediction in evaluation.predictions] == [['x y']] * 8
    assert evaluation.figures['unfinished'] == 1 / 8
    assert {len(each) for each in evaluation.each.values()} == {8}


def test_what_is_noticed_but_not_refused(evaluate, dataset_dir, images, tmp_path):
    more = [*said_of(images), {'image_id': 0, 'caption': 'of a training image'}]
    status, _, err = evaluate(dataset_dir, '--captions', write_lines(tmp_path / 'c', more))
    assert status == 0 and '1 captions are of images that are not evaluated' in err and err.count('\n') == 1
    written = said_of(images, lambda i: ' Circle.')
    status, _, err = evaluate(dataset_dir, '--captions', write_lines(tmp_path / 'c', written))
    assert status == 0 and "'Circle.'" in err and err.count('\n') == 1


def drop_references(dataset, name):
    data = json.loads((dataset / 'dataset.json').read_text())
    for image in data['images']:
        if image['split'] == 'test' and name in (None, image['filename']):
            image['sentences'] = []
    (dataset / 'dataset.json').write_text(json.dumps(data))


def test_images_without_references(evaluate, refused, make_dataset, model_dir, tmp_path):
    dataset = make_dataset()
    drop_references(dataset, '0005.png')
    status, out, err = evaluate(dataset, '-m', model_dir, '--json')
    assert status == 0 and json.loads(out)['images'] == 7 and '1 images' in err and 'left out' in err
    drop_references(dataset, None)
    assert 'no image of the split test has a caption' in refused(dataset, '-m', model_dir)


@pytest.mark.parametrize('change, words', [
    (lambda rows: rows[1:], ['1 of the 8 images have no caption', '0005.png', 'imgid 5']),
    (lambda rows: [*rows, {'image_id': 999, 'caption': 'a'}], ['line 9', 'no image with the imgid 999']),
    (lambda rows: [*rows, {'filename': 'none.png', 'caption': 'a'}], ['line 9', 'no image none.png']),
    (lambda rows: [*rows, rows[2]], ['line 9', 'second caption of 0017.png', 'line 3']),
    (lambda rows: [{**rows[0], 'filename': 'other.png'}, *rows[1:]], ['line 1', '0005.png', 'other.png']),
    (lambda rows: [{'filename': 'a.png', 'error': 'truncated'}, *rows], ['line 1', 'a.png', 'truncated']),
    (lambda rows: [{'image_id': 5, 'captions': []}, *rows[1:]], ['line 1', 'no caption']),
    (lambda rows: [{'image_id': 5, 'caption': None}, *rows[1:]], ['line 1', 'no caption']),
    (lambda rows: [{'image_id': 5, 'caption': 7}, *rows[1:]], ['line 1', 'a caption that is no text: 7']),
    (lambda rows: [{'image_id': 'x', 'caption': 'a'}, *rows[1:]], ['line 1', 'no image x']),
    (lambda rows: [{'image_id': True, 'caption': 'a'}, *rows[1:]], ['line 1', 'whole number']),
    (lambda rows: [{'caption': 'a'}, *rows[1:]], ['line 1', 'names no image']),
    (lambda rows: [rows[0], 'a dog', *rows[1:]], ['line 2', 'no object']),
    (lambda rows: [], ['no captions'])])
def test_wrong_rows(change, words, refused, dataset_dir, images, tmp_path):
    path = write_lines(tmp_path / 'c.jsonl', change(said_of(images)))
    line = refused(dataset_dir, '--captions', path)
    assert line.startswith(f'{path}: ') and all(word in line for word in words), line
    if 'line 9' in words:
        line = refused(dataset_dir, '--captions', write_list(path, change(said_of(images))))
        assert line.startswith(f'{path}: [8]')


def test_wrong_files(refused, dataset_dir, make_dataset, images, tmp_path):
    assert refused(dataset_dir, '--captions', tmp_path / 'none') == f'{tmp_path}/none: no such file'
    (tmp_path / 'c').write_text('# 0005.png\na circle\n')
    assert refused(dataset_dir, '--captions', tmp_path / 'c').startswith(f'{tmp_path}/c: 7 of the 8 images have no cap')
    for content in (b'{"image_id": 5, "caption": ', b'\xff\xfe', b'{"a": "\x81"}', b'[{"image_id": 5, "capt', b'[}',
                    b'[' * 99999):
        (tmp_path / 'c').write_bytes(content)
        assert refused(dataset_dir, '--captions', tmp_path / 'c').startswith(f'{tmp_path}/c: ')
    dataset = make_dataset()
    content = (dataset / 'dataset.json').read_bytes().replace(b'0011.png', b'0005.png')
    (dataset / 'dataset.json').write_bytes(content)
    path = write_lines(tmp_path / 'c', [{'filename': '0005.png', 'caption': 'a'}])
    assert 'several images 0005.png' in refused(dataset, '--captions', path)


def test_wrong_calls(refused, dataset_dir, make_dataset, model_dir, images, tmp_path):
    path = write_lines(tmp_path / 'c', said_of(images))
    (tmp_path / 'out').write_text('kept')
    model, captions, out = ('-m', model_dir), ('--captions', path), tmp_path / 'out'
    for words, *options in (
            ('-m', '--split', 'test'),
            ('not allowed', *model, *captions),
            ('--beam-widths is for', *captions, '--beam-widths', 3),
            ('--allow-unk is for', *captions, '--allow-unk'),
            ('--sample is for', *captions, '--sample'),
            ('--top is for', *captions, '--top', 5),
            ('--beam-widths is for beam search', *model, '--sample', '--beam-widths', 3),
            ('--beam-groups is for beam search', *model, '--sample', '--beam-groups', 3),
            ('--top-k belongs to', *model, '--top-k', 3),
            ('--top 4', *model, '--beam-widths', '5,3', '--top', 4),
            ('-g is for', *captions, '-g', 0),
            ('--beam-width 0', *model, '--beam-widths', '3,0'),
            ('--beam-widths', *model, '--beam-widths', '3;4'),
            ('--max-length 0', *model, '--max-length', 0),
            ('--length-normalization -1', *model, '--length-normalization', 0, -1),
            ('--split', *model, '--split', 'all'),
            ('--images belongs', *model, '--images', '.'),
            ('no such folder', *model, '--html', out, '--images', tmp_path / 'none'),
            ('one set of captions', *model, '--beam-widths', '1,2', '--coco-results', out),
            ('one set of captions', *captions, path, '--coco-results', out),
            ('no such model', '-m', tmp_path / 'none', '--html', out),
            ('cannot be written', *model, '--html', tmp_path / 'none' / 'out')):
        assert words in refused(dataset_dir, *options)
    assert (tmp_path / 'out').read_text() == 'kept' and len(os.listdir(tmp_path)) == 2, 'a wrong call leaves nothing'
    assert 'features of 17' in refused(make_dataset(dim=17), '-m', model_dir)


# The page

def test_page(evaluate, make_dataset, images, tmp_path):
    dataset = make_dataset()
    data = json.loads((dataset / 'dataset.json').read_text())
    data['images'][5]['filename'] = name = ATTACK.replace('/', '') + '\udce9'
    data['images'][5]['sentences'][0]['tokens'] = ['a', ATTACK]
    (dataset / 'dataset.json').write_text(json.dumps(data))
    rows = said_of(images, lambda i: f' {ATTACK}' * (i == 0))
    files = [write_lines(tmp_path / 'one<b>.jsonl', rows), write_lines(tmp_path / 'two', said_of(images))]
    assert evaluate(dataset, '--captions', *files, '--html', tmp_path / 'report.html')[0] == 0
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    elements = Elements(page)
    assert not elements.of('script') and not elements.of('img') and not elements.of('b') and 'http:' not in page
    assert len(elements.of('article')) == 2 * 8 and len(elements.of('details')) == 2
    assert sum(' '.join(ATTACK.split()) in text for text in elements.of('p', **{'class': 'best'})) == 1
    assert sum(f'a {ATTACK}' in text for text in elements.of('li')) == 2
    assert sum(name.replace('\udce9', '\N{REPLACEMENT CHARACTER}') in text for text in elements.of('p')) == 2
    # Of the two the untouched captions are better, and their first card is their best.
    assert [f'{float(text):.4f}' for text in elements.of('td', **{'class': 'won'})] == [
        f'{Evaluator(Dataset(dataset), "test").evaluate_file(files[1]).figures[figure]:.4f}' for figure in SCORES]
    scores = [float(text.split()[1]) for text in elements.of('p', **{'class': 'scores'})]
    assert scores[:4] == sorted(scores[:4], reverse=True) and scores[4:8] == sorted(scores[4:8])
    assert max(scores[4:8]) <= min(scores[:4])


def test_page_with_images(evaluate, dataset_dir, model_dir, images, tmp_path):
    from PIL import Image
    Image.new('RGB', (40, 30), 'red').save(tmp_path / images[0]['filename'])
    status, _, err = evaluate(dataset_dir, '-m', model_dir, '--html', tmp_path / 'r.html', '--images', tmp_path)
    assert (status, err) == (0, '')
    elements = Elements((tmp_path / 'r.html').read_text(encoding='utf-8'))
    shown = [attributes['src'] for tag, attributes, _ in elements.all if tag == 'img']
    assert len(shown) == 1 and shown[0].startswith('data:image/webp;base64,')

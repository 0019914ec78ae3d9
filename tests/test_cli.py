"""The command line as its users meet it: formats, letters, exit statuses, and one clear line for whatever is wrong."""
import contextlib
import csv
import fcntl
import importlib
import io
import json
import math
import os
import pathlib
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from conftest import gpu_is_there

import chainer_caption
from chainer_caption import Bundle, Captioner, Dataset, cli
from chainer_caption.cli import progress
from chainer_caption.decoding import Sampling
from chainer_caption.storage.files import sample_digest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO_WEIGHTS = ROOT / 'chainer_caption' / 'features' / 'encoders' / 'demo.npz'
UNSEEN = ROOT / 'features' / 'demo' / 'unseen'
SMALL = '--epochs', '1', '--hidden', '8', '--batch-size', '32'


@pytest.fixture
def model(model_dir, tmp_path):
    """A model directory to be damaged."""
    return shutil.copytree(model_dir, tmp_path / 'model')


@pytest.fixture
def images(tmp_path):
    """A folder with two images and, between them, one that is broken."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, source in (('a.png', '01.png'), ('c.png', '02.png')):
        shutil.copy(UNSEEN / source, folder / name)
    (folder / 'b.png').write_bytes((UNSEEN / '03.png').read_bytes()[:99])
    return folder


def config_of(folder):
    return json.loads((folder / 'config.json').read_text(encoding='utf-8'))


def expected_captions(model, dataset, split='test', **options):
    return list(Captioner.load(model, images=False).caption_dataset(Dataset(dataset), split, **options))


# Train, then generate

def test_a_training_on_a_terminal_shows_how_far_it_is(dataset_dir, package_environment, tmp_path):
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack('4H', 40, 120, 0, 0))
    command = sys.executable, ROOT / 'scripts' / 'train.py', dataset_dir, '-o', tmp_path / 'm', *SMALL, '--epochs', '2'
    done = subprocess.Popen(command, env=package_environment, stdin=other, stdout=other, stderr=other)
    os.close(other)
    shown = b''
    with contextlib.suppress(OSError):                  # raised when the process has closed the terminal
        while part := os.read(main, 2 ** 16):
            shown += part
    os.close(main)
    assert done.wait() == 0
    assert b'captions/s' in shown
    lines = shown.replace(b'\r\n', b'\n').split(b'\n')
    rows = [line.rpartition(b'\r')[2].split() for line in lines]
    assert [row[0] for row in rows if len(row) == 7] == [b'epoch', b'1', b'2'], shown


def test_from_dataset_to_captions(call, dataset_dir, tmp_path):
    model = tmp_path / 'model'
    status, out, err = call('train', dataset_dir, '-o', model, *SMALL, '--seed', 3, '--dropout', 0.25)
    assert (status, err) == (0, '') and 'validation/main/loss' in out
    assert {'config.json', 'vocabulary.json', 'weights.npz', 'log.json', 'snapshot-3.npz'} <= set(os.listdir(model))
    config = config_of(model)
    assert (config['hidden'], config['dropout'], config['feature_size']) == (8, 0.25, 16)
    assert {key: config['training'][key] for key in ('epochs', 'batch_size', 'seed', 'min_count')} == {
        'epochs': 1, 'batch_size': 32, 'seed': 3, 'min_count': 5}
    results = expected_captions(model, dataset_dir)
    status, out, err = call('generate', '-m', model, '--dataset', dataset_dir)
    assert (status, err) == (0, '')
    assert out == ''.join(f'# {r.filename}\n' + ''.join(f'{c.text}\n' for c in r.captions) for r in results)
    assert out.count('\n') == 6 * len(results) == 48


def test_json_lines(call, model_dir, dataset_dir, tmp_path):
    status, out, err = call('generate', '-m', model_dir, '--dataset', dataset_dir, '--split', 'val',
                            '-o', tmp_path / 'captions.jsonl', '--top', 2, '--beam-width', 3)
    assert (status, out, err) == (0, '', '')
    rows = [json.loads(line) for line in (tmp_path / 'captions.jsonl').read_text(encoding='utf-8').splitlines()]
    results = expected_captions(model_dir, dataset_dir, 'val', top=2, width=3)
    assert rows == [{'filename': r.filename, 'image_id': r.image_id, 'familiarity': r.familiarity, 'captions': [
        {'caption': ' '.join(c.tokens), 'tokens': c.tokens, 'log_prob': c.log_prob,
         'log_prob_per_token': c.log_prob_per_token, 'finished': c.finished} for c in r.captions]} for r in results]


@pytest.mark.parametrize('name, options, sign', [
    ('c.csv', [], 'filename,rank,caption'), ('c.tsv', [], 'filename\trank'), ('c.json', [], '[\n{"filename"'),
    ('c.html', [], '<!doctype html>'), ('c.txt', [], '# '), ('c', [], '# '),
    ('c.txt', ['--format', 'jsonl'], '{"filename"'), ('c.doc', ['--format', 'csv'], 'filename,'),
    ('c.JSONL', [], '{"filename"')])
def test_format_follows_the_name_or_the_option(name, options, sign, call, model_dir, dataset_dir, tmp_path):
    assert call('generate', '-m', model_dir, '--dataset', dataset_dir, '-o', tmp_path / name, *options)[0] == 0
    text = (tmp_path / name).read_text(encoding='utf-8')
    assert text.lower().startswith(sign)
    if name == 'c.csv':
        assert len(list(csv.DictReader(io.StringIO(text)))) == 5 * 8


def test_search_options_reach_the_search(call, model_dir, dataset_dir):
    def captions(*options):
        out = call('generate', '-m', model_dir, '--dataset', dataset_dir, '--format', 'jsonl', *options)[1]
        return [json.loads(line)['captions'] for line in out.splitlines()]
    for best in captions('--beam-width', 3):
        assert len(best) == 3                           # five, or the width if that is less
    for best in captions('--max-length', 1, '--top', 4):
        assert len(best) == 4 and all(len(c['tokens']) <= 1 for c in best)
    assert not any('<UNK>' in c['tokens'] for best in captions('--top', 20) for c in best)
    assert any('<UNK>' in c['tokens'] for best in captions('--top', 20, '--max-length', 1, '--allow-unk') for c in best)
    scores = [c['log_prob_per_token'] for c in captions('--length-normalization', 1)[0]]
    assert scores == sorted(scores, reverse=True)


def test_every_search(call, model_dir, dataset_dir):
    def captions(*options):
        status, out, err = call('generate', '-m', model_dir, '--dataset', dataset_dir, '--format', 'jsonl', *options)
        assert status == 0, err
        return [json.loads(line)['captions'] for line in out.splitlines()]

    def tokens_of(found):
        return [[c['tokens'] for c in best] for best in found]
    sampled = captions('--sample', '--temperature', 0.8, '--top-k', 6, '--top-p', 0.95, '--seed', 7, '--top', 3)
    search = Sampling(top=3, temperature=0.8, top_k=6, top_p=0.95, seed=7)
    assert tokens_of(sampled) == [[c.tokens for c in r.captions] for r in expected_captions(model_dir, dataset_dir,
                                                                                     search=search)]
    wide = '--beam-width', 10, '--min-length', 3
    groups = captions('--beam-groups', 5, '--diversity-penalty', 0.8, *wide)
    assert tokens_of(groups) == [[c.tokens for c in r.captions] for r in expected_captions(
        model_dir, dataset_dir, beam_groups=5, diversity_penalty=0.8, width=10, min_length=3)]
    assert tokens_of(groups) != tokens_of(captions(*wide))
    for options in ((), ('--sample',), ('--beam-groups', 4)):
        for best in captions('--min-length', 3, '--no-repeat-ngram', 1, *options):
            assert best and all(3 <= len(c['tokens']) == len(set(c['tokens'])) for c in best)


def test_no_words_left(call, model_dir, dataset_dir):
    status, out, err = call('generate', '-m', model_dir, '--dataset', dataset_dir, '--min-length', 50,
                            '--no-repeat-ngram', 1)
    assert status == 1 and out.count('(or no_repeat_ngram excluded every word)') == err.count('\n') == 8
    assert err.count('(or --no-repeat-ngram excluded every word)') == 8, 'on the terminal by its option'


def test_captions_in_bfloat16_where_the_cpu_has_none(call, refused, model_dir, dataset_dir, monkeypatch):
    monkeypatch.setattr(importlib.import_module('chainer_caption.functions.matmul'), 'available', lambda: False)
    argv = '-m', model_dir, '--dataset', dataset_dir, '--top', 1
    status, out, err = call('generate', *argv, '--precision', 'bf16')
    assert status == 0 and err.count('\n') == 1 and 'computing in float32' in err
    assert out == call('generate', *argv)[1]
    assert '--precision fp8' in refused('generate', *argv, '--precision', 'fp8')
    assert '--precision' in refused('evaluate', dataset_dir, '--captions', 'captions.json', '--precision', 'bf16')


def test_several_models_caption_as_one(call, refused, model_dir, demo_model, dataset_dir, model):
    bundle = Bundle.load(model)
    bundle.model.out_word.W.array[...] *= -0.5
    bundle.save(model)
    found = call('generate', '-m', model_dir, '-m', model, '--dataset', dataset_dir)
    expected = expected_captions([model_dir, model], dataset_dir)
    assert found[1] == ''.join(f'# {r.filename}\n' + ''.join(f'{c.text}\n' for c in r.captions) for r in expected)
    assert expected not in [expected_captions(one, dataset_dir) for one in (model_dir, model)]
    line = refused('generate', '-m', model_dir, '-m', demo_model, '--dataset', dataset_dir)
    assert line.startswith(f'{demo_model}: has another vocabulary than {model_dir}; ')


def test_scores_in_text(call, refused, model_dir, dataset_dir):
    out = call('generate', '-m', model_dir, '--dataset', dataset_dir, '--scores', '--top', 2)[1]
    results = expected_captions(model_dir, dataset_dir, top=2)
    assert out == ''.join(f'# {r.filename}\n' + ''.join(f'{c.text} (p={math.exp(c.log_prob):.6f})\n'
                                                        for c in r.captions) for r in results)
    assert '--scores is for text' in refused('generate', '-m', model_dir, '--dataset', dataset_dir, '--scores',
                                             '--format', 'csv')


def test_images_folders_and_failures(call, demo_model, images):
    status, out, err = call('generate', '-m', demo_model, images, '--top', 1, '--format', 'jsonl')
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [row['filename'] for row in rows] == [f'{images}/{name}.png' for name in 'abc']
    assert ['captions' in row for row in rows] == [True, False, True]
    assert set(rows[1]) == {'filename', 'error'} and err == f'{images}/b.png: {rows[1]["error"]}\n'
    assert set(rows[0]['captions'][0]) == {'caption', 'tokens', 'log_prob', 'log_prob_per_token', 'finished'}
    status, out, err = call('generate', '-m', demo_model, images / 'c.png', images / 'a.png', '--top', 2)
    assert (status, err) == (0, '')
    assert [line for line in out.splitlines() if line.startswith('#')] == [f'# {images}/{name}.png' for name in 'ca']
    status, out, err = call('generate', '-m', demo_model, images / 'none.png')
    assert status == 1 and err.startswith(f'{images}/none.png: ') and out.startswith(f'# {images}/none.png\n! ')


def test_standard_input_and_output(call, demo_model, images, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(f'{images}/c.png\0{images}/a.png\0'.encode())))
    monkeypatch.chdir(images)
    status, out, err = call('generate', '-m', demo_model, '-l', '-', '-o', '-', '--top', 1)
    assert (status, err) == (0, '') and out.splitlines()[::2] == [f'# {images}/{name}.png' for name in 'ca']
    assert sorted(os.listdir(images)) == ['a.png', 'b.png', 'c.png']


@pytest.mark.parametrize('encode', [
    lambda text: text.encode('utf-16'), lambda text: '\ufeff'.encode('utf-16-be') + text.encode('utf-16-be'),
    lambda text: text.replace('\n', '\0').encode(), lambda text: text.replace('\n', '\r\n').encode('utf-8-sig')],
    ids=['UTF-16', 'UTF-16, big-endian', 'NUL', 'UTF-8 with a mark'])
def test_lists_of_every_encoding_and_folders_in_them(encode, call, demo_model, images, tmp_path):
    (images / 'ch\xf3').mkdir()
    (images / 'a.png').rename(images / 'ch\xf3' / 'a.png')
    (tmp_path / 'list').write_bytes(encode(f'{images}/c.png\n{images}/ch\xf3\n'))
    status, out, err = call('generate', '-m', demo_model, '-l', tmp_path / 'list', '--top', 1)
    assert (status, err) == (0, '')
    assert out.splitlines()[::2] == [f'# {images}/c.png', f'# {images}/ch\xf3/a.png']


def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(refused, images, tmp_path, monkeypatch):
    monkeypatch.setattr(Captioner, 'load', lambda *args, **kwargs: pytest.fail('a model is loaded'))
    line = refused('generate', images, '-o', tmp_path / 'captions.doc')
    assert '.doc' in line and all(suffix in line for suffix in ('.txt', '.jsonl', '.json', '.csv', '.tsv', '.html'))
    for output in (tmp_path / 'nowhere' / 'c.txt', tmp_path, tmp_path / ('x' * 250 + '.txt')):
        assert refused('generate', images, '-o', output).startswith(str(output))
    assert refused('generate', images, '--limit', 0) == '--limit 0: must be at least 1'
    assert not list(tmp_path.glob('*.doc'))


def test_a_folder_without_a_model(refused, images, monkeypatch):
    monkeypatch.chdir(images)
    line = refused('generate', '-m', '.', 'a.png')
    assert line.startswith('.: lacks config.json') and 'train it again' not in line


def test_a_limit(call, demo_model, model_dir, dataset_dir, images):
    assert call('generate', '-m', demo_model, images, '--limit', 1)[1].count('# ') == 1
    assert call('generate', '-m', model_dir, '--dataset', dataset_dir, '--limit', 3)[1].count('# ') == 3


def test_quiet(call, demo_model, images):
    command = 'generate', '-m', demo_model, images, '--top', 1, '-s', 'x.json'
    loud, quiet = call(*command), call(*command, '--quiet')
    assert loud[:2] == quiet[:2] and len(loud[2].splitlines()) == 2 and '-s is not needed' in loud[2]
    assert quiet[2] == loud[2].splitlines(keepends=True)[1] and 'b.png: ' in quiet[2], 'errors are still shown'


def test_progress_in_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])

    def lines(seconds, quiet=False, total=1000):
        with progress.notices(quiet), progress.Progress('generate', total) as bar:
            for _ in range(1000):
                now[0] += seconds
                bar.update()
        return capsys.readouterr().err.splitlines()
    assert lines(1)[:4] == [f'generate: {done} of 1,000 images, 1.0 a second' for done in (30, 60, 90, 120)]
    assert lines(0.1) == [f'generate: {done:,} of 1,000 images, 10.0 a second' for done in range(100, 1001, 100)]
    assert len(lines(0.01)) == 1 and lines(0.001) == lines(1, quiet=True) == []
    assert lines(0.25, total=None)[0] == 'generate: 120 images, 4.0 a second'


def test_no_progress_for_short_work(call, demo_model, images):
    assert call('generate', '-m', demo_model, images / 'a.png', '-o', images / 'out.txt') == (0, '', '')


# The letters of 2017

def test_letters_of_the_seed(call, dataset_dir, model_dir, tmp_path):
    model = tmp_path / 'model'
    status, _, err = call('train', '-g', '-1', '-s', dataset_dir / 'dataset.json', '-i', dataset_dir / 'vgg_feats.mat',
                          '-m', model_dir / 'weights.npz', '-o', model, '--iter', 0)
    assert (status, err) == (0, '')
    assert config_of(model)['hidden'] == 16, 'that of the weights'
    for name in ('word_vec/W', 'lstm/lateral/W'):
        with np.load(model / 'weights.npz') as a, np.load(model_dir / 'weights.npz') as b:
            np.testing.assert_array_equal(a[name], b[name])
    assert expected_captions(model, dataset_dir) == expected_captions(model_dir, dataset_dir)


def test_letters_of_the_seeds_generator(call, demo_model, images):
    (images / 'list').write_text(f'{images}/c.png\n\n{images}/a.png\r\n{images}/c.png\n')
    status, out, err = call('generate', '-g', '-1', '-i', DEMO_WEIGHTS, '-m', demo_model, '-l', images / 'list',
                            '-s', 'sentence.json', '--top', 1)
    assert status == 0 and out.splitlines()[::2] == [f'# {images}/{name}.png' for name in 'cac']
    assert err.count('\n') == 1 and '-s is not needed' in err


def test_a_list_with_a_byte_order_mark(call, demo_model, images):
    (images / 'list').write_text(f'{images}/c.png\r\n{images}/a.png\r\n', encoding='utf-8-sig')
    status, out, err = call('generate', '-m', demo_model, '-l', images / 'list', '--top', 1)
    assert (status, err) == (0, '') and out.splitlines()[::2] == [f'# {images}/{name}.png' for name in 'ca']


def test_start_from_a_model_directory(call, dataset_dir, model_dir, tmp_path):
    status, _, err = call('train', dataset_dir, '-m', model_dir, '-o', tmp_path / 'm', '--iter', 1, '--batch-size', 32)
    assert (status, err) == (0, '')
    assert (tmp_path / 'm' / 'vocabulary.json').read_bytes() == (model_dir / 'vocabulary.json').read_bytes()


def test_fine_tuning_in_place(call, dataset_dir, model):
    status, _, err = call('train', dataset_dir, '-m', model, '-o', model, '--overwrite', '--iter', 1)
    assert (status, err) == (0, '')
    assert 'start_from' in config_of(model)['training']


# Resuming, overwriting

def test_existing_models_are_refused_resumed_or_replaced(call, refused, dataset_dir, tmp_path):
    model = tmp_path / 'model'
    assert call('train', dataset_dir, '-o', model, *SMALL, '--resume')[0] == 0      # nothing yet: it starts afresh
    weights = (model / 'weights.npz').read_bytes()
    line = refused('train', dataset_dir, '-o', model, *SMALL)
    assert line.startswith(f'{model}: there is a model in it already; --resume') and '--overwrite' in line
    for changed, name in ((['--hidden', 9], 'hidden 8, not 9'), (['--seed', 1], 'seed 0, not 1'),
                          (['--dropout', 0.1], 'dropout 0.5, not 0.1'), (['--batch-size', 9], 'batch_size 32')):
        line = refused('train', dataset_dir, '-o', model, *SMALL, '--resume', *changed)
        assert line.startswith(f'{model}: ') and name in line
    assert (model / 'weights.npz').read_bytes() == weights, 'a refusal changes nothing'
    assert call('train', dataset_dir, '-o', model, *SMALL, '--resume', '--epochs', 3, '--patience', 9)[0] == 0
    log = json.loads((model / 'log.json').read_text())
    assert [entry['epoch'] for entry in log] == [1, 2, 3]
    assert call('train', dataset_dir, '-o', model, *SMALL, '--overwrite')[0] == 0
    assert len(json.loads((model / 'log.json').read_text())) == 1
    assert (model / 'weights.npz').read_bytes() == weights, 'the same seed, the same weights'


def test_resuming_on_another_dataset(refused, make_dataset, model):
    line = refused('train', make_dataset(seed=9), '-o', model, '--resume', '--hidden', 16, '--batch-size', 32)
    assert line.startswith(f'{model}: was trained with another dataset')


def test_resuming_from_the_same_weights_in_another_file(call, refused, dataset_dir, model_dir, tmp_path):
    with np.load(model_dir / 'weights.npz') as f:
        weights = {name: f[name] for name in f.files}
    np.savez(tmp_path / 'a.npz', **weights)
    np.savez(tmp_path / 'b.npz', **dict(reversed(weights.items())))
    assert (tmp_path / 'a.npz').read_bytes() != (tmp_path / 'b.npz').read_bytes()
    arguments = 'train', dataset_dir, '-o', tmp_path / 'm', '--batch-size', 32
    assert call(*arguments, '-m', tmp_path / 'a.npz', '--epochs', 1)[0] == 0
    assert call(*arguments, '-m', tmp_path / 'b.npz', '--epochs', 2, '--resume')[0] == 0
    # What earlier versions wrote: a digest of the file.
    config = config_of(tmp_path / 'm')
    config['training']['start_from'] = sample_digest(tmp_path / 'a.npz')
    (tmp_path / 'm' / 'config.json').write_text(json.dumps(config))
    line = refused(*arguments, '-m', tmp_path / 'b.npz', '--epochs', 3, '--resume')
    assert 'was trained with another model to start from (-m)' in line
    assert call(*arguments, '-m', tmp_path / 'a.npz', '--epochs', 3, '--resume')[0] == 0
    assert call(*arguments, '--epochs', 4, '--resume')[0] == 0


def test_resuming_from_other_weights(call, refused, dataset_dir, model_dir, tmp_path):
    arguments = 'train', dataset_dir, '-o', tmp_path / 'm', '--epochs', 1, '--batch-size', 32
    assert call(*arguments, '-m', model_dir)[0] == 0
    line = refused(*arguments, '--resume', '-m', tmp_path / 'm' / 'weights.npz')
    assert line.startswith(f'{tmp_path}/m: ') and '--start-from' not in line, 'no such option: it is -m'
    assert call(*arguments, '--resume', '-m', model_dir, '--epochs', 2)[0] == 0


@pytest.mark.parametrize('content', ['', '[]', '{"training": []}'])
def test_resuming_a_damaged_model(content, refused, dataset_dir, model):
    (model / 'config.json').write_text(content)
    assert str(model) in refused('train', dataset_dir, '-o', model, '--resume', '--hidden', 16, '--batch-size', 32)


def test_a_wrong_call_deletes_nothing(refused, dataset_dir, make_dataset, model):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    refused('train', make_dataset(splits=['val', 'test']), '-o', model, '--overwrite')
    refused('train', dataset_dir, '-o', model, '--overwrite', '-m', dataset_dir / 'none.npz')
    refused('train', dataset_dir, '-o', model, '--overwrite', '--batch-size', 0)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


# What is wrong with the input

def edit(path, *replacements):
    content = path.read_bytes()
    for old, new in replacements:
        content = content.replace(old, new)
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


def save(path, matrix):
    with open(path, 'wb') as f:
        np.save(f, matrix)


@pytest.mark.parametrize('damage, name', [
    (lambda r: (r / 'vgg_feats.mat').unlink(), ''),
    (lambda r: (r / 'dataset.json').unlink(), 'dataset.json'),
    (lambda r: cut(r / 'dataset.json'), 'dataset.json'),
    (lambda r: cut(r / 'vgg_feats.mat'), 'vgg_feats.mat'),
    (lambda r: save(r / 'vgg_feats.mat', np.ones((16, 48))), 'vgg_feats.mat'),
    (lambda r: save(r / 'vgg_feats.mat', np.full((48, 16), np.nan)), 'vgg_feats.mat'),
    (lambda r: edit(r / 'dataset.json', (b'"imgid": 9,', b'"imgid": 999,')), 'vgg_feats.mat'),
    (lambda r: edit(r / 'dataset.json', (b'"train"', b'"val"'), (b'"restval"', b'"val"')), 'dataset.json'),
], ids=['no matrix', 'no dataset', 'JSON cut short', 'matrix cut short', 'transposed', 'NaN', 'imgid without a column',
        'no training split'])
def test_wrong_releases(damage, name, refused, make_dataset, tmp_path):
    dataset = make_dataset()
    damage(dataset)
    assert refused('train', dataset, '-o', tmp_path / 'model', *SMALL).startswith(str(dataset / name))
    assert not (tmp_path / 'model' / 'config.json').exists()


@pytest.mark.parametrize('name', ['config.json', 'vocabulary.json', 'weights.npz'])
def test_incomplete_models(name, refused, dataset_dir, model):
    (model / name).unlink()
    line = refused('generate', '-m', model, '--dataset', dataset_dir)
    assert line.startswith(f'{model}: lacks {name}')


def test_weights_with_a_pickle(refused, dataset_dir, model, payload, tmp_path):
    array = np.empty(1, object)
    array[0] = payload
    np.savez(model / 'weights.npz', **{'word_vec/W': array})
    for line in (refused('generate', '-m', model, '--dataset', dataset_dir),
                 refused('train', dataset_dir, '-o', tmp_path / 'm', '-m', model / 'weights.npz')):
        assert line.startswith(f'{model}/weights.npz: ') and 'pickle' in line
    assert not payload.ran


def test_a_model_whose_scores_overflow(call, dataset_dir, model):
    with np.load(model / 'weights.npz') as f:
        np.savez(model / 'weights.npz', **{name: np.sign(f[name]) * np.float32(1e38) for name in f.files})
    status, out, err = call('generate', '-m', model, '--dataset', dataset_dir, '--format', 'jsonl')
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and len(rows) == err.count('\n') == 8
    assert all(row.keys() == {'filename', 'error'} and 'the scores overflow' in row['error'] for row in rows)
    assert err.startswith(f'0005.png: {rows[0]["error"]}\n')
    status, out, err = call('evaluate', dataset_dir, '-m', model)
    last = err.splitlines()[-1]                         # a notice comes before it where WordNet's data are missing
    assert (status, out) == (2, '') and last.startswith('evaluate.py: model: 0005.png: no caption is found'), err
    assert 'Traceback' not in err and 'Warning' not in err


def test_features_that_do_not_fit_the_model(refused, make_dataset, model_dir, tmp_path):
    dataset = make_dataset(dim=17)
    line = refused('generate', '-m', model_dir, '--dataset', dataset)
    assert line.startswith(f'{dataset}/vgg_feats.mat has features of 17 numbers, but the model was trained on 16')
    line = refused('train', dataset, '-o', tmp_path / 'm', '-m', model_dir / 'weights.npz')
    assert line.startswith(f'{model_dir}/weights.npz: image_vec/W is float32 of shape (16, 16)')
    line = refused('generate', '-m', model_dir, '--encoder', 'demo', '--preprocessing', 'demo', UNSEEN)
    assert line == 'the encoder demo has features of 4096 numbers, but the model was trained on 16'


def test_origins_that_differ(call, refused, make_dataset, model_dir, demo_model, tmp_path):
    dataset = make_dataset()
    assert call('train', dataset, '-o', tmp_path / 'm', *SMALL, '--encoder', 'vgg16', '--preprocessing',
                'karpathy')[0] == 0
    assert config_of(tmp_path / 'm')['features'] == {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    (dataset / 'vgg_feats.mat.json').write_text('{"encoder": "vgg19", "preprocessing": "karpathy"}')
    assert 'vgg19' in refused('train', dataset, '-o', tmp_path / 'n', '--encoder', 'vgg16', '--preprocessing',
                              'karpathy')
    assert 'vgg19' in refused('generate', '-m', tmp_path / 'm', '--dataset', dataset)
    assert refused('generate', '-m', demo_model, '--encoder', 'vgg19', UNSEEN).startswith(
        f'--encoder vgg19: the model {demo_model} was trained on features of the encoder demo')


@pytest.mark.skipif(gpu_is_there(), reason='there is a GPU')
@pytest.mark.parametrize('gpu', ['0', '7', '@cupy:0'])
def test_gpu_where_there_is_none(gpu, refused, dataset_dir, model_dir, tmp_path):
    assert refused('train', dataset_dir, '-o', tmp_path / 'm', '-g', gpu).startswith(f'-g {gpu}: no GPU')
    assert refused('generate', '-m', model_dir, '--dataset', dataset_dir, '-g', gpu).startswith(f'-g {gpu}: no GPU')
    assert not (tmp_path / 'm').exists()


def test_gpu_where_there_is_cupy_alone(cupy_environment, dataset_dir, tmp_path):
    command = sys.executable, ROOT / 'scripts' / 'train.py', dataset_dir, '-o', tmp_path / 'm', '-g', '0'
    done = subprocess.run(command, env=cupy_environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert done.stderr.startswith('train.py: -g 0: no GPU can be used here: ')


def test_tests_of_the_gpu_skip_where_there_is_cupy_alone(cupy_environment):
    command = sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-m', 'gpu', 'tests/test_functions.py'
    done = subprocess.run(command, env=cupy_environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and 'skipped' in done.stdout and 'passed' not in done.stdout, done.stdout


@pytest.mark.gpu
def test_gpu_that_is_not_there(refused, dataset_dir, tmp_path):
    assert refused('train', dataset_dir, '-o', tmp_path / 'm', '-g', '99').startswith('-g 99: ')


@pytest.mark.parametrize('gpu', ['@nonsense', '@numpy:9'])
def test_devices_that_are_none(gpu, refused, dataset_dir, tmp_path):
    assert refused('train', dataset_dir, '-o', tmp_path / 'm', '-g', gpu).startswith(f'-g {gpu}: ')


def test_outputs_that_cannot_be_written(refused, dataset_dir, model_dir, tmp_path):
    (tmp_path / 'file').write_text('kept')
    assert refused('train', dataset_dir, '-o', tmp_path / 'file').startswith(f'{tmp_path}/file: cannot be written')
    assert refused('train', dataset_dir, '-o', tmp_path / 'file' / 'm').startswith(f'{tmp_path}/file')
    for name in ('none/out.txt', 'none/out.html', 'none/out.csv', 'none/out.jsonl', 'file/out.txt', '.'):
        line = refused('generate', '-m', model_dir, '--dataset', dataset_dir, '-o', tmp_path / name)
        assert line.startswith(str(tmp_path / name)) and ('cannot be written' in line or 'is a folder' in line), line
    assert (tmp_path / 'file').read_text() == 'kept'


@pytest.mark.parametrize('options, words', [
    (['--top', '21'], '--top 21'), (['--top', '4', '--beam-width', '3'], '--top 4'), (['--top', '0'], '--top 0'),
    (['--beam-width', '0'], '--beam-width 0'), (['--max-length', '0'], 'max-length'),
    (['--length-normalization', '-1'], 'length-normalization'), (['--split', 'training'], '--split'),
    (['--sample', '--beam-width', '3'], '--beam-width is for beam search'), (['--beam-groups', '5', '--sample'],
                                                                       '--beam-groups'),
    (['--sample', '--length-normalization', '1'], '--length-normalization'), (['--top-p', '0.5'], '--top-p belongs to'),
    (['--seed', '0'], '--seed belongs'), (['--diversity-penalty', '1'], '--diversity-penalty belongs'),
    (['--beam-groups', '3'], '--beam-groups 3'),
    (['--sample', '--temperature', '0'], '--temperature 0'), (['--min-length', '61'], '--min-length 61'),
    (['--top', 'five'], '--top'), (['--nonsense'], '--nonsense'), (['image.png'], 'not both')])
def test_wrong_search_options(options, words, refused, model_dir, dataset_dir, tmp_path):
    (tmp_path / 'out.txt').write_text('kept')
    line = refused('generate', '-m', model_dir, '--dataset', dataset_dir, '-o', tmp_path / 'out.txt', *options)
    assert words in line
    assert (tmp_path / 'out.txt').read_text() == 'kept', 'a wrong call destroys nothing'


@pytest.mark.parametrize('options', [
    ['--epochs', '-1'], ['--batch-size', '0'], ['--hidden', '0'], ['--dropout', '1'], ['--dropout', 'nan'],
    ['--min-count', '0'], ['--seed', '-1'], ['--patience', '0'], ['--epochs', 'many'], ['--encoder', 'vgg19'],
    ['--encoder', 'vgg20', '--preprocessing', 'karpathy'], ['--resume', '--overwrite'], ['--keep-best', 'bleu'],
    ['--score-every', '-1'], ['--keep-best', 'cider', '--score-every', '0'], ['--seed', '4294967296'],
    ['--hidden', '100000000'], ['--batch-size', '99999999999999999999'], ['--architecture', 'attention'],
    ['--max-positions', '20'], ['--max-positions', '5000', '--architecture', 'encoder_decoder']], ids=' '.join)
def test_wrong_training_options(options, refused, dataset_dir, tmp_path):
    assert options[0] in refused('train', dataset_dir, '-o', tmp_path / 'm', *options)


def test_numbers_with_commas(call, refused, dataset_dir, model_dir):
    for command in (('evaluate', dataset_dir, '-m', model_dir, '--beam-widths'),
                    ('describe', dataset_dir, '--min-count')):
        for wrong in ('1,x', '1.5', ''):
            assert f"{command[-1]}: {wrong!r} is no list of whole numbers" in refused(*command, wrong)
    assert len(json.loads(call('describe', dataset_dir, '--min-count', '1,7', '--json')[1])['vocabulary']) == 2


@pytest.mark.parametrize(('where', 'line'), [
    ('models.show_and_tell.L.EmbedID',
     '--hidden 9: such a model does not fit into memory (Unable to allocate 2.0 TiB)'),
    ('training.run.make_trainer', 'Unable to allocate 2.0 TiB; free some or lower --batch-size or --hidden')])
def test_too_little_memory(where, line, refused, dataset_dir, tmp_path, monkeypatch):
    # Not really: some systems promise any amount, and end the process that takes it at its word.
    def fail(*args, **kwargs):
        raise MemoryError('Unable to allocate 2.0 TiB')
    monkeypatch.setattr(f'chainer_caption.{where}', fail)
    assert refused('train', dataset_dir, '-o', tmp_path / 'm', '--hidden', 9) == line


def test_nothing_to_do(refused, call, model_dir, tmp_path):
    assert 'nothing to caption' in refused('generate', '-m', model_dir)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'list').write_text('\n')
    assert refused('generate', '-m', model_dir, tmp_path / 'empty').startswith(f'{tmp_path}/empty: ')
    assert refused('generate', '-m', model_dir, '-l', tmp_path / 'list').startswith(f'{tmp_path}/list: ')
    assert refused('generate', '-m', model_dir, '-l', tmp_path / 'none').startswith(f'{tmp_path}/none: no such file')
    assert refused('generate', '-m', tmp_path / 'none', 'a.png').startswith(f'{tmp_path}/none: no such model')
    assert refused('generate', '-m', model_dir, '--dataset', tmp_path / 'x').startswith(f'{tmp_path}/x: no such folder')
    assert 'dataset is a folder' in refused('train', '-o', tmp_path / 'm')
    assert refused('train', tmp_path / 'x', '-o', tmp_path / 'm').startswith(f'{tmp_path}/x: no such folder')
    assert '-o' in refused('train', tmp_path)
    assert '--split belongs' in refused('generate', '-m', model_dir, 'a.png', '--split', 'val')


# Help, and the scripts themselves

@pytest.mark.parametrize('name', cli.COMMANDS)
def test_help_shows_examples(name, call):
    status, out, err = call(name, '-h')
    assert (status, err) == (0, '')
    assert 'examples:' in out and out.count(f'chainer-caption {name} ') >= 3
    assert ('None' not in out and 'general options:' in out) or name == 'benchmark'


def examples_of(name):
    """The calls in a command's help, without the remarks on them: lists of arguments."""
    calls = []
    for line in cli.parser_of(name, name).epilog.splitlines():
        before, program, arguments = re.split(r' {3,}', line.strip())[0].partition(f'chainer-caption {name} ')
        if program and (not before or before.startswith('mpiexec ') or before.endswith('| ')):
            calls.append(shlex.split(arguments))
    return calls


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_examples_are_calls_that_the_command_takes(name):
    calls = examples_of(name)
    assert len(calls) >= 3
    for call in calls:
        cli.parser_of(name, f'{name}.py').parse_args(call)


def test_examples_that_need_nothing_but_images(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(UNSEEN, tmp_path / 'drawings')
    ran = 0
    for name in ('extract-features', 'check-features'):
        for arguments in examples_of(name):
            if 'demo' in arguments:
                status, _, err = call(name, *arguments)
                assert status == 0, err
                ran += 1
    assert ran == 2


WITHOUT_A_HOME = '''
import os, pwd, sys
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from chainer_caption.cli import main
sys.exit(main())
'''


def test_an_account_that_the_system_does_not_know(package_environment, dataset_dir, model_dir, demo_model, tmp_path):
    environment = {name: value for name, value in package_environment.items() if name not in ('HOME', 'XDG_CACHE_HOME')}

    def run(*arguments):
        return subprocess.run([sys.executable, '-c', WITHOUT_A_HOME, *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)
    (tmp_path / 'c.csv').write_text('filename,caption\n01.png,A red circle.\n')
    for arguments in (('describe', dataset_dir), ('evaluate', dataset_dir, '-m', model_dir, '--beam-widths', '1'),
                      ('extract_features', UNSEEN, '--encoder', 'demo', '-o', 'made', '--captions', 'c.csv'),
                      ('generate', '-m', demo_model, UNSEEN / '01.png')):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    done = run('extract_features', UNSEEN, '-o', 'other')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and ': name it with -i; new features' in done.stderr
    assert set(os.listdir(tmp_path)) == {'c.csv', 'made'}


@pytest.mark.parametrize('name', ['', *cli.COMMANDS])
def test_help_on_a_terminal_that_knows_no_unicode(name, package_environment):
    environment = {**package_environment, 'LC_ALL': 'C', 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'}
    done = subprocess.run([sys.executable, '-m', 'chainer_caption', *filter(None, [name]), '-h'], env=environment,
                          capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b'') and done.stdout.isascii() and b'usage: ' in done.stdout


def test_the_package_is_a_program(package_environment, dataset_dir, model_dir, tmp_path):
    def run(*arguments):
        return subprocess.run([sys.executable, '-m', 'chainer_caption', *arguments], cwd=tmp_path, text=True,
                              env=package_environment, capture_output=True, check=False)
    done = run('neighbours', model_dir, 'circle', '--top', '1', '--json')
    assert (done.returncode, done.stderr) == (0, '') and len(json.loads(done.stdout)['circle']) == 1
    done = run('describe', 'nowhere')
    assert (done.returncode, done.stdout, done.stderr) == (2, '', 'chainer-caption describe: nowhere: no such folder\n')


def options_of(name):
    """The options of a command and of its subcommands, for users."""
    return [action for parser in cli.parser_of(name, name).leaves() for action in parser._actions]


@pytest.mark.parametrize('name', ['generate', 'benchmark', 'download', 'import-model', 'neighbours'])
def test_every_option_has_a_meaning(name):
    for action in options_of(name):
        assert re.search(r'[a-z]{3}.*[a-z]{3}', re.sub(r'\(.*?\)', '', action.help or '')), action
        if action.choices and action.metavar:
            assert '%(choices)s' in action.help, 'a metavar hides the choices'


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_options_that_all_commands_have(name):
    options = {option for action in options_of(name) for option in action.option_strings}
    assert '--quiet' in options
    assert ('--import' in options) == (name not in ('describe', 'extract-features', 'check-features', 'download'))


@pytest.mark.parametrize(('argv', 'hint'), [
    (['trian'], "no command 'trian'; did you mean train?"), (['import_modle'], 'did you mean import-model?'),
    (['xyz'], 'the commands are train, generate, '),
    (['generate', '--beem-width', '3', 'a.png'], 'for --beem-width, did you mean --beam-width?'),
    (['train', '--outptu=m'], 'for --outptu, did you mean --output?'),
    (['benchmark', 'train', 'x', '--updats', '3'], 'for --updats, did you mean --updates?'),
    (['generate', '--zzzzzz'], 'unrecognized arguments: --zzzzzz (-h')])
def test_hints_for_near_misses(argv, hint, capsys):
    try:
        status = cli.main(argv)
    except SystemExit as e:
        status = e.code
    err = capsys.readouterr().err
    assert status == 2 and hint in err and err.count('\n') == 1


def test_version(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'chainer-caption {chainer_caption.__version__}\n'


def test_underscores_in_command_names_go_on_to_work(capsys):
    with pytest.raises(SystemExit):
        cli.main(['extract_features', '-h'])
    assert capsys.readouterr().out.startswith('usage: chainer-caption extract-features ')


@pytest.mark.parametrize('shell', ['bash', 'zsh'])
def test_completion(shell, capsys):
    pytest.importorskip('shtab')
    assert cli.main(['--print-completion', shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ('extract-features', '--beam-width', '--keep-best', '--import'))
    if shutil.which(shell):
        subprocess.run([shell, '-n'], input=script, text=True, check=True)


def test_completion_without_its_package(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    assert cli.main(['--print-completion', 'bash']) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_import_of_own_modules(call, refused, model_dir, dataset_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    (tmp_path / 'my_module_1.py').write_text('import pathlib\npathlib.Path("it_ran").touch()\n')
    assert call('neighbours', model_dir, 'circle', '--import', 'my_module_1.py', '--import', 'json')[0] == 0
    assert (tmp_path / 'it_ran').exists()
    (tmp_path / 'my_module_2.py').write_text('1 / 0')
    assert refused('neighbours', model_dir, 'circle', '--import', 'my_module_2') == (
        '--import my_module_2: cannot be imported (ZeroDivisionError: division by zero)')
    assert refused('generate', 'a.png', '--import', 'no_such_module').startswith(
        '--import no_such_module: cannot be imported (ModuleNotFoundError: ')


def test_main_lists_the_commands(capsys):
    for argv in ([], ['-h'], ['--help']):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        assert all(f'\n  {name} ' in out for name in cli.COMMANDS)
    assert cli.main(['nonsense']) == 2
    assert capsys.readouterr().err.count('\n') == 1
    with pytest.raises(SystemExit) as caught:
        cli.main(['train', '-h'])
    assert caught.value.code == 0 and 'usage: chainer-caption train' in capsys.readouterr().out


@pytest.mark.parametrize('script', sorted((ROOT / 'scripts').glob('[a-z]*.py')), ids=lambda path: path.name)
def test_scripts_run(script, package_environment, tmp_path):
    done = subprocess.run([sys.executable, script, '-h'], cwd=tmp_path, env=package_environment, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'usage: {script.name}') and 'examples:' in done.stdout
    assert os.access(script, os.X_OK)


def test_a_process_of_its_own(package_environment, dataset_dir, model_dir, tmp_path):
    def generate(*options, **kwargs):
        return subprocess.run([sys.executable, ROOT / 'scripts' / 'generate.py', '-m', model_dir, *options],
                              cwd=tmp_path, env={**package_environment, **kwargs}, capture_output=True, check=False)
    done = generate('--dataset', dataset_dir, '--top', '1', PYTHONWARNINGS='error')
    assert (done.returncode, done.stderr) == (0, b'') and done.stdout.count(b'\n') == 16
    done = generate('--dataset', 'nowhere')
    assert (done.returncode, done.stderr, done.stdout) == (2, b'generate.py: nowhere: no such folder\n', b'')

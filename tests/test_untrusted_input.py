"""Untrusted files: their values are checked, they lead to no other file, and every output escapes them."""
import io
import json
import pathlib
import re
import shutil
import struct

import h5py
import numpy as np
import pytest
from PIL import Image
from test_fuzz import mat5_claiming, refusal

from chainer_caption import Bundle, Dataset, InputError, Settings, train
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.cli.common import failure, say
from chainer_caption.data.matlab import read_hdf5
from chainer_caption.data.matrix import open_matrix
from chainer_caption.evaluation.predictions import Prediction
from chainer_caption.features.images import ImageError
from chainer_caption.report import open_writer
from chainer_caption.report.evaluation_page import score_tables, write_evaluation_page, write_image_scores
from chainer_caption.storage import children
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.journal import Journal
from chainer_caption.storage.serializers import arrays_digest
from chainer_caption.training.snapshots import Snapshots, read_snapshot

HOSTILE = 'a\x1b[2J\x07\r\n\x85\u2028b'


# ---- Numbers and shapes are checked before use

@pytest.mark.parametrize('name, changes', [
    ('config.json', {'hidden': 10 ** 4290}), ('config.json', {'vocabulary_size': 2 ** 63}),
    ('vocabulary.json', {'counts': [10 ** 400] * 12}), ('vocabulary.json', {'words': ['x' * 10 ** 6] * 12})], ids=str)
def test_numbers_too_large(name, changes, tmp_path, model_dir):
    model = shutil.copytree(model_dir, tmp_path / 'model')
    value = json.loads((model / name).read_text(encoding='utf-8'))
    (model / name).write_text(json.dumps({**value, **changes}), encoding='utf-8')
    with pytest.raises(InputError):
        Bundle.load(model)


def test_only_encoder_and_preprocessing_are_taken_from_a_model(tmp_path, model_dir):
    model = shutil.copytree(model_dir, tmp_path / 'model')
    config = json.loads((model / 'config.json').read_text())
    config['features'] = {'encoder': 'demo', 'preprocessing': 'demo', 'weights': '/etc/passwd', 'device': '@cupy:7'}
    (model / 'config.json').write_text(json.dumps(config))
    assert Bundle.load(model).provenance == {'encoder': 'demo', 'preprocessing': 'demo'}


@pytest.mark.parametrize('name, value', [
    ('updater/optimizer:main/out_word/W/m', np.zeros(3, np.float32)),      # a compiled loop would read beyond it
    ('updater/optimizer:main/out_word/W/v', np.zeros((12, 16))),
    ('updater/iterator:main/current_position', np.int64(10 ** 6)), ('updater/iterator:main/epoch', np.int64(-1)),
    ('updater/model:main/out_word/b', np.full(12, np.nan, np.float32)), ('updater/iteration', np.array('text')),
    ('extensions/LogReport/_log', np.array('5')), ('extensions/LogReport/_log', np.array('[' * 5000)),
    ('extensions/LogReport/_log', np.array('[{"epoch": "\x1b[2J"}]')), ('updater/iteration', None)])
def test_forged_snapshots_are_refused(name, value, tmp_path, model_dir, dataset_dir):
    model = shutil.copytree(model_dir, tmp_path / 'model')
    path = model / f'snapshot-{Snapshots(model).updates()[0]}.npz'
    arrays = read_snapshot(path)
    assert name in arrays
    arrays[name] = value
    arrays = {key: np.asarray(array) for key, array in arrays.items() if array is not None}
    with open(path, 'wb') as f:                         # an attacker can write a valid checksum
        np.savez(f, **arrays, checksum=np.frombuffer(bytes.fromhex(arrays_digest(arrays)), np.uint8))
    with pytest.raises(InputError, match='not a snapshot of this training'):
        train(Dataset(dataset_dir), model, Settings(epochs=3, batch_size=32, hidden=16), resume=True)


def test_a_forged_cache_entry_is_computed_again(tmp_path, dataset_dir, cache):
    dataset = Dataset(dataset_dir)
    entry, = cache.rglob('captions.npz')
    sound = read_npz(entry)
    for name, value in (('tokens', sound['tokens'] + 10 ** 6), ('bounds', sound['bounds'][::-1]),
                        ('splits', np.zeros(3)), ('words', sound['words'][:-3]),
                        ('filenames', np.frombuffer(b'[1, null]', np.uint8)), ('sentences', -sound['sentences'])):
        with open(entry, 'wb') as f:
            np.savez(f, **{**sound, name: value})
        again = Dataset(dataset_dir)
        assert again.references(0) == dataset.references(0)
        assert again.word_counts('train') == dataset.word_counts('train')


# ---- C code that crashes, hangs or takes memory runs in a separate process

@pytest.mark.parametrize('program, reason', [
    ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', r'makes its reader fail \(-11\)'),
    ('import os, signal; os.kill(os.getpid(), signal.SIGXCPU)', 'takes too long to read'),
    ('raise SystemExit(3)', r'makes its reader fail \(3\)'), ('print("x" * 100)', 'makes its reader fail')])
def test_a_crash_of_the_matlab_reader_is_one_line(program, reason, tmp_path, monkeypatch):
    (tmp_path / 'child.py').write_text(program)
    monkeypatch.setattr(children, '_CHILD', tmp_path / 'child.py')
    (tmp_path / 'vgg_feats.mat').write_bytes(mat5_claiming(5, 7))
    with pytest.raises(InputError, match=reason):
        open_matrix(tmp_path / 'vgg_feats.mat')


def test_the_byte_that_crashes_scipy(tmp_path):
    """An unknown number type, on which SciPy 1.17 ends its process."""
    content, tag = mat5_claiming(5, 7), struct.pack('<II', 9, 280)
    assert content.count(tag) == 1
    (tmp_path / 'vgg_feats.mat').write_bytes(content.replace(tag, struct.pack('<II', 50, 280)))
    assert 'not a sound MATLAB file' in refusal(open_matrix, tmp_path / 'vgg_feats.mat')


def test_of_a_repeated_variable_the_first_is_read(tmp_path):
    """The variable that is checked is the one that is read."""
    path = tmp_path / 'vgg_feats.mat'
    path.write_bytes(mat5_claiming(2500, 10 ** 9) + mat5_claiming(5, 7)[128:])
    assert 'claims' in refusal(open_matrix, path)
    path.write_bytes(mat5_claiming(5, 7) + mat5_claiming(2500, 10 ** 9)[128:])
    np.testing.assert_array_equal(open_matrix(path), np.ones((7, 5)))


# ---- No path leads outside

def test_hdf5_reads_no_other_file(tmp_path):
    secret = tmp_path / 'secret'
    secret.write_bytes(bytes(range(140)))
    with h5py.File(tmp_path / 'other.h5', 'w') as f:
        f['feats'] = np.ones((7, 5), np.float32)
    path = tmp_path / 'vgg_feats.mat'
    layout = h5py.VirtualLayout((7, 5), 'f')
    layout[:] = h5py.VirtualSource(tmp_path / 'other.h5', 'feats', (7, 5))
    for make in (lambda f: f.create_dataset('feats', (7, 5), 'f', external=[(str(secret), 0, 140)]),
                 lambda f: f.create_virtual_dataset('feats', layout),
                 lambda f: f.__setitem__('feats', h5py.ExternalLink('other.h5', 'feats'))):
        with h5py.File(path, 'w') as f:
            make(f)
        assert 'holds no array "feats"' in refusal(open_matrix, path)
    with h5py.File(path, 'w') as f:
        f['a/ours'] = np.ones(3)
        f['b'] = h5py.ExternalLink('other.h5', '/')
    assert read_hdf5(path, ['a/ours'])['a/ours'].tolist() == [1, 1, 1]
    assert 'holds no array "b/feats"' in refusal(lambda path: read_hdf5(path, ['a/ours', 'b/feats']), path)


class _Evaluation:
    name = label = f'model{HOSTILE}'
    settings, tokenizer = {}, 'words'

    def __init__(self, count):
        self.figures = dict.fromkeys(('CIDEr', 'BLEU-4', 'ROUGE-L'), 0.5)
        self.each = {name: np.full(count, 0.5) for name in self.figures}
        self.predictions = [Prediction([f'<script>{HOSTILE}']) for _ in range(count)]


def test_file_names_of_a_dataset_show_no_other_images(tmp_path):
    folder = tmp_path / 'images'
    (folder / 'below').mkdir(parents=True)
    for path in (tmp_path / 'secret.png', folder / 'good.png', folder / 'below' / 'good.png'):
        Image.new('RGB', (8, 8), 'red').save(path)

    def shown(*names):
        page = io.StringIO()
        write_evaluation_page(page, [_Evaluation(len(names))], names, [[['a']]] * len(names), 'x', {}, folder)
        return page.getvalue().count('<img')
    assert shown('good.png', 'below/good.png', 'below/../good.png') == 3
    assert shown('../secret.png', str(tmp_path / 'secret.png'), 'below/../../secret.png', '../images/../secret.png',
                 '\0', 'x' * 5000, '..', '') == 0


# ---- Escaped in every output

def test_a_message_is_one_printable_line():
    for error in (InputError(f'{HOSTILE}: x'), ImageError('a.png', HOSTILE)):
        assert str(error).startswith('a\\x1b[2J\\x07 \\x85\\u2028b') and str(error).isprintable()
    assert len(str(InputError('x' * 10 ** 6))) < 2100


def test_printed_text_is_escaped(capsys):
    say(HOSTILE)
    assert capsys.readouterr().err == 'a\\x1b[2J\\x07 \\x85\\u2028b\n'
    assert failure('\x1b[1m\udcff', 'x\ny').isprintable()
    assert failure('a.png', 'above the limit of 9 (max_pixels)').endswith(' (--max-pixels)')
    assert score_tables([_Evaluation(1)]).replace('\n', '').isprintable()


def test_rows_of_every_format_are_escaped():
    results = [Result(HOSTILE, HOSTILE, captions=[Caption([HOSTILE, '</script>'], -1.0, -0.5, True)])]
    for kind in ('text', 'jsonl', 'csv'):
        stream = io.StringIO()
        with open_writer(kind, stream) as writer:
            for result in results:
                writer.write(result)
        assert re.search('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]', stream.getvalue()) is None, kind
    stream = io.StringIO()
    write_image_scores(stream, [_Evaluation(2)], [HOSTILE] * 2, [0, 1])
    assert len(stream.getvalue().splitlines()) == 2 and '\x1b' not in stream.getvalue()


@pytest.mark.parametrize('begin', ['=', '+', '-', '@', '\t', '\r', '\n', '\uff1d', '\uff0b', '\uff0d', '\uff20'])
def test_formulas_in_csv_are_escaped(begin):
    stream = io.StringIO()
    with open_writer('csv', stream) as writer:
        writer.write(Result(f'{begin}1', f'{begin}1', captions=[Caption([f'{begin}1'], -1.0, -0.5, True)]))
        writer.write(Result(f'{begin}1', f'{begin}1', error=f'{begin}1'))
    assert stream.getvalue().count(f"'{begin}1") == stream.getvalue().count(f'./{begin}1') == 2


def test_a_journal_shows_no_other_image(call, demo_model, tmp_path):
    """A forged journal names another image; only the image that was asked for counts."""
    Image.new('RGB', (8, 8), 'red').save(tmp_path / 'secret.png')
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    command = '-m', demo_model, tmp_path / 'a.png', '--beam-width', 2, '-o', tmp_path / 'out.jsonl'
    kept = []
    remove = Journal.remove
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, 'remove', lambda self: kept.append(pathlib.Path(self.path).read_bytes()) or remove(self))
        assert call('generate', *command)[0] == 0
    sound = (tmp_path / 'out.jsonl').read_bytes()
    head, row = (json.loads(line) for line in kept[0].splitlines()[1:])
    for change in ({'path': str(tmp_path / 'secret.png')}, {'error': 5}, {'captions': [{}]}, {'captions': 'x'},
                   {'filename': '../x'}, {'x': 1}):
        rows = [{**row, 'result': {**row['result'], **change}}] * 16
        (tmp_path / 'out.jsonl.part').write_text('\n'.join(map(json.dumps, [head, *rows])) + '\n')
        assert call('generate', *command)[0] == 0
        assert (tmp_path / 'out.jsonl').read_bytes() == sound

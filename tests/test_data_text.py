"""Text without images: how it is read, and the words that it adds to a vocabulary."""
import gzip

import numpy as np
import pytest

from chainer_caption import InputError, Vocabulary
from chainer_caption.data import text as text_module
from chainer_caption.data.text import read_text
from chainer_caption.data.tokenization import tokenize

LINES = ['A dog runs.', '', '…', "Two dogs' ball\tis Red!", 'A dog']


def test_plain_and_compressed_are_the_same_captions(tmp_path):
    data = '\r\n'.join(LINES).encode('utf-8-sig')
    (tmp_path / 'a.txt').write_bytes(data)
    (tmp_path / 'a.gz').write_bytes(gzip.compress(data))
    plain, packed = (read_text(tmp_path / name, 'words') for name in ('a.txt', 'a.gz'))
    assert plain.digest == packed.digest and len(plain) == len(packed) == 3
    captions = [[plain.words[i] for i in plain.tokens[start:stop]]
                for start, stop in zip(plain.bounds, plain.bounds[1:], strict=False)]
    assert captions == [tokenize(line, 'words') for line in LINES if tokenize(line, 'words')]
    assert plain.word_counts() == {'a': 2, 'dog': 2, 'runs': 1, 'two': 1, 'dogs': 1, 'ball': 1, 'is': 1, 'red': 1}
    characters = read_text(tmp_path / 'a.txt', 'characters')
    assert [characters.words[i] for i in characters.tokens[:5]] == ['a', ' ', 'd', 'o', 'g']


def test_examples_are_in_the_ids_of_the_vocabulary(tmp_path):
    (tmp_path / 'a.txt').write_text('\n'.join(LINES), 'utf-8')
    text = read_text(tmp_path / 'a.txt', 'words')
    vocabulary = Vocabulary.from_counts({'dog': 9, 'a': 9}, 9)
    examples = text.examples(vocabulary)[:]
    assert [row for row, _ in examples] == [0, 0, 0]
    assert [vocabulary.decode(words) for _, words in examples] == [
        ['a', 'dog', '<UNK>', '</S>'], ['<UNK>'] * 5 + ['</S>'], ['a', 'dog', '</S>']]
    assert text.unknown_share(vocabulary) == pytest.approx(6 / 10)


@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'no caption'), (b'\n ... \n', 'no caption'), (b'a dog\ncaf\xe9\n', 'line 2 is not UTF-8'),
    (gzip.compress(b'a dog\n' * 99, mtime=0)[:-9], 'damaged'), (b'\x1f\x8bno archive', 'damaged'),
    (gzip.compress(b'a dog\n' * 9, mtime=0)[:20] + b'\xff' * 40, 'damaged'), (b'a ' * 2 ** 15 + b'a', 'line 1 ')])
def test_what_is_no_text_is_refused_in_a_line(data, message, tmp_path):
    (tmp_path / 'a.txt').write_bytes(data)
    with pytest.raises(InputError, match=message) as refused:
        read_text(tmp_path / 'a.txt', 'words')
    assert str(refused.value).startswith(f'{tmp_path / "a.txt"}: ')


def test_an_archive_of_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, '_LARGEST', 10 ** 6)
    (tmp_path / 'a.gz').write_bytes(gzip.compress(b'a dog\n' * 10 ** 6))
    with pytest.raises(InputError, match='line 166667 '):
        read_text(tmp_path / 'a.gz', 'words')


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r'none\.txt: no such file'):
        read_text(tmp_path / 'none.txt', 'words')


def test_the_vocabulary_of_captions_and_text():
    counts, text = {'a': 9, 'dog': 3, 'cat': 1}, {'dog': 3, 'cat': 1, 'eel': 7, 'fox': 4, '<UNK>': 99}
    plain, grown, more = (Vocabulary.from_counts(counts, 4, 5, *of) for of in (({},), (text,), (text, 5)))
    assert [v.words[3:] for v in (plain, grown, more)] == [['a'], ['a', 'dog'], ['a', 'dog', 'eel']]
    assert grown.counts[2:] == [2 + 7 + 4 + 99, 9, 6]   # <UNK>, a, dog
    np.testing.assert_array_equal(Vocabulary.from_counts(text, 4, 5, text={}, text_min_count=1).words,
                                  Vocabulary.from_counts(text, 4, 5).words)

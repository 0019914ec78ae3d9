"""What is written is read back by the formats' own readers, whatever the names and captions hold."""
import csv
import dataclasses
import io
import json
import os
import types
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from chainer_caption.captioning.results import Caption, Result
from chainer_caption.errors import InputError
from chainer_caption.report import WRITERS, open_writer
from chainer_caption.report.sidecars import sidecar

HOSTILE_NAMES = ['a b.jpg', 'quote"\'.jpg', 'line\nbreak\r.jpg', '<script>alert(1)</script>.jpg',
                 '\u2028\x85\x1b[31m.jpg', 'chó 狗 🐕.jpg', 'back\\nslash.jpg', '=cmd|calc.jpg',
                 os.fsdecode(b'latin-\xe9.jpg'), ',;\t.jpg']


def caption(text, log_prob=-3.5, finished=True):
    tokens = text.split()
    return types.SimpleNamespace(text=text, tokens=tokens, log_prob=log_prob,
                                 log_prob_per_token=log_prob / (len(tokens) + 1), finished=finished)


def captioned(filename, *captions, image_id=None, path=None, familiarity=None, confidence=None, skipped=None):
    return types.SimpleNamespace(path=path, filename=filename, image_id=image_id, error=None, captions=list(captions),
                                 familiarity=familiarity, confidence=confidence, skipped=skipped)


def failed(filename, error='cannot be read (No such file or directory)'):
    return Result(filename, filename, error=error)


def written(format, results, **settings):
    stream = io.StringIO()
    with open_writer(format, stream, **settings) as writer:
        for result in results:
            writer.write(result)
    stream.getvalue().encode('utf-8')                   # whatever came in, UTF-8 can hold it
    return stream.getvalue()


def test_text_is_the_path_then_a_caption_a_line():
    results = [captioned('a.jpg', caption('a dog runs'), caption('a dog')), failed('b.jpg', 'cut short')]
    assert written('text', results) == '# a.jpg\na dog runs\na dog\n# b.jpg\n! cut short\n'


@pytest.mark.parametrize('name', HOSTILE_NAMES)
def test_text_keeps_a_row_on_its_line_and_can_be_undone(name):
    first, *rest = written('text', [captioned(name, caption('a dog')), failed(name)]).splitlines()
    assert rest == ['a dog', first, '! cannot be read (No such file or directory)']
    assert first.isprintable()
    escaped = first.removeprefix('# ').encode('latin-1', 'backslashreplace') if '\\' in first else b''
    assert not escaped or escaped.decode('unicode_escape').encode('utf-16', 'surrogatepass') == \
        name.encode('utf-16', 'surrogatepass')


def test_jsonl_rows_are_the_contract():
    results = [captioned('a.jpg', caption('a dog', -3.0), caption('a', -4.0, finished=False), image_id=7),
               captioned('b.jpg', caption('chó')), failed('c.jpg', 'cut short')]
    text = written('jsonl', results)
    assert 'chó' in text
    assert [json.loads(line) for line in text.splitlines()] == [
        {'filename': 'a.jpg', 'image_id': 7, 'captions': [
            {'caption': 'a dog', 'tokens': ['a', 'dog'], 'log_prob': -3.0, 'log_prob_per_token': -1.0,
             'finished': True},
            {'caption': 'a', 'tokens': ['a'], 'log_prob': -4.0, 'log_prob_per_token': -2.0, 'finished': False}]},
        {'filename': 'b.jpg', 'captions': [
            {'caption': 'chó', 'tokens': ['chó'], 'log_prob': -3.5, 'log_prob_per_token': -1.75, 'finished': True}]},
        {'filename': 'c.jpg', 'error': 'cut short'}]


def test_jsonl_gives_back_every_name_to_the_byte():
    lines = written('jsonl', [captioned(name, caption('a dog')) for name in HOSTILE_NAMES]).splitlines()
    names = [json.loads(line)['filename'] for line in lines]
    assert [os.fsencode(name) for name in names] == [os.fsencode(name) for name in HOSTILE_NAMES]


def test_jsonl_is_json_even_of_a_caption_that_is_impossible():
    row = json.loads(written('jsonl', [captioned('a.jpg', caption('a', float('-inf')))]), parse_constant=pytest.fail)
    assert row['captions'][0]['log_prob'] is None


def test_jsonl_takes_scores_as_numpy_has_them():
    score = caption('a', np.float32(-1.5), np.bool_(True))
    row = json.loads(written('jsonl', [captioned('a.jpg', score, image_id=np.int64(3))]))
    assert (row['image_id'], row['captions'][0]['log_prob'], row['captions'][0]['finished']) == (3, -1.5, True)


def test_csv_has_a_row_for_each_caption_and_each_error():
    results = [captioned('a.jpg', caption('a "dog", he said', -3.0), caption('a', -4.0, finished=False)),
               failed('b.jpg', 'cut\nshort')]
    rows = list(csv.DictReader(io.StringIO(written('csv', results), newline='')))
    assert [list(row.values()) for row in rows] == [
        ['a.jpg', '1', 'a "dog", he said', '-3.0', '-0.6', 'true', '', '', '', ''],
        ['a.jpg', '2', 'a', '-4.0', '-2.0', 'false', '', '', '', ''],
        ['b.jpg', '', '', '', '', '', 'cut\nshort', '', '', '']]
    assert list(rows[0]) == ['filename', 'rank', 'caption', 'log_prob', 'log_prob_per_token', 'finished', 'error',
                             'familiarity', 'confidence', 'skipped']


TRUSTED = Result('a.jpg', 'a.jpg', 7, [Caption(['a', 'dog'], -3.0, -1.0, True)], familiarity=0.25, confidence=0.5)
SKIPPED = TRUSTED.if_confident(0.75)


def test_every_format_says_how_sure_it_is_and_what_it_skips():
    assert SKIPPED.skipped == 'confidence 0.50 < 0.75' and TRUSTED.if_confident(0.5) is TRUSTED
    rows = [json.loads(line) for line in written('jsonl', [TRUSTED, SKIPPED]).splitlines()]
    captions = [{'caption': 'a dog', 'tokens': ['a', 'dog'], 'log_prob': -3.0, 'log_prob_per_token': -1.0,
                 'finished': True}]
    known = {'filename': 'a.jpg', 'image_id': 7, 'familiarity': 0.25, 'confidence': 0.5}
    assert rows == [{**known, 'captions': captions},
                    {**known, 'captions': [], 'skipped': 'confidence 0.50 < 0.75'}]
    assert json.loads(written('json', [TRUSTED, SKIPPED])) == rows
    for format, delimiter in ('csv', ','), ('tsv', '\t'):
        table = csv.reader(io.StringIO(written(format, [TRUSTED, SKIPPED]), newline=''), delimiter=delimiter)
        assert [*table][1:] == [['a.jpg', '1', 'a dog', '-3.0', '-1.0', 'true', '', '0.25', '0.5', ''],
                                ['a.jpg', '', '', '', '', '', '', '0.25', '0.5', 'confidence 0.50 < 0.75']]
    assert written('text', [SKIPPED]) == '# a.jpg\n! skipped: confidence 0.50 < 0.75\n'
    assert written('metadata', [SKIPPED]) == ''
    assert 'confidence 50%, familiarity 25%' in TRUSTED._repr_html_()
    assert 'Skipped: confidence 0.50 &lt; 0.75' in SKIPPED._repr_html_()


@pytest.mark.parametrize(('confidence', 'least', 'why'), [
    (0.12, 0.3, 'confidence 0.12 < 0.30'), (0.2999, 0.3, 'confidence 0.2999 < 0.3000'), (0.0, 1e-5,
                                                                                       'confidence 0.00000 < 0.00001')])
def test_what_is_skipped_reads_as_true(confidence, least, why):
    assert dataclasses.replace(TRUSTED, confidence=confidence).if_confident(least).skipped == why


@pytest.mark.parametrize('cell', ['=1+1', '+1', '-1', '@SUM(1)', '\t=1', '\r=1', '\n=1'])
def test_csv_gives_a_spreadsheet_no_formula(cell):
    rows = list(csv.DictReader(io.StringIO(written('csv', [captioned(cell, caption(cell)), failed(cell, cell)]),
                                           newline='')))
    assert [rows[0]['filename'], rows[0]['caption'], rows[1]['error']] == ['./' + cell, "'" + cell, "'" + cell]
    assert float(rows[0]['log_prob']) == -3.5           # a negative number is no formula and stays one


@pytest.mark.parametrize('separator', ';\t|')
def test_csv_gives_no_formula_where_another_separator_is_expected(separator):
    text = written('csv', [captioned(f'a{separator}=1+1.jpg', caption(f'a dog{separator} =1+1'), caption('a dog'))])
    assert text.splitlines()[1].startswith(f'"a{separator}=1+1.jpg","1","a dog{separator} \'=1+1","-3.5"')
    assert f'{separator}=' not in text.replace(f'"a{separator}=1+1.jpg"', '')
    assert [row['filename'] for row in csv.DictReader(io.StringIO(text))] == [f'a{separator}=1+1.jpg'] * 2


def test_csv_names_the_file_that_begins_with_a_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / '-dog.jpg').write_text('there')
    row, = csv.DictReader(io.StringIO(written('csv', [captioned('-dog.jpg', caption('a dog , - not a cat'))])))
    assert row['filename'] == './-dog.jpg' and os.path.exists(row['filename'])
    assert row['caption'] == 'a dog , - not a cat'


def test_tsv_is_read_back_by_its_own_reader():
    results = [captioned('a\tb.jpg', caption('a "dog"'), caption('a')), failed('b.jpg', 'cut\nshort')]
    rows = list(csv.DictReader(io.StringIO(written('tsv', results), newline=''), delimiter='\t'))
    assert [(row['filename'], row['rank'], row['caption'], row['error']) for row in rows] == [
        ('a\tb.jpg', '1', 'a "dog"', ''), ('a\tb.jpg', '2', 'a', ''), ('b.jpg', '', '', 'cut\nshort')]


@pytest.mark.parametrize('count', [0, 1, 3])
def test_json_is_one_list_of_the_rows_of_json_lines(count):
    results = [captioned(name, caption('ch\xf3', float('-inf'))) for name in HOSTILE_NAMES[:count]]
    lines = written('jsonl', results).splitlines()
    assert json.loads(written('json', results)) == [json.loads(line) for line in lines]


def test_csv_reads_back_names_with_line_breaks_and_quotes():
    names = [name for name in HOSTILE_NAMES if not name.startswith('=') and name.isprintable()] + ['line\nbreak\r.jpg']
    text = written('csv', [captioned(name, caption('a dog')) for name in names])
    assert [row['filename'] for row in csv.DictReader(io.StringIO(text, newline=''))] == names


def test_csv_goes_on_without_a_second_header():
    assert written('csv', [failed('a.jpg', 'no')], header=False) == 'a.jpg,,,,,,no,,,\r\n'


@pytest.mark.parametrize('format', ['text', 'jsonl', 'json', 'csv', 'tsv'])
def test_rows_are_in_the_file_as_they_come(format, tmp_path):
    path = tmp_path / 'captions'
    with open_writer(format, path) as writer:
        for name in 'chó.jpg', 'b.jpg':
            writer.write(captioned(name, caption('a dog')))
            assert name in path.read_text('utf-8')


@pytest.mark.parametrize('format', WRITERS)
def test_a_lent_stream_stays_open_and_a_path_that_cannot_be_written_is_named(format, tmp_path):
    stream = io.StringIO()
    open_writer(format, stream).close()
    assert not stream.closed
    with pytest.raises(InputError, match='missing'):
        open_writer(format, tmp_path / 'missing' / 'captions')


# Hugging Face's ImageFolder

def test_metadata_names_images_from_its_own_folder():
    results = [captioned('x/a.jpg', caption('a dog'), caption('a'), path='x/a.jpg'), failed('x/b.jpg'),
               captioned('x/day 1/ch\xf3.jpg', caption('ch\xf3 "\u2028\ud800"'), path='./x/day 1/ch\xf3.jpg')]
    assert [json.loads(line) for line in written('metadata', results, folder='x').splitlines()] == [
        {'file_name': 'a.jpg', 'text': 'a dog'}, {'file_name': 'day 1/ch\xf3.jpg', 'text': 'ch\xf3 "\u2028\ufffd"'}]


@pytest.mark.parametrize('path', ['a.jpg', 'x/../a.jpg', '/a.jpg', os.fsdecode(b'x/latin-\xe9.jpg')])
def test_metadata_names_nothing_elsewhere_and_nothing_that_is_no_text(path):
    with pytest.raises(InputError, match=r'not below x|not UTF-8'):
        written('metadata', [captioned(path, caption('a dog'), path=path)], folder='x')


# Sidecars

@pytest.mark.parametrize(('text', 'read'), [
    ('a dog', 'a dog'), ('<b>"R&D\'s" ]]>', '<b>"R&D\'s" ]]>'),
    ('ch\xf3 \u72d7 \U0001f415', 'ch\xf3 \u72d7 \U0001f415'),
    ('a\0b\x1b\r\x85\ud800\ufffe\uffff', 'a' + '\ufffd' + 'b' + '\ufffd' * 2 + '\x85' + '\ufffd' * 3)])
def test_xmp_holds_any_caption(text, read):
    packet = ElementTree.fromstring(sidecar('xmp', text).encode())
    assert [''.join(element.itertext()).strip() for element in packet] == [read]


def test_a_sidecar_of_text_is_a_line():
    assert sidecar('txt', 'a dog') == 'a dog\n'
    assert sidecar('caption', 'a\n\x1b\ud800').encode().count(b'\n') == 1


# Notebooks

def test_a_notebook_shows_image_captions_and_scores(tmp_path):
    path = str(tmp_path / '<script>.png')
    Image.new('RGB', (900, 300), 'red').save(path)
    shown = Result(path, path, captions=[Caption(['a', '<b>dog'], -1.0, -0.5, True), Caption(['a'], -2.0, -1.0, True)])
    figure = ElementTree.fromstring(shown._repr_html_())
    assert figure.find('img').attrib['alt'] == 'a <b>dog' and figure.find('img').attrib['width'] == '320'
    assert [li.text.strip() for li in figure.iter('li')] == ['a <b>dog', 'a']
    assert [div.attrib['style'].split(';')[1] for div in figure.iter('div')] == ['width:100.0%', 'width:36.8%']
    assert figure.find('.//code').text == path and not list(figure.iter('script'))


def test_a_notebook_shows_why_there_are_no_captions():
    assert 'No captions: cut &lt;short' in Result('a.jpg', 'a.jpg', error='cut <short')._repr_html_()
    stored = Result(None, 'a.jpg', 7, [Caption(['a'], -float('inf'), -float('inf'), True)])._repr_html_()
    assert '<img' not in stored and '<code>a.jpg</code>' in stored

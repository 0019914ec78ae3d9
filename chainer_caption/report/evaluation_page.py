"""Evaluations (`evaluation.evaluator.Evaluation`) as text tables, JSON lines, and an HTML page, one file without
scripts, with the best and the worst captions; its style is `gallery.css` and `evaluation_page.css`."""
from __future__ import annotations

import base64
import os
import string
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from chainer_caption.data.tokenization import detokenize
from chainer_caption.report.gallery import thumbnail
from chainer_caption.report.html import csp_hash, escape, fact_items, resource
from chainer_caption.report.rows import json_line, known_trust
from chainer_caption.report.tables import table

# The figures in the order in which they are shown: heading, format, and which is better.
_Figures = Mapping[str, tuple[str, str, Any]]
_SCORES: _Figures = {
    **{name: (name, '{:.4f}', max) for name in ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr')},
    'best-CIDEr': ('best CIDEr', '{:.4f}', max),
    # Not the Java program's, as in published figures.
    'METEOR': ('METEOR (NLTK)', '{:.4f}', max), 'perplexity': ('perplexity', '{:.2f}', min),
    'ECE': ('calibration error', '{:.3f}', min)}
_HABITS: _Figures = {
    'distinct': ('distinct', '{:.1%}', None), 'novel': ('novel', '{:.1%}', None),
    'distinct-1': ('distinct 1-grams', '{:.1%}', None), 'distinct-2': ('distinct 2-grams', '{:.1%}', None),
    'vocabulary': ('words used', '{:,}', None), 'mean_length': ('mean length', '{:.2f}', None),
    'unfinished': ('unfinished', '{:.1%}', None)}

Folder = str | os.PathLike[str]

# Best captions, and worst, that are shown; greatest side of thumbnails in pixels; bars of the histogram.
_SHOWN, _THUMBNAIL, _BARS = 12, 320, 40


def score_tables(evaluations: Sequence[Any]) -> str:
    """The figures of evaluations as text, a line for each: first the scores, then statistics of the captions."""
    return '\n'.join(table(rows, ['', *(figures[name][0] for name in names)]) for figures in (_SCORES, _HABITS)
                     for names, rows in [_cells(evaluations, figures)])


def _cells(evaluations: Sequence[Any], figures: _Figures) -> tuple[list[str], list[list[str]]]:
    """The names of the figures that there are, and a row for each evaluation: its label, then the figures as text."""
    names = [name for name in figures if any(name in evaluation.figures for evaluation in evaluations)]
    return names, [[evaluation.label, *(figures[name][1].format(evaluation.figures[name])
                                        if name in evaluation.figures else '' for name in names)]
                   for evaluation in evaluations]


def write_image_scores(f: TextIO, evaluations: Sequence[Any], filenames: Sequence[str],
                       image_ids: Sequence[int]) -> None:
    """Writes the scores of each image as JSON lines: `{"name", "filename", "image_id", "caption", "BLEU-1", ...}`.

    `image_ids` are the `imgid` of the images.
    """
    for evaluation in evaluations:
        for i, prediction in enumerate(evaluation.predictions):
            caption = detokenize(prediction.tokens, evaluation.tokenizer)
            f.write(json_line({'name': evaluation.name, **evaluation.settings, 'filename': filenames[i],
                               'image_id': int(image_ids[i]), 'caption': caption, **known_trust(prediction),
                               **{name: float(own[i]) for name, own in evaluation.each.items()}}))


def write_evaluation_page(f: TextIO, evaluations: Sequence[Any], filenames: Sequence[str],
                          references: Sequence[Sequence[list[str]]], title: str, facts: Mapping[str, str],
                          images: Folder | None = None) -> None:
    """Writes evaluations, at least one, of the same images as an HTML page.

    The captions of the one with the highest CIDEr are open. `references` are the images' reference captions, lists of
    tokens, `facts` names and values that are shown, and `images` the folder of the images, to show them.
    """
    style = resource('gallery.css') + resource('evaluation_page.css')
    best = max(evaluations, key=lambda evaluation: evaluation.figures['CIDEr'])
    parts = (_captions(evaluation, filenames, references, images, evaluation is best) for evaluation in evaluations)
    f.write(string.Template(resource('evaluation_page.html')).substitute(
        title=escape(title), style=style, style_hash=csp_hash(style), facts=fact_items(facts),
        scores=_html_table(evaluations, _SCORES), habits=_html_table(evaluations, _HABITS), captions=''.join(parts)))


def _html_table(evaluations: Sequence[Any], figures: _Figures) -> str:
    names, rows = _cells(evaluations, figures)
    there = {name: {each.figures[name] for each in evaluations if name in each.figures} for name in names}
    won = {name: best(there[name]) for name in names if (best := figures[name][2]) and len(there[name]) > 1}
    lines = ['<tr><td></td>' + ''.join(f'<th scope="col">{figures[name][0]}</th>' for name in names) + '</tr>']
    for evaluation, (label, *cells) in zip(evaluations, rows, strict=True):
        marks = [' class="won"' if name in won and evaluation.figures.get(name) == won[name] else '' for name in names]
        lines.append(f'<tr><th scope="row">{escape(label)}</th>'
                     + ''.join(f'<td{mark}>{cell}</td>' for mark, cell in zip(marks, cells, strict=True)) + '</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _captions(evaluation: Any, filenames: Sequence[str], references: Sequence[Sequence[list[str]]],
              images: Folder | None, is_open: bool) -> str:
    # CIDEr is 0 for many images; ROUGE-L orders these.
    order = np.lexsort((evaluation.each['ROUGE-L'], evaluation.each['CIDEr']))
    half, parts = len(order) // 2, [_histogram(evaluation.each['CIDEr'])]
    for heading, chosen in (('Best captions', order[half:][::-1][:_SHOWN]), ('Worst captions', order[:half][:_SHOWN])):
        if cards := [_card(evaluation, i, filenames[i], references[i], images) for i in chosen]:
            parts.append(f'<h3>{heading} by CIDEr</h3>\n<section>{"".join(cards)}</section>\n')
    return (f'<details{" open" if is_open else ""}>\n<summary>{escape(evaluation.label)}</summary>\n'
            f'{"".join(parts)}</details>\n')


def _histogram(figures: np.ndarray) -> str:
    """A histogram of the images' CIDEr as SVG, in steps of 0.25; the last bar is for all above."""
    counts = np.bincount(np.minimum(figures / 0.25, _BARS - 1).astype(int))
    height = 60 / counts.max()
    bars = ''.join(f'<rect x="{20 * i}" y="{62 - count * height:.1f}" width="18" height="{count * height:.1f}">'
                   f'<title>CIDEr from {i / 4:g}: {count:,} images</title></rect>' for i, count in enumerate(counts))
    marks = ''.join(f'<text x="{20 * i}" y="78">{i // 4}</text>' for i in range(0, len(counts), 4))
    return (f'<figure><figcaption>Images by their CIDEr</figcaption><svg viewBox="0 0 {20 * len(counts)} 82" '
            f'width="{20 * len(counts)}" role="img" aria-label="Histogram of CIDEr">{bars}{marks}</svg></figure>\n')


def _card(evaluation: Any, i: int, filename: str, references: Sequence[list[str]], images: Folder | None) -> str:
    scores = ' · '.join(f'{name} {evaluation.each[name][i]:.2f}' for name in ('CIDEr', 'BLEU-4', 'ROUGE-L'))
    prediction = evaluation.predictions[i]
    text = escape(detokenize(prediction.tokens, evaluation.tokenizer)) or '<span class="cut">empty caption</span>'
    cut = ' <span class="cut">cut</span>' if prediction.finished is False else ''
    listed = ''.join(f'<li><span>{escape(detokenize(reference, evaluation.tokenizer))}</span></li>'
                     for reference in references)
    return (f'<article>{_image(filename, images)}<div class="text"><p class="best">{text}{cut}</p>'
            f'<p class="scores">{scores}</p><ol>{listed}</ol><p class="name"><span>{escape(filename)}</span></p></div>'
            '</article>\n')


def _image(filename: str, folder: Folder | None) -> str:
    # A name in a dataset.json may lead out of the folder; only images in it are shown.
    path = os.path.abspath(os.path.join(folder or '', filename))
    if folder is None or not path.startswith(os.path.join(os.path.abspath(folder), '')):
        return ''
    if (made := thumbnail(path, _THUMBNAIL)) is None:
        return ''
    size, data = made
    return (f'<img width="{size["width"]}" height="{size["height"]}" alt="" '
            f'src="data:image/webp;base64,{base64.b64encode(data).decode("ascii")}">')

"""A training run as an HTML page: learning curves, scores, and captions of the same images after each epoch.

The page is one file without scripts, in the style of the gallery and of the evaluation's page."""
import datetime
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from chainer_caption.report.charts import line_chart, log_points
from chainer_caption.report.html import csp_hash, escape, fact_items, resource

Entry = Mapping[str, Any]

# The charts: heading, measure, and the curves: name to key in the log.
_CHARTS = [('Loss', 'nats per token', {'train': 'main/loss', 'val': 'validation/main/loss'}),
           ('Reward', 'CIDEr-D of sampled captions', {'train': 'main/reward'}),
           ('CIDEr', 'CIDEr of captions of val', {'val': 'validation/main/cider'}),
           ('BLEU-4', 'fraction, of captions of val', {'val': 'validation/main/bleu4'})]

# The columns of the table: key, heading, format.
_COLUMNS = [('main/text_loss', 'text loss', '{:.3f}'), ('main/loss', 'train loss', '{:.3f}'),
            ('main/reward', 'reward', '{:.3f}'),
            ('main/length', 'words sampled', '{:.1f}'), ('main/perplexity', 'train perplexity', '{:.2f}'),
            ('main/accuracy', 'train accuracy', '{:.1%}'), ('validation/main/loss', 'val loss', '{:.3f}'),
            ('validation/main/perplexity', 'val perplexity', '{:.2f}'),
            ('validation/main/accuracy', 'val accuracy', '{:.1%}'), ('validation/main/cider', 'CIDEr', '{:.3f}'),
            ('validation/main/bleu4', 'BLEU-4', '{:.3f}')]


def write_run_page(f: TextIO, title: str, facts: Mapping[str, object], log: Sequence[Entry], best_by: str,
                   best: Entry | None, references: Mapping[int, str],
                   details: Mapping[str, Mapping[str, object]]) -> None:
    """Writes the page of a training run.

    Args:
        f, title, facts: The file to write to, the page's title, and facts at its head, in the words to be shown.
        log: An entry for each epoch, as in `log.json`; a figure that was not finite is None.
        best_by, best: The key of the figure that decides which epoch is kept, and that epoch's entry, if there is one.
        references: A person's caption of each sample image: `imgid` to text.
        details: More facts, by heading: `{'Settings': {'epochs': 30, ...}, ...}`.
    """
    style = resource('gallery.css') + resource('evaluation_page.css') + resource('run_page.css')
    if best is not None:
        name = next(name for key, name, _ in _COLUMNS if key == best_by)
        facts = {**facts, 'best epoch': f'{best["epoch"]}, {name} {best[best_by]:.3f}'}
    f.write(string.Template(resource('run_page.html')).substitute(
        title=escape(title), style=style, style_hash=csp_hash(style), facts=fact_items(facts),
        charts=_charts(log, best), scores=_scores(log, best), samples=_samples(log, best, references),
        details=''.join(f'<section><h2>{escape(heading)}</h2><dl>{fact_items(own)}</dl></section>\n'
                        for heading, own in details.items())))


def _charts(log: Sequence[Entry], best: Entry | None) -> str:
    parts = []
    for name, measure, keys in _CHARTS:
        chart = line_chart({curve: log_points(log, key) for curve, key in keys.items()}, measure,
                           None if best is None else best['epoch'])
        if chart:
            parts.append(f'<figure><figcaption>{name}</figcaption>{chart}</figure>\n')
    return ''.join(parts)


def _scores(log: Sequence[Entry], best: Entry | None) -> str:
    columns = [column for column in _COLUMNS if any(column[0] in entry for entry in log)]
    lines = ['<tr><th scope="col">epoch</th>' + ''.join(f'<th scope="col">{name}</th>' for _, name, _ in columns)
             + '<th scope="col">time</th></tr>']
    for entry in reversed(log):
        time = datetime.timedelta(seconds=round(entry['elapsed_time']))
        lines.append(_epoch(entry, best, [*(_cell(entry, key, form) for key, _, form in columns), str(time)]))
    return f'<div class="wide long"><table>{"".join(lines)}</table></div>'


def _cell(entry: Entry, key: str, form: str) -> str:
    if key not in entry:
        return ''
    return 'not finite' if entry[key] is None else form.format(entry[key])


def _epoch(entry: Entry, best: Entry | None, cells: Iterable[str]) -> str:
    kept, row = ' class="kept"' if entry is best else '', ''.join(f'<td>{cell}</td>' for cell in cells)
    return f'<tr{kept}><th scope="row">{entry["epoch"]}</th>{row}</tr>'


def _samples(log: Sequence[Entry], best: Entry | None, references: Mapping[int, str]) -> str:
    sampled = [entry for entry in log if 'samples' in entry]
    if not sampled:
        return ''
    names = ''.join(f'<th scope="col">{escape(sample["filename"])}</th>' for sample in sampled[0]['samples'])
    texts = ''.join(f'<td dir="auto">{escape(references[sample["image_id"]])}</td>'
                   for sample in sampled[0]['samples'])
    lines = [f'<tr><th scope="col">epoch</th>{names}</tr>',
             f'<tr class="reference"><th scope="row">a person</th>{texts}</tr>',
             *(_epoch(entry, best, map(_caption, entry['samples'])) for entry in reversed(sampled))]
    return ('<h2>Samples</h2>\n<p class="key">The most likely caption of the same images of val after each epoch, '
            'with its log-probability in nats.</p>\n'
            f'<div class="wide long samples"><table>{"".join(lines)}</table></div>\n')


def _caption(sample: Entry) -> str:
    text = escape(sample['caption']) or '<span class="cut">empty</span>'
    cut = '' if sample['finished'] else ' <span class="cut">cut</span>'
    score = '' if sample['log_prob'] is None else f'{sample["log_prob"]:.2f}'.replace('-', '\N{MINUS SIGN}')
    return f'<span dir="auto">{text}{cut}</span><span class="scores">{score}</span>'

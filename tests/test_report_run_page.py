"""The page of a training: its curves are where their values are, nothing in it is markup, a browser lays it out."""
import io
import itertools
import json
import math
import re
import subprocess

import pytest
from test_report_gallery import ATTACK, BROWSER, Elements
from test_training import SMALL, log

from chainer_caption import Dataset, Settings, train
from chainer_caption.report.charts import line_chart, nice_ticks
from chainer_caption.report.run_page import write_run_page
from chainer_caption.training.extensions.best import FIGURES, best_entry


def entries(epochs=12, every=1, caption='a dog runs', filename='IMG_{}.jpg'):
    """A log of so many epochs, the best of which is the eighth by loss and the last by CIDEr."""
    made = []
    for epoch in range(1, epochs + 1):
        loss = 3 + (epoch - 8) ** 2 / 50
        entry = {'epoch': epoch, 'iteration': 10 * epoch, 'elapsed_time': 61.4 * epoch, 'main/loss': 5 / epoch,
                 'main/perplexity': math.exp(5 / epoch), 'main/accuracy': 0.4, 'validation/main/loss': loss,
                 'validation/main/perplexity': math.exp(loss), 'validation/main/accuracy': 0.35}
        if epoch % every == 0:
            entry |= {'validation/main/cider': 0.1 * epoch, 'validation/main/bleu4': 0.01 * epoch, 'samples': [
                {'filename': filename.format(i), 'image_id': i, 'caption': caption, 'log_prob': -epoch - i / 4,
                 'log_prob_per_token': -0.5, 'finished': i != 4} for i in range(5)]}
        made.append(entry)
    return made


def page(log, by='loss', title='Training of model', facts=None, reference='a dog', details=None):
    stream = io.StringIO()
    write_run_page(stream, title, facts or {'dataset': 'small'}, log, FIGURES[by][0], best_entry(log, by),
                   dict.fromkeys(range(5), reference), details or {'Settings': {'epochs': 30}})
    return stream.getvalue()


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (2.84, 5.31), (0.0123, 0.0124), (-3.2, 11), (1, 150), (99.5, 100),
                                           (1e-9, 3e-9), (0, 7e12), (0.1, 0.7)])
def test_ticks_are_few_round_numbers_around_the_values(low, high):
    ticks = nice_ticks(low, high)
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + 1e-6 * steps[0] and ticks[-1] >= high - 1e-6 * steps[0]
    assert ticks[0] > low - steps[0] and ticks[-1] < high + steps[0]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f'{steps[0]:.0e}'[0] in '125'


@pytest.mark.parametrize('value', [0, 2.5, -1])
def test_one_value_has_an_axis_with_zero(value):
    ticks = nice_ticks(value, value)
    assert ticks[0] <= min(value, 0) and ticks[-1] >= max(value, 0) and len(ticks) >= 2


def test_values_are_where_the_axes_say():
    points = [(1, 2.0), (2, 5.0), (4, 3.0), (6, 2.5)]
    elements = Elements(line_chart({'val': points}, 'nats per token'))
    texts = [(found, ''.join(text)) for tag, found, text in elements.all if tag == 'text']
    rows = {float(text): float(found['y']) - 4 for found, text in texts if found['class'] == 'row'}
    columns = {int(text): float(found['x']) for found, text in texts if found['class'] == 'column' and text != 'epoch'}
    line, = [found['points'] for tag, found, _ in elements.all if tag == 'polyline']
    plotted = [tuple(map(float, point.split(','))) for point in line.split()]
    (low, bottom), (high, top) = min(rows.items()), max(rows.items())
    for (epoch, value), (x, y) in zip(points, plotted, strict=True):
        assert y == pytest.approx(bottom + (value - low) / (high - low) * (top - bottom), abs=0.1)
        if epoch in columns:
            assert x == columns[epoch]
    assert set(columns) >= {2, 4, 6}
    assert elements.of('title') == [f'epoch {epoch}\nval {value:.4g}' for epoch, value in points]


def test_what_is_not_finite_is_left_out_and_nothing_at_all_is_no_chart():
    assert line_chart({'train': [], 'val': [(1, math.nan), (2, math.inf)]}, 'nats per token') == ''
    chart = line_chart({'train': [(1, math.nan), (2, 4.0), (3, 3.0)], 'val': []}, 'nats per token')
    assert 'nan' not in chart and chart.count('<polyline') == 1


def test_names_at_the_ends_of_curves_do_not_cover_each_other():
    elements = Elements(line_chart({'train': [(1, 9.0), (2, 1.001)], 'val': [(1, 8.0), (2, 1.0)]}, 'nats per token'))
    ends = [float(found['y']) for tag, found, _ in elements.all if tag == 'text' and found['class'] in ('train', 'val')]
    assert abs(ends[0] - ends[1]) >= 12


@pytest.mark.parametrize(('by', 'best', 'told'), [('loss', 8, '8, val loss 3.000'), ('cider', 12, '12, CIDEr 1.200')])
def test_the_best_epoch_is_marked_everywhere(by, best, told):
    elements = Elements(page(entries(), by))
    assert elements.of('dd')[1] == told
    assert elements.of('text', **{'class': 'best-name'}) == [f'best: {best}'] * 3
    for row in elements.of('tr', **{'class': 'kept'}):
        assert row.startswith(str(best))
    assert len(elements.of('tr', **{'class': 'kept'})) == 2


def test_tables_have_the_last_epoch_first():
    elements = Elements(page(entries(3)))
    assert elements.of('figcaption') == ['Loss', 'CIDEr', 'BLEU-4']
    assert elements.of('th', scope='row') == ['a person', '3', '2', '1', '3', '2', '1']
    assert elements.of('td')[:10] == ['a dog'] * 5 + [
        f'a dog runs{"" if i < 4 else " cut"}\N{MINUS SIGN}{3 + i / 4:.2f}' for i in range(5)]
    assert elements.of('tr')[-3].endswith('35.0%0.3000.0300:03:04')


def test_without_scores_there_is_the_loss_alone():
    elements = Elements(page(entries(4, every=9)))
    assert elements.of('figcaption') == ['Loss']
    assert elements.of('h2') == ['Scores', 'Settings']
    elements = Elements(page([{key: value for key, value in entry.items() if not key.startswith('validation')}
                              for entry in entries(4, every=9)]))
    assert elements.of('text', **{'class': 'best-name'}) == []
    assert elements.of('dt')[0] == 'dataset' and 'best epoch' not in elements.of('dt')


def test_nothing_that_is_shown_can_be_markup():
    log = entries(2, caption=ATTACK, filename=ATTACK)
    text = page(log, title=ATTACK, facts={ATTACK: ATTACK}, reference=ATTACK, details={ATTACK: {ATTACK: ATTACK}})
    elements = Elements(text)
    assert elements.of('title')[0] == elements.of('h1')[0] == elements.of('dt')[0] == elements.of('dd')[0] == ATTACK
    assert elements.of('h2')[-1] == elements.of('dt')[-1] == elements.of('dd')[-1] == ATTACK
    assert elements.of('td')[0] == ATTACK and elements.of('td')[5].startswith(ATTACK)
    assert elements.of('script') == elements.of('img') == []
    policy, = [found['content'] for tag, found, _ in elements.all if 'http-equiv' in found]
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[\w+/]{43}='", policy)


def test_a_training_writes_its_page_every_epoch(make_dataset, tmp_path):
    dataset = Dataset(make_dataset())
    train(dataset, tmp_path / 'model', Settings(epochs=2, keep_best='cider', **SMALL))
    text = (tmp_path / 'model' / 'run.html').read_text('utf-8')
    assert text.endswith('</html>\n')
    elements = Elements(text)
    facts = dict(zip(elements.of('dt'), elements.of('dd'), strict=True))
    assert elements.of('h1') == ['Training of model']
    assert facts['dataset'] == facts['folder'] == 'dataset' and facts['keep best'] == 'cider'
    assert facts['train'] == '24 images, 72 captions' and facts['val'] == '8 images, 24 captions'
    samples = log(tmp_path / 'model')[-1]['samples']
    assert elements.of('th', scope='col')[1:6] == [sample['filename'] for sample in samples]
    assert elements.of('td')[:5] == [' '.join(dataset.references(sample['image_id'])[0]) for sample in samples]
    train(dataset, tmp_path / 'model', Settings(epochs=3, keep_best='cider', **SMALL), resume=True)
    resumed = Elements((tmp_path / 'model' / 'run.html').read_text('utf-8'))
    assert resumed.of('th', scope='row')[:4] == ['a person', '3', '2', '1']


# ---- In a browser

# The page shows itself in a frame of the width of a phone, and what it looks like there becomes a text.
MEASURE = '''<!DOCTYPE html><iframe src="run.html" style="width: 360px; height: 700px"></iframe><pre></pre><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const look = (what) => getComputedStyle(page.querySelector(what));
  const texts = [...page.querySelectorAll("svg text")].map((text) => text.getBoundingClientRect());
  const alone = (text) => texts.every((other) => text === other || text.right <= other.left || other.right <= text.left
                                                 || text.bottom <= other.top + 3 || other.bottom <= text.top + 3);
  document.querySelector("pre").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, smallest: Math.min(...texts.map((text) => text.height)),
    covered: texts.filter((text) => !alone(text)).length, train: look("polyline.train").stroke,
    val: look("polyline.val").stroke, strip: look(".epoch rect").fill, page: look("body").backgroundColor});
});
</script>'''


@pytest.mark.skipif(BROWSER is None, reason='needs Chromium or Chrome')
def test_browser_shows_it_on_a_phone(tmp_path):
    (tmp_path / 'run.html').write_text(page(entries(30), 'cider'), encoding='utf-8')
    (tmp_path / 'measure.html').write_text(MEASURE, encoding='utf-8')
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
               '--disable-background-networking', '--disable-component-update', '--disable-sync',
               '--allow-file-access-from-files', f'--user-data-dir={tmp_path / "preprocessing"}',
               '--virtual-time-budget=3000', '--dump-dom', (tmp_path / 'measure.html').as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode('utf-8')
    found = json.loads(Elements(dom).of('pre')[0])
    assert found['width'] <= 360                        # wide tables scroll by themselves
    assert found['smallest'] >= 9
    assert found['covered'] == 0                        # no text stands on another
    assert len({found['train'], found['val'], found['page'], 'none', 'rgba(0, 0, 0, 0)'}) == 5
    assert found['strip'] == 'rgba(0, 0, 0, 0)'

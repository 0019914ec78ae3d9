"""Line charts as inline SVG, coloured by the page's style, without a script; tooltips show the values."""
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chainer_caption.report.html import escape

# Sizes of the chart and of its margins, in units of the viewBox; text is 12 high.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 360, 246, 40, 316, 38, 208, 14

#: The points of a curve: (epoch, value).
Points = Sequence[tuple[int, float]]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Two or more rising round numbers, 1, 2 or 5 times a power of ten apart, from at most `low` to at least `high`;
    `most` is about the greatest number of steps between them."""
    if high - low < 1e-9 * max(abs(low), abs(high)) or high == low == 0:
        low, high = min(low, 0), max(high, 0) or 1
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 5, 10) if m * power * most >= (high - low) * (1 - 1e-9))
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def log_points(log: Sequence[Mapping[str, Any]], key: str) -> Points:
    """The points of a figure's curve, where it is finite; `log` as for `write_run_page`. The `main/loss` of
    self-critical epochs is left out, because it is not in nats per token."""
    return [(entry['epoch'], entry[key]) for entry in log
            if entry.get(key) is not None and not (key == 'main/loss' and 'main/reward' in entry)]


def line_chart(curves: Mapping[str, Points], measure: str, best: int | None = None) -> str:
    """Curves over epochs as an `svg` element; empty where there is no point.

    Args:
        curves: Name, one word, to points in order; values that are not finite are left out. The elements of a curve
            have its name as their class, for a style to colour them.
        measure, best: What the values are, with their unit; the epoch to be marked, if any.
    """
    curves = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ''
    epochs, values = zip(*itertools.chain.from_iterable(curves.values()), strict=True)
    rows = nice_ticks(min(values), max(values))
    scale = _Scale(min(epochs), max(epochs), rows[0], rows[-1])
    parts = [_axes(scale, rows, measure), _best(scale, best), *_lines(scale, curves), _values(scale, curves, best)]
    return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(measure)} over epochs">'
            f'{"".join(parts)}</svg>')


class _Scale:
    """Coordinates of epochs and values."""

    def __init__(self, first: int, last: int, low: float, high: float) -> None:
        self.first, self.last, self._low, self._high = first, last, low, high
        # A single epoch is in the middle.
        self._from = first if first < last else first - 1
        self.step = (_RIGHT - _LEFT) / (last - first or 2)

    def x(self, epoch: float) -> float:
        return round(_LEFT + (epoch - self._from) * self.step, 1)

    def y(self, value: float) -> float:
        return round(_BOTTOM - (value - self._low) / (self._high - self._low) * (_BOTTOM - _TOP), 1)


def _axes(scale: _Scale, rows: Sequence[float], measure: str) -> str:
    decimals = max(0, -math.floor(math.log10(rows[1] - rows[0]) + 1e-9))
    parts = [f'<text class="measure" x="{_LEFT}" y="{_TOP - 24}">{escape(measure)}</text>']
    for value in rows:
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_RIGHT}"/>'
                     f'<text class="row" x="{_LEFT - 7}" y="{y + 4}">{value:.{decimals}f}</text>')
    for epoch in nice_ticks(scale.first, scale.last):
        if epoch == int(epoch) and scale.first <= epoch <= scale.last:
            parts.append(f'<text class="column" x="{scale.x(epoch)}" y="{_BOTTOM + 17}">{epoch:.0f}</text>')
    parts.append(f'<text class="column" x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 34}">epoch</text>')
    return ''.join(parts)


def _best(scale: _Scale, best: int | None) -> str:
    if best is None or not scale.first <= best <= scale.last:
        return ''
    x = scale.x(best)
    anchor = 'end' if x > (_LEFT + _RIGHT) / 2 else 'start'
    return (f'<path class="best-line" d="M{x} {_TOP}V{_BOTTOM}"/>'
            f'<text class="best-name" text-anchor="{anchor}" x="{x}" y="{_TOP - 6}">best: {best}</text>')


def _lines(scale: _Scale, curves: Mapping[str, Points]) -> Iterator[str]:
    free = 0.0
    for name, points in sorted(curves.items(), key=lambda curve: scale.y(curve[1][-1][1])):
        line = ' '.join(f'{scale.x(epoch)},{scale.y(value)}' for epoch, value in points)
        y = max(free, scale.y(points[-1][1]))           # a name that would cover another is moved down
        free = y + _LINE
        yield (f'<polyline class="{name}" points="{line}"/>'
               f'<text class="{name}" x="{scale.x(points[-1][0]) + 8}" y="{y + 4}">{name}</text>')


def _values(scale: _Scale, curves: Mapping[str, Points], best: int | None) -> str:
    """A strip for each epoch, with its values in the tooltip."""
    found: dict[int, list[tuple[str, float]]] = {}
    for name, points in curves.items():
        for epoch, value in points:
            found.setdefault(epoch, []).append((name, value))
    parts, width = [], round(scale.step, 2)
    for epoch, values in sorted(found.items()):
        x = scale.x(epoch)
        dots = ''.join(f'<circle class="{name}" cx="{x}" cy="{scale.y(value)}" r="3"/>' for name, value in values)
        text = '\n'.join([f'epoch {epoch}', *(f'{name} {value:.4g}' for name, value in values)])
        kind = 'epoch best' if epoch == best else 'epoch'
        parts.append(f'<g class="{kind}"><rect x="{x - width / 2:.1f}" y="{_TOP}" width="{width}" '
                     f'height="{_BOTTOM - _TOP}"/>{dots}<title>{text}</title></g>')
    return ''.join(parts)

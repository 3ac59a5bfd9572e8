"""Charts as inline SVG, in the colours of the page around them."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jaxkd.html import Safe

WIDTH, HEIGHT = 400, 230  # of a chart in SVG units, about pixels of the page
SMALL_WIDTH, SMALL_HEIGHT = 180, 104
NARROW = 340  # width of a chart with a table beside it
LETTER = 6.6  # width of a letter
NAMES = 18 * LETTER  # most width of names beside a chart; longer ones have a second line
LINE = 12  # height of a line of a name
Number = int | float
MINUS = "\N{MINUS SIGN}"
ROOM = 24  # half the width of a label
ROW, BAR = 26, 11  # heights of a row of dots and of a bar
STYLE = """
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font: 11.5px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .name { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .zero { stroke: var(--soft); stroke-width: 1; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
"""


@dataclass(frozen=True)
class Line:
    """A curve."""

    name: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    colour: str


@dataclass(frozen=True)
class Mark:
    """A value with its interval; low and high are nan where that is not known."""

    name: str
    value: Number
    low: Number
    high: Number
    colour: str


@dataclass(frozen=True)
class Bar:
    """A value, its text, and a second value `tick` that is marked on the bar, nan for none."""

    name: str
    value: Number
    text: str
    colour: str
    tick: Number = math.nan
    pale: bool = False


@dataclass(frozen=True)
class _Scale:
    """Maps numbers to positions on the chart."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def lines(
    about: str,
    curves: Sequence[Line],
    *,
    x: str = "step",
    small: bool = False,
    log: bool = False,
    limits: tuple[Number, Number] | None = None,
    marked: bool = False,
) -> Safe:
    """Curves over a common axis.

    Args:
      about: the accessible description of the chart.
      curves: the curves.
      x: title of the horizontal axis.
      small: half as large, with labels only at the ends of the horizontal axis.
      log: a logarithmic vertical axis, for numbers above 0.
      limits: of the vertical axis; from the curves if None.
      marked: whether each point has a dot with its numbers.
    """
    width, height = (SMALL_WIDTH, SMALL_HEIGHT) if small else (WIDTH, HEIGHT)
    ys = [y for line in curves for y in line.ys]
    xs = [value for line in curves for value in line.xs]
    low, high = limits or _around(min(ys), max(ys), log=log)
    ticks = _log_ticks(low, high) if log else _ticks(low, high, 3 if small else 5)
    labels = [f"{tick:g}" for tick in ticks] if log else _labels(ticks)
    to_x = _Scale(min(0.0, min(xs)), max(xs) or 1.0, LETTER * max(map(len, labels)) + 6, width - 4)
    to_y = _Scale(low, high, height - 20, 6, log)
    parts = _steps(to_x, x, height - 4, small=small)
    for tick, label in zip(ticks, labels, strict=True):
        parts.append(_rule(to_x.start, to_y(tick), to_x.end, to_y(tick)))
        parts.append(_text(to_x.start - 5, to_y(tick) + 4, label, anchor="end"))
    for line in curves:
        points = [(to_x(px), to_y(py)) for px, py in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline class="line" points="{path}" style="stroke:{line.colour}"/>')
        if marked or len(points) == 1:
            for (px, py), step, value in zip(points, line.xs, line.ys, strict=True):
                parts.append(_dot(px, py, line.colour, f"{line.name}, {x} {step:g}: {_short(value)}"))
    return _svg(about, width, height, parts)


def whiskers(about: str, rows: Sequence[tuple[str, Sequence[Mark]]], *, x: str) -> Safe:
    """A row for each name: dots with their intervals, filled where the interval does not hold 0."""
    left = min(max(_width(name) for name, _ in rows), NAMES) + 8
    ends = [end for _, marks in rows for mark in marks for end in (mark.value, mark.low, mark.high)]
    ends = [0.0, *(end for end in ends if not math.isnan(end))]
    low, high = _around(min(ends), max(ends))
    to_x = _Scale(low, high, left, NARROW - 8)
    heights = [max(ROW, 10 * len(marks) + 10) for _, marks in rows]
    bottom = sum(heights) + 4
    ticks = _ticks(low, high, 6)
    parts = [_rule(to_x(tick), 2, to_x(tick), bottom, "grid" if tick else "zero") for tick in ticks]
    for tick, label in zip(ticks, _signed(ticks), strict=True):
        parts.append(_text(to_x(tick), bottom + 14, label, anchor="middle"))
    parts.append(_text((left + NARROW - 8) / 2, bottom + 31, x, anchor="middle"))
    y = 4.0
    for (name, marks), height in zip(rows, heights, strict=True):
        parts += _name(y + height / 2 + 4, name)
        for index, mark in enumerate(marks):
            middle = y + height / 2 + 10 * (index - (len(marks) - 1) / 2)
            parts += _whisker(mark, to_x, middle)
        y += height
    return _svg(about, NARROW, bottom + 36, parts)


def bars(about: str, rows: Sequence[tuple[str, Sequence[Bar]]]) -> Safe:
    """A row for each name with a bar for each of its values, followed by the value's text."""
    left = min(max(_width(name) for name, _ in rows), NAMES) + 8
    all_bars = [bar for _, group in rows for bar in group]
    room = LETTER * max(len(bar.text) for bar in all_bars) + 10
    values = [value for bar in all_bars for value in (bar.value, bar.tick) if not math.isnan(value)]
    low, high = min(0.0, *values, 0.0), max(1e-9, *values, 0.0)
    to_x = _Scale(low, high, left, WIDTH - room)
    parts, y = [], 2.0
    for name, group in rows:
        height = (BAR + 3) * len(group)
        parts += _name(y + height / 2 + 3, name)
        for bar in group:
            value = 0.0 if math.isnan(bar.value) else bar.value
            start, end = sorted((to_x(0.0), to_x(value)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y:.1f}" width="{end - start:.1f}" height="{BAR}" rx="1.5" style="fill:'
                f'{bar.colour}{";opacity:.55" if bar.pale else ""}"><title>{escape(f"{name}, {bar.name}: {bar.text}")}'
                "</title></rect>"
            )
            if not math.isnan(bar.tick):
                parts.append(_rule(end, y + BAR / 2, to_x(bar.tick), y + BAR / 2, "zero"))
                parts.append(_rule(to_x(bar.tick), y + 2, to_x(bar.tick), y + BAR - 2, "zero"))
            furthest = max(end, to_x(bar.tick)) if not math.isnan(bar.tick) else end
            parts.append(_text(furthest + 5, y + BAR - 1.5, bar.text, anchor="start"))
            y += BAR + 3
        y += 8
    return _svg(about, WIDTH, y, parts)


def _steps(to_x: _Scale, x: str, y: Number, *, small: bool) -> list[str]:
    """The labels and the title of the horizontal axis; only the ends where the chart is small."""
    ticks = [to_x.low, to_x.high] if small else _ticks(to_x.low, to_x.high, 5)
    last = to_x(ticks[-1])
    title_fits = small or last < to_x.end - ROOM - LETTER * len(x)
    parts = [] if small or not title_fits else [_text(to_x.end, y, x, anchor="end")]
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        side = "start" if small and tick == ticks[0] else "end" if to_x(tick) > to_x.end - ROOM else "middle"
        unit = "" if title_fits or tick != ticks[-1] else f"{x} "
        parts.append(_text(to_x(tick), y, f"{unit}{label}", anchor=side))
    return parts


def _whisker(mark: Mark, to_x: _Scale, y: Number) -> list[str]:
    if math.isnan(mark.value):
        return []
    parts = []
    tooltip = f"{mark.name}: {mark.value:+.1f}"
    is_clear = False
    if not math.isnan(mark.low):
        tooltip += f" [{mark.low:+.1f}, {mark.high:+.1f}]"
        is_clear = mark.low > 0 or mark.high < 0
        parts.append(
            f'<line class="line" x1="{to_x(mark.low):.1f}" y1="{y:.1f}" x2="{to_x(mark.high):.1f}" y2="{y:.1f}" '
            f'style="stroke:{mark.colour}"/>'
        )
    return [*parts, _dot(to_x(mark.value), y, mark.colour, tooltip, filled=is_clear)]


def _dot(x: Number, y: Number, colour: str, tooltip: str, *, filled: bool = True) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{colour if filled else "var(--paper)"};stroke:{colour};'
        f'stroke-width:1.5"><title>{escape(tooltip)}</title></circle>'
    )


def _rule(x0: Number, y0: Number, x1: Number, y1: Number, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(x: Number, y: Number, content: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _name(y: Number, name: str) -> list[str]:
    """The name of a row at the left of the chart, centred at height `y`; a shortened one with a tooltip."""
    lines = _lines_of(name)
    tooltip = f"<title>{escape(name)}</title>" if len(lines) > 1 else ""
    return [
        f'<text class="name" x="0" y="{y + LINE * (index - (len(lines) - 1) / 2):.1f}" text-anchor="start">'
        f"{escape(line)}{tooltip}</text>"
        for index, line in enumerate(lines)
    ]


def _lines_of(name: str) -> list[str]:
    """The name in one or two lines, split at a space if possible; a longer name without its middle."""
    if _width(name) <= NAMES:
        return [name]
    spaces = [index for index, letter in enumerate(name) if letter == " " and _width(name[:index]) <= NAMES]
    for index in reversed(spaces):
        if _width(name[index + 1 :]) <= NAMES:
            return [name[:index], name[index + 1 :]]
    short = shortened(name, room=2 * NAMES)
    end = next(end for end in range(len(short), 0, -1) if _width(short[:end]) <= NAMES)
    return [short[:end], short[end:]]


def _svg(about: str, width: Number, height: Number, parts: Sequence[str]) -> Safe:
    return Safe(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">'
        f"<title>{escape(about)}</title>{''.join(parts)}</svg>"
    )


def _around(low: Number, high: Number, *, log: bool = False) -> tuple[Number, Number]:
    """Axis limits with a margin; never an empty range."""
    if log:
        return 10 ** (math.log10(low) - 0.05), 10 ** (math.log10(high) + 0.05)
    if low == high == 0:
        return 0.0, 1.0
    room = 0.06 * (high - low) or 0.1 * abs(high)
    return (min(low, 0.0) if 0 <= low < 0.5 * high else low - room), high + room


def _ticks(low: Number, high: Number, most: int) -> list[Number]:
    """Round numbers between the limits, at most `most`."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    ticks: list[Number] = []
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        multiples = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        ticks = [multiple * step for multiple in multiples]
        if len(ticks) <= most:
            break
    return ticks


def _log_ticks(low: Number, high: Number) -> list[Number]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for shares in ((1, 2, 5), (1,)):
        ticks = [share * 10.0**power for power in powers for share in shares if low <= share * 10.0**power <= high]
        if len(ticks) <= 7:
            break
    return ticks or [low]


def _labels(ticks: Sequence[Number]) -> list[str]:
    """The ticks as text with equally many decimals."""
    plain = [f"{round(tick, 9):.6g}" for tick in ticks]
    if any("e" in text for text in plain):
        return plain
    if max(map(abs, ticks)) >= 10_000:
        return [f"{tick / 1000:g}k" if tick else "0" for tick in ticks]
    decimals = max(len(text.partition(".")[2]) for text in plain)
    return [f"{tick:.{decimals}f}" for tick in ticks]


def _signed(ticks: Sequence[Number]) -> list[str]:
    texts = _labels([abs(tick) for tick in ticks])
    signs = ["" if not tick else "+" if tick > 0 else MINUS for tick in ticks]
    return [f"{sign}{text}" for sign, text in zip(signs, texts, strict=True)]


def _short(value: Number) -> str:
    return f"{value:.3g}"


def _width(text: str) -> float:
    """The approximate width of a text; Chinese, Japanese and Korean letters count double."""
    return LETTER * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shortened(name: str, *, room: float = NAMES) -> str:
    """The name, without its middle where it is wider than `room`; start and end usually tell names apart."""
    if _width(name) <= room:
        return name
    head = tail = ""
    for first, last in zip(name, reversed(name), strict=True):
        if _width(f"{head}{first}…{tail}") > room:
            break
        head += first
        if _width(f"{head}…{last}{tail}") > room:
            break
        tail = last + tail
    return f"{head}…{tail}"

"""Charts as inline SVG, drawn in the colours of the page that holds them."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jaxkd.html import Safe

WIDTH, HEIGHT = 400, 230  # of a chart, in its own units, about pixels of the page
SMALL_WIDTH, SMALL_HEIGHT = 180, 104
NARROW = 340  # width of a chart with a table beside it
LETTER = 6.6  # units that a letter takes
NAMES = 18 * LETTER  # units that names beside a chart may take; longer ones have a second line
LINE = 12  # height of a line of a name
Number = int | float
MINUS = "\N{MINUS SIGN}"
ROOM = 24  # units that half a label takes
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
    """One curve."""

    name: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    colour: str


@dataclass(frozen=True)
class Mark:
    """A value with what it may lie between; low and high are nan where that is not known."""

    name: str
    value: Number
    low: Number
    high: Number
    colour: str


@dataclass(frozen=True)
class Bar:
    """A value, its text, and where a second one is marked on it, nan for nowhere."""

    name: str
    value: Number
    text: str
    colour: str
    tick: Number = math.nan
    pale: bool = False


@dataclass(frozen=True)
class _Scale:
    """Numbers to places on the chart."""

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
    drawn: Sequence[Line],
    *,
    x: str = "step",
    small: bool = False,
    log: bool = False,
    limits: tuple[Number, Number] | None = None,
    marked: bool = False,
) -> Safe:
    """Curves over a common axis.

    Args:
      about: what the chart shows, for those who do not see it.
      drawn: the curves.
      x: what the axis below counts.
      small: half as large, with no more than the ends of its axes.
      log: equal factors, not equal differences, are equally far apart; for numbers above 0.
      limits: of the axis beside; from the curves if None.
      marked: a dot at each point, with its numbers.
    """
    width, height = (SMALL_WIDTH, SMALL_HEIGHT) if small else (WIDTH, HEIGHT)
    ys = [y for line in drawn for y in line.ys]
    xs = [value for line in drawn for value in line.xs]
    low, high = limits or _around(min(ys), max(ys), log=log)
    ticks = _log_ticks(low, high) if log else _ticks(low, high, 3 if small else 5)
    labels = [f"{tick:g}" for tick in ticks] if log else _labels(ticks)
    across = _Scale(min(0.0, min(xs)), max(xs) or 1.0, LETTER * max(map(len, labels)) + 6, width - 4)
    up = _Scale(low, high, height - 20, 6, log)
    parts = _steps(across, x, height - 4, small=small)
    for tick, label in zip(ticks, labels, strict=True):
        parts.append(_rule(across.start, up(tick), across.end, up(tick)))
        parts.append(_text(across.start - 5, up(tick) + 4, label, anchor="end"))
    for line in drawn:
        places = [(across(a), up(b)) for a, b in zip(line.xs, line.ys, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline class="line" points="{path}" style="stroke:{line.colour}"/>')
        if marked or len(places) == 1:
            for (a, b), at, value in zip(places, line.xs, line.ys, strict=True):
                parts.append(_dot(a, b, line.colour, f"{line.name}, {x} {at:g}: {_short(value)}"))
    return _svg(about, width, height, parts)


def whiskers(about: str, rows: Sequence[tuple[str, Sequence[Mark]]], *, x: str) -> Safe:
    """A row for each name: dots with what they may lie between, filled where that is on one side of 0."""
    left = min(max(_width(name) for name, _ in rows), NAMES) + 8
    ends = [end for _, marks in rows for mark in marks for end in (mark.value, mark.low, mark.high)]
    ends = [0.0, *(end for end in ends if not math.isnan(end))]
    low, high = _around(min(ends), max(ends))
    across = _Scale(low, high, left, NARROW - 8)
    tall = [max(ROW, 10 * len(marks) + 10) for _, marks in rows]
    bottom = sum(tall) + 4
    ticks = _ticks(low, high, 6)
    parts = [_rule(across(tick), 2, across(tick), bottom, "grid" if tick else "zero") for tick in ticks]
    for tick, label in zip(ticks, _signed(ticks), strict=True):
        parts.append(_text(across(tick), bottom + 14, label, anchor="middle"))
    parts.append(_text((left + NARROW - 8) / 2, bottom + 31, x, anchor="middle"))
    y = 4.0
    for (name, marks), height in zip(rows, tall, strict=True):
        parts += _name(y + height / 2 + 4, name)
        for place, mark in enumerate(marks):
            middle = y + height / 2 + 10 * (place - (len(marks) - 1) / 2)
            parts += _whisker(mark, across, middle)
        y += height
    return _svg(about, NARROW, bottom + 36, parts)


def bars(about: str, rows: Sequence[tuple[str, Sequence[Bar]]]) -> Safe:
    """A row for each name with a bar for each of its values, and their texts behind them."""
    left = min(max(_width(name) for name, _ in rows), NAMES) + 8
    every = [bar for _, group in rows for bar in group]
    room = LETTER * max(len(bar.text) for bar in every) + 10
    values = [value for bar in every for value in (bar.value, bar.tick) if not math.isnan(value)]
    low, high = min(0.0, *values, 0.0), max(1e-9, *values, 0.0)
    across = _Scale(low, high, left, WIDTH - room)
    parts, y = [], 2.0
    for name, group in rows:
        height = (BAR + 3) * len(group)
        parts += _name(y + height / 2 + 3, name)
        for bar in group:
            value = 0.0 if math.isnan(bar.value) else bar.value
            start, end = sorted((across(0.0), across(value)))
            parts.append(
                f'<rect x="{start:.1f}" y="{y:.1f}" width="{end - start:.1f}" height="{BAR}" rx="1.5" style="fill:'
                f'{bar.colour}{";opacity:.55" if bar.pale else ""}"><title>{escape(f"{name}, {bar.name}: {bar.text}")}'
                "</title></rect>"
            )
            if not math.isnan(bar.tick):
                parts.append(_rule(end, y + BAR / 2, across(bar.tick), y + BAR / 2, "zero"))
                parts.append(_rule(across(bar.tick), y + 2, across(bar.tick), y + BAR - 2, "zero"))
            furthest = max(end, across(bar.tick)) if not math.isnan(bar.tick) else end
            parts.append(_text(furthest + 5, y + BAR - 1.5, bar.text, anchor="start"))
            y += BAR + 3
        y += 8
    return _svg(about, WIDTH, y, parts)


def _steps(across: _Scale, x: str, y: Number, *, small: bool) -> list[str]:
    """The numbers below a chart and what they count; only the ends where it is small."""
    ticks = [across.low, across.high] if small else _ticks(across.low, across.high, 5)
    last = across(ticks[-1])
    roomy = small or last < across.end - ROOM - LETTER * len(x)
    parts = [] if small or not roomy else [_text(across.end, y, x, anchor="end")]
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        side = "start" if small and tick == ticks[0] else "end" if across(tick) > across.end - ROOM else "middle"
        unit = "" if roomy or tick != ticks[-1] else f"{x} "
        parts.append(_text(across(tick), y, f"{unit}{label}", anchor=side))
    return parts


def _whisker(mark: Mark, across: _Scale, y: Number) -> list[str]:
    if math.isnan(mark.value):
        return []
    parts = []
    said = f"{mark.name}: {mark.value:+.1f}"
    clear = False
    if not math.isnan(mark.low):
        said += f" [{mark.low:+.1f}, {mark.high:+.1f}]"
        clear = mark.low > 0 or mark.high < 0
        parts.append(
            f'<line class="line" x1="{across(mark.low):.1f}" y1="{y:.1f}" x2="{across(mark.high):.1f}" y2="{y:.1f}" '
            f'style="stroke:{mark.colour}"/>'
        )
    return [*parts, _dot(across(mark.value), y, mark.colour, said, filled=clear)]


def _dot(x: Number, y: Number, colour: str, said: str, *, filled: bool = True) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{colour if filled else "var(--paper)"};stroke:{colour};'
        f'stroke-width:1.5"><title>{escape(said)}</title></circle>'
    )


def _rule(x0: Number, y0: Number, x1: Number, y1: Number, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _text(x: Number, y: Number, content: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _name(y: Number, name: str) -> list[str]:
    """What a row is called, around a height at the left end of the chart; the whole name where it is pointed at."""
    lines = _lines_of(name)
    whole = f"<title>{escape(name)}</title>" if len(lines) > 1 else ""
    return [
        f'<text class="name" x="0" y="{y + LINE * (place - (len(lines) - 1) / 2):.1f}" text-anchor="start">'
        f"{escape(line)}{whole}</text>"
        for place, line in enumerate(lines)
    ]


def _lines_of(name: str) -> list[str]:
    """The name in one line or two, parted at a space where that is possible; without its middle where it is longer."""
    if _width(name) <= NAMES:
        return [name]
    spaces = [place for place, letter in enumerate(name) if letter == " " and _width(name[:place]) <= NAMES]
    for place in reversed(spaces):
        if _width(name[place + 1 :]) <= NAMES:
            return [name[:place], name[place + 1 :]]
    short = shortened(name, room=2 * NAMES)
    end = next(end for end in range(len(short), 0, -1) if _width(short[:end]) <= NAMES)
    return [short[:end], short[end:]]


def _svg(about: str, width: Number, height: Number, parts: Sequence[str]) -> Safe:
    return Safe(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">'
        f"<title>{escape(about)}</title>{''.join(parts)}</svg>"
    )


def _around(low: Number, high: Number, *, log: bool = False) -> tuple[Number, Number]:
    """Limits with some room; never empty."""
    if log:
        return 10 ** (math.log10(low) - 0.05), 10 ** (math.log10(high) + 0.05)
    if low == high == 0:
        return 0.0, 1.0
    room = 0.06 * (high - low) or 0.1 * abs(high)
    return (min(low, 0.0) if 0 <= low < 0.5 * high else low - room), high + room


def _ticks(low: Number, high: Number, most: int) -> list[Number]:
    """Round numbers between the limits, at most so many."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    found: list[Number] = []
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        found = [place * step for place in places]
        if len(found) <= most:
            break
    return found


def _log_ticks(low: Number, high: Number) -> list[Number]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for shares in ((1, 2, 5), (1,)):
        found = [share * 10.0**power for power in powers for share in shares if low <= share * 10.0**power <= high]
        if len(found) <= 7:
            break
    return found or [low]


def _labels(ticks: Sequence[Number]) -> list[str]:
    """The ticks with equally many places."""
    plain = [f"{round(tick, 9):.6g}" for tick in ticks]
    if any("e" in text for text in plain):
        return plain
    if max(map(abs, ticks)) >= 10_000:
        return [f"{tick / 1000:g}k" if tick else "0" for tick in ticks]
    places = max(len(text.partition(".")[2]) for text in plain)
    return [f"{tick:.{places}f}" for tick in ticks]


def _signed(ticks: Sequence[Number]) -> list[str]:
    texts = _labels([abs(tick) for tick in ticks])
    signs = ["" if not tick else "+" if tick > 0 else MINUS for tick in ticks]
    return [f"{sign}{text}" for sign, text in zip(signs, texts, strict=True)]


def _short(value: Number) -> str:
    return f"{value:.3g}"


def _width(text: str) -> float:
    """About the units that a text takes: Chinese, Japanese and Korean letters are wide."""
    return LETTER * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def shortened(name: str, *, room: float = NAMES) -> str:
    """The name, without its middle where it takes more units: beginning and end tell most names apart."""
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

"""Shared parts of the page's sections: colours of detectors, headings with explanations, cells of tables."""

import re
from collections.abc import Mapping, Sequence

from jaxkd import html
from jaxkd.comparison.records import ComparedDetector, Comparison
from jaxkd.comparison.tables import Unclear
from jaxkd.html import Safe

STYLE = """
.lead { color: var(--soft); margin: .25rem 0 1rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: 1rem;
  margin: 1rem 0; }
.card { background: var(--raised); border-radius: 8px; padding: .9rem 1rem; overflow-wrap: anywhere; }
.card h2 { margin: 0; font-size: .85rem; font-weight: 600; color: var(--soft); }
.card strong { display: block; font-size: 1.9rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.card p { margin: .25rem 0 0; font-size: .9rem; }
section { margin-top: 2.75rem; }
section > h2 { font-size: 1.3rem; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 0 0 .15rem; overflow-wrap: anywhere; }
.how { color: var(--soft); font-size: .9rem; margin: 0 0 .75rem; max-width: 46rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 2rem 2.5rem; }
.charts > * { min-width: 0; }
.charts > figure { max-width: 29rem; }
.charts > :last-child:nth-child(odd) { grid-column: 1 / -1; }
table + .charts, .wide + .charts { margin-top: 1.5rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1.25rem 1.5rem; }
.pair > figure { flex: 1 1 19rem; max-width: 24rem; min-width: 0; } .pair > div { min-width: 0; max-width: 100%; }
details { margin-top: .75rem; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.made { padding-left: 1.1rem; margin: 0; overflow-wrap: anywhere; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10rem, 45%), 1fr)); gap: 1.1rem 1.25rem; }
.small h4 { font-size: .82rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.small p { font-size: .82rem; margin: 0 0 .15rem; font-variant-numeric: tabular-nums; }
.small p span { margin-right: .6em; }
.small svg text { font-size: 10.5px; }
.keys { margin: .25rem 0 1rem; font-size: .9rem; }
.keys span { margin-right: 1.1em; }
.unclear { color: var(--soft); }
th, td { padding: .25rem .6rem; }
td { font-size: .9rem; } th { font-size: .82rem; }
"""
UNIT = re.compile(r"(?<=\d) (?=(?:M|ms|AP|x)\b|%)")
SIGN = re.compile(r"(?<![\w.])-(?=\d)|(?<= )-(?= )")


def colours_of(comparison: Comparison) -> dict[str, str]:
    """The colour of each detector, by name."""
    return {detector.name: f"var(--c{index % html.COLOURS})" for index, detector in enumerate(comparison.detectors)}


def section(title: str, explanation: str, content: str, *, name: str) -> str:
    """A section of the page with its heading and, where `explanation` is given, an explanation."""
    paragraph = f'<p class="how">{signed(explanation)}</p>' if explanation else ""
    return f'<section id="{name}">\n<h2>{html.text(title)}</h2>\n{paragraph}{content}\n</section>\n'


def figure(title: str, explanation: str, content: str) -> str:
    """A chart with its heading and an explanation."""
    return f'<figure>\n<h3>{html.text(title)}</h3>\n<p class="how">{signed(explanation)}</p>\n{content}\n</figure>\n'


def keys(comparison: Comparison, detectors: Sequence[ComparedDetector]) -> str:
    """The legend of these detectors' colours."""
    colours = colours_of(comparison)
    return f'<p class="keys">{html.legend({detector.name: colours[detector.name] for detector in detectors})}</p>\n'


def table(rows: Sequence[Mapping[str, str]], *, colours: Mapping[str, str] | None = None) -> str:
    """A table with minus signs; differences that are not clear are grey.

    With `colours` each row is a detector's: its name, in the first column, has its colour beside it.
    """
    html_rows = []
    for row in rows:
        cells = {Safe(signed(title)): _cell(cell) for title, cell in row.items()}
        if colours:
            title, name = next(iter(row.items()))
            cells[Safe(signed(title))] = Safe(f"{html.legend({name: colours[name]})}")
        html_rows.append(cells)
    return html.table(html_rows)


def signed(content: str) -> str:
    """The text as HTML, with minus signs in place of hyphens and no break between a number and its unit."""
    return UNIT.sub("\N{NO-BREAK SPACE}", SIGN.sub("\N{MINUS SIGN}", html.text(content)))


def _cell(content: str) -> Safe:
    text = signed(content)
    return Safe(f'<span class="unclear">{text}</span>' if isinstance(content, Unclear) else text)

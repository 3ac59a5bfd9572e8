"""Self-contained HTML pages: style, tables, pictures; no script, no network."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from jaxkd.version import VERSION

LIGHT = (
    "color-scheme: light; --ink: #1b1b1b; --paper: #fff; --raised: #f6f6f4; --line: #ddd; --soft: #626262; "
    "--bar: #999; --mark: #a85b00; "
    "--c0: #0067a5; --c1: #c04a00; --c2: #00785a; --c3: #a03c82; --c4: #6a5d00; --c5: #5b5b5b;"
)
DARK = (
    "color-scheme: dark; --ink: #eaeaea; --paper: #141414; --raised: #1e1e1f; --line: #363636; --soft: #a3a3a3; "
    "--bar: #777; --mark: #ffb454; "
    "--c0: #5cb8f0; --c1: #ff8f4d; --c2: #35c79c; --c3: #e493c8; --c4: #dcc63c; --c5: #b4b4b4;"
)
COLOURS = 6  # --c0 to --c5: distinct for colour-blind readers too, and readable on --paper
STYLE = (
    f"""
:root {{ {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
:root:has(#light:checked) {{ {LIGHT} }}
:root:has(#dark:checked) {{ {DARK} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2rem 0 .5rem; }
.theme { float: right; margin: .6rem 0 0 1rem; padding: 0; border: 0; color: var(--soft); font-size: .85rem; }
.theme label { padding: .35rem .4rem; cursor: pointer; border-radius: 4px; }
.theme label:has(:checked) { color: var(--ink); background: var(--raised); }
.theme label:has(:focus-visible) { outline: 2px solid var(--c0); }
.theme input { position: absolute; opacity: 0; }
.wide { overflow-x: auto; }
.wide::-webkit-scrollbar { height: 10px; }
.wide::-webkit-scrollbar-thumb { background: var(--bar); border: 2px solid var(--paper); border-radius: 5px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  line-height: 1.375rem; }
th, td.long { max-width: min(14rem, 40vw); white-space: normal; word-break: keep-all; overflow-wrap: break-word; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
.remarks li { color: var(--mark); overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; border-radius: 4px; }
span:has(> .key) { position: relative; display: inline-block; max-width: 100%; padding-left: 1.1em;
  overflow-wrap: break-word; vertical-align: top; }
.key { position: absolute; left: 0; top: .35em; width: .8em; height: .8em; border-radius: 2px; }
.legend span { margin-right: 1em; }
@media print { .theme { display: none; } }
"""
)


LONG = 18  # bytes from which a cell of the first column may wrap
TAG = re.compile("<[^>]*>")


class Safe(str):
    """Text that is HTML already and needs no escaping."""


def page(title: str, body: str, *, style: str = "") -> str:
    """A whole page; the title is its heading too, and its colours follow the reader's setting or the page's switch."""
    themes = {"auto": "Auto", "light": "Light", "dark": "Dark"}
    switch = "".join(
        f'<label><input type="radio" name="theme" id="{name}"{" checked" * (name == "auto")}>{label}</label>'
        for name, label in themes.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<fieldset class="theme" aria-label="Colours">{switch}</fieldset>
<h1>{escape(title)}</h1>
{body}
<p class="soft">jaxkd {escape(VERSION)}</p>
</body>
</html>
"""


def text(content: str) -> str:
    """The content as HTML, escaped unless it is `Safe`."""
    return content if isinstance(content, Safe) else escape(content)


def table(rows: Sequence[Mapping[str, str]]) -> Safe:
    """A table of rows with the same columns."""
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in rows[0])
    body = "".join(f"<tr>{_cells(list(row.values()))}</tr>\n" for row in rows)
    return Safe(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>')


def _cells(row: Sequence[str]) -> str:
    first, *others = map(text, row)
    long = ' class="long"' if len(TAG.sub("", first).encode()) > LONG else ""
    return f"<td{long}>{first}</td>{''.join(f'<td>{cell}</td>' for cell in others)}"


def remarks(lines: Sequence[str]) -> Safe:
    """A list of remarks; empty where there are none."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return Safe(f'<ul class="remarks">{items}</ul>' if items else "")


def picture(jpeg: bytes, description: str) -> Safe:
    """An embedded picture with its alternative text."""
    data = base64.b64encode(jpeg).decode()
    return Safe(f'<img src="data:image/jpeg;base64,{data}" alt="{escape(description)}">')


def legend(keys: Mapping[str, str]) -> Safe:
    """A legend of CSS colours by name."""
    return Safe(
        " ".join(
            f'<span><i class="key" style="background:{colour}"></i>{escape(name)}</span>'
            for name, colour in keys.items()
        )
    )

"""The frame of the pages: text stays text, and colours can be read."""

import itertools
import re

import pytest

from jaxkd import html
from jaxkd.html import Safe


def colours(theme: str) -> dict[str, tuple[int, ...]]:
    found = dict(re.findall(r"--(\w+): #(\w+)", theme))
    wide = {name: "".join(2 * digit for digit in code) if len(code) == 3 else code for name, code in found.items()}
    return {name: tuple(int(code[place : place + 2], 16) for place in (0, 2, 4)) for name, code in wide.items()}


def brightness(colour: tuple[int, ...]) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    shares = [part / 255 for part in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    light, dark = sorted((brightness(one), brightness(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [html.LIGHT, html.DARK])
def test_everything_written_can_be_read(theme):
    found = colours(theme)
    names = ["ink", "soft", "mark", *(f"c{number}" for number in range(html.COLOURS))]
    for name, paper in itertools.product(names, ("paper", "raised")):
        assert contrast(found[name], found[paper]) >= 4.5, (name, paper)


def test_text_is_text_and_html_is_html():
    table = html.table([{"<a>": "<b>", "two": Safe("<i>three</i>")}])
    assert "&lt;a&gt;" in table
    assert "&lt;b&gt;" in table
    assert "<i>three</i>" in table
    assert "<u>" not in html.page("<u>", "") + html.remarks(["<u>"]) + html.legend({"<u>": "red"})
    assert 'alt="&lt;u&gt; &quot;"' in html.picture(b"jpeg", '<u> "')


def test_nothing_to_remark():
    assert html.remarks([]) == ""


def test_a_page_is_whole():
    page = html.page("Title", "<p>Body</p>", style="p { margin: 0 }")
    assert page.startswith("<!doctype html>")
    for part in (
        'lang="en"',
        'charset="utf-8"',
        "<title>Title</title>",
        "<h1>Title</h1>",
        "<p>Body</p>",
        "p { margin: 0 }",
    ):
        assert part in page
    assert page.count('type="radio"') == 3
    assert page.count("checked>") == 1

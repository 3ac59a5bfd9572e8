"""Charts: everything in its place, and words for those who do not see them."""

import math
import re
from xml.etree import ElementTree

import pytest

from jaxkd.comparison import charts
from jaxkd.comparison.charts import Bar, Line, Mark

RED = "红"


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parse(svg).iter("text")]


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
        for line in parse(svg).iter("polyline")
    ]


def test_a_curve_runs_from_left_to_right_and_up_with_its_values():
    svg = charts.lines("Loss", [Line("alone", [0, 50, 100], [0.0, 1.0, 2.0], "red")])
    ((a, b, c),) = points(svg)
    assert a[0] < b[0] < c[0]
    assert a[1] > b[1] > c[1]
    assert b[1] == pytest.approx((a[1] + c[1]) / 2, abs=0.1)
    assert {"0.0", "1.0", "2.0", "0", "step 100"} <= set(texts(svg))


def test_equal_factors_are_equally_far_apart_on_a_log_scale():
    svg = charts.lines("Loss", [Line("alone", [1, 2, 3], [1.0, 10.0, 100.0], "red")], log=True)
    ((a, b, c),) = points(svg)
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)
    assert {"1", "10", "100"} <= set(texts(svg))


def test_a_single_point_is_a_dot_that_says_what_it_is():
    svg = charts.lines("AP", [Line("alone", [1400], [46.1], "red")])
    (dot,) = parse(svg).iter("circle")
    assert dot[0].text == "alone, step 1400: 46.1"


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [-3.0, -3.0], [1e-9, 2e-9], [-1.0, 1.0], [0.084, 0.085]])
@pytest.mark.parametrize("small", [False, True])
def test_any_values_stay_on_the_chart(values, small):
    svg = charts.lines("numbers", [Line("alone", [100, 200], values, "red")], small=small)
    width, height = map(float, parse(svg).get("viewBox", "").split()[2:])
    for x, y in points(svg)[0]:
        assert 0 <= x <= width
        assert 0 <= y <= height
    assert len(set(texts(svg))) >= 3  # both axes carry numbers


def test_names_are_text():
    svg = charts.bars("a < b & c", [("<i>", [Bar('"x"', 1.0, "1 < 2", "red")])])
    assert "<i>" not in svg
    assert parse(svg).get("aria-label") == "a < b & c"
    assert texts(svg) == ["<i>", "1 < 2"]


def test_bars_are_as_long_as_their_values():
    rows = [
        ("a", [Bar("one", 2.0, "2", "red", tick=3.0)]),
        ("b", [Bar("one", 1.0, "1", "red"), Bar("two", 0.0, "0", "red")]),
    ]
    widths = [float(bar.get("width", "")) for bar in parse(charts.bars("bars", rows)).iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2] == 0


def test_no_value_at_all_is_a_chart_too():
    nothing = charts.bars("bars", [("a", [Bar("one", math.nan, "-", "red")])])
    assert texts(nothing) == ["a", "-"]
    assert (
        parse(charts.whiskers("dots", [("a", [Mark("one", math.nan, math.nan, math.nan, "red")])], x="AP")) is not None
    )


def test_a_dot_is_filled_where_its_bar_does_not_reach_0():
    marks = [
        Mark("clear", 4.0, 2.0, 6.0, "red"),
        Mark("open", 1.0, -1.0, 3.0, "red"),
        Mark("one", 1.0, *[math.nan] * 2, "red"),
    ]
    svg = charts.whiskers("dots", [("AP", marks)], x="points")
    dots = list(parse(svg).iter("circle"))
    assert ["fill:red" in dot.get("style", "") for dot in dots] == [True, False, False]
    assert [dot[0].text for dot in dots] == ["clear: +4.0 [+2.0, +6.0]", "open: +1.0 [-1.0, +3.0]", "one: +1.0"]
    assert len([line for line in parse(svg).iter("line") if line.get("class") == "line"]) == 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("eighteen letters!!", "eighteen letters!!"),
        ("a name that is far too long", "a name that is far|too long"),
        ("no_place_to_break_it_at", "no_place_to_break_|it_at"),
        ("a name that is much too long to be shown", "a name that is muc|… long to be shown"),
        (9 * RED, 9 * RED),  # each as wide as two letters
        (12 * RED, f"{9 * RED}|{3 * RED}"),
        (20 * RED, f"{9 * RED}|…{8 * RED}"),
    ],
)
def test_long_names_have_two_lines_and_lose_their_middle(name, shown):
    svg = charts.whiskers("dots", [(name, [Mark("one", 1.0, 0.5, 2.0, "red")])], x="points")
    labels = [element for element in parse(svg).iter("text") if element.get("class") == "name"]
    assert "|".join(label.text for label in labels) == shown
    assert [child.text for label in labels for child in label] == ([name, name] if "|" in shown else [])
    assert charts.shortened("a name that is far too long") == "a name th…too long"


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.0, 10.0, 5, [0, 2.5, 5, 7.5, 10]),
        (0.3, 0.58, 3, [0.3, 0.4, 0.5]),
        (-7.0, 26.0, 7, [-5, 0, 5, 10, 15, 20, 25]),
        (0.0, 90_000.0, 5, [0, 20_000, 40_000, 60_000, 80_000]),
    ],
)
def test_ticks_are_round(low, high, most, expected):
    found = charts._ticks(low, high, most)
    assert len(found) <= most
    if len(expected) <= most:
        assert found == pytest.approx(expected)


def test_colours_are_those_of_the_page():
    svg = charts.lines("Loss", [Line("alone", [1, 2], [1.0, 2.0], "var(--c0)")])
    assert not re.search(r"#[0-9a-f]{3,6}", svg + charts.STYLE)

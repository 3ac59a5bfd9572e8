"""The numbers as text."""

import dataclasses
import math

import compared
import pytest

from jaxkd.comparison import tables
from jaxkd.comparison.tables import Unclear, difference, points
from jaxkd.evaluation import voc
from jaxkd.evaluation.bootstrap import Interval
from jaxkd.evaluation.errors import KINDS
from jaxkd.evaluation.seeds import OverSeeds


@pytest.fixture(scope="module")
def comparison():
    return compared.comparison()


def test_numbers():
    assert points(0.4567) == "45.7"
    assert points(math.nan) == "-"
    assert tables.million(2_934_000) == "2.93 M"


def test_a_difference_says_whether_it_is_one():
    assert difference(Interval(0.045, 0.025, 0.063)) == "+4.5 [+2.5, +6.3]"
    assert not isinstance(difference(Interval(-0.045, -0.063, -0.025)), Unclear)
    assert isinstance(difference(Interval(0.01, -0.01, 0.03)), Unclear)
    assert isinstance(difference(Interval(0.0, 0.0, 0.0)), Unclear)
    few = difference(Interval(0.8, math.nan, math.nan))
    assert (few, type(few)) == ("+80.0 [too few]", Unclear)
    assert difference(Interval(math.nan, math.nan, math.nan)) == "-"


def test_a_row_for_each_detector(comparison):
    rows = tables.headline(comparison)
    assert [row["detector"] for row in rows] == ["alone", "taught", "teacher"]
    assert rows[0]["AP - alone"] == ""
    assert rows[1]["AP - alone"].startswith("+")
    assert (rows[1]["parameters"], rows[1]["ms/picture"], rows[1]["pictures/s"]) == ("0.15 M", "5.0", "200")
    times = tables.costs(comparison)[0]
    assert (times["p90"], times["ms, 8 at once"], times["pictures/s, 8 at once"]) == ("6.0", "40.0", "200")


def test_a_row_for_each_part_of_ap(comparison):
    rows = tables.parts(comparison)
    names = [row[""] for row in rows]
    assert names == ["AP", "AP50", "AP75", "small objects", "medium objects", "large objects", *comparison.objects]
    assert list(rows[0]) == ["", "alone", "taught", "taught - alone", "teacher", "teacher - alone", "objects"]
    assert rows[4]["taught"] == rows[4]["taught - alone"] == "-"  # there is no such object
    assert int(rows[0]["objects"]) == sum(int(row["objects"]) for row in rows[6:])


def test_vocs_number_where_all_have_it(comparison):
    score = voc.Scores(mean=0.625, per_class={}, rule="11point", iou=0.5)
    known = dataclasses.replace(
        comparison, detectors=tuple(dataclasses.replace(one, voc=score) for one in comparison.detectors)
    )
    (row,) = (row for row in tables.parts(known) if row[""] == "VOC AP")
    assert (row["alone"], row["taught"], row["taught - alone"]) == ("62.5", "62.5", "")


def test_a_row_for_each_kind_of_error(comparison):
    rows = tables.errors(comparison)
    assert [row["kind of error"] for row in rows] == list(KINDS)
    counts = comparison.detectors[0].confident_errors.counts
    assert [row["alone, number"] for row in rows] == [f"{counts[kind]}" for kind in KINDS]


def test_the_verdict(comparison):
    said = tables.verdict(comparison)
    assert said.startswith("taught has +")
    assert "against alone on 12 validation pictures; 95 % of 50 resamples of them lie in" in said
    assert said.endswith("which does not hold 0.")
    gains = dataclasses.replace(comparison.focused.gains, summary={"AP": Interval(0.01, -0.01, 0.03)})
    unclear = compared.changed(comparison, "taught", gains=gains)
    assert tables.verdict(unclear).endswith("[-1.0, +3.0], which holds 0, so there may be no difference.")
    gains = dataclasses.replace(gains, summary={"AP": Interval(0.8, math.nan, math.nan)})
    assert tables.verdict(compared.changed(comparison, "taught", gains=gains)) == (
        "taught has +80.0 AP against alone on 12 validation pictures; fewer than 5 pictures have an object, too few to "
        "say how much of it may be chance."
    )


def test_the_verdict_over_seeds(comparison):
    over = OverSeeds((0.02, 0.05), Interval(0.035, -0.01, 0.08))
    assert tables.verdict(dataclasses.replace(comparison, over_seeds=over)) == (
        "taught has +3.5 AP against alone on 12 validation pictures, the mean of +2.0 and +5.0 over 2 seeds; the "
        "interval of 95 % for other seeds and pictures is [-1.0, +8.0], which holds 0, so there may be no difference."
    )


def test_what_is_taken_for_what(comparison):
    one = comparison.focused
    *there, nothing = tables.confusion(one)
    names = one.confusion.classes
    assert [row[""] for row in there] == list(names)
    assert list(nothing) == ["", *(f"as {name}" for name in names), "not found"]
    assert [int(row["not found"]) for row in there] == one.confusion.counts[:-1, -1].tolist()
    assert (nothing[""], nothing["not found"]) == ("nothing", "")


def test_markdown_is_tables_and_escapes_names(comparison):
    renamed = dataclasses.replace(
        compared.changed(comparison, "taught", name="a|b<c"), focus="a|b<c", remarks=("Look at <this>.",)
    )
    text = tables.markdown(renamed)
    assert "| a\\|b&lt;c |" in text
    assert text.startswith("# a\\|b&lt;c compared with alone\n\na\\|b&lt;c has ")
    assert "- Look at &lt;this>." in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith(" |")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4 + 3  # what is taken for what, a detector each
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1

"""The page: whole by itself, readable anywhere, and equal to the numbers beside it."""

import base64
import dataclasses
import io
import json
import math
import re

import compared
import numpy as np
import pytest
from PIL import Image

from jaxkd.comparison import layout, page, pictures, tables
from jaxkd.comparison.records import BATCHES, Series
from jaxkd.evaluation.bootstrap import Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import Confusion
from jaxkd.evaluation.seeds import OverSeeds


@pytest.fixture(scope="module")
def comparison():
    return compared.comparison()


@pytest.fixture(scope="module")
def text(comparison):
    return page.page(comparison, compared.source(), most=2)


def headings(text):
    return re.findall(r"<h2>([^<]*)</h2>", text)


def cards(text):
    return re.findall(r'<div class="card"><h2>([^<]*)</h2><strong>([^<]*)</strong><p>(.*?)</p>', text)


def test_the_first_screen_answers(text):
    gained, chance, cost = cards(text)
    assert "<h1>taught compared with alone</h1>" in text
    assert gained[0] == "What was gained"
    assert re.fullmatch(r"\+\d+\.\d\N{NO-BREAK SPACE}AP", gained[1])
    assert "for teacher" in gained[2]
    assert chance[:2] == ("Is it more than chance?", "Yes")
    assert chance[2].startswith("In 95 of 100 resamples of these pictures it is between +")
    assert cost[:2] == ("What it costs", "Nothing in use")
    assert "A step of training took 2.0\N{NO-BREAK SPACE}x as long." in cost[2]


def test_answers_where_nothing_is_clear_and_where_something_is_lost(comparison):
    for interval, said in (
        (Interval(0.8, math.nan, math.nan), "Too few pictures to say"),
        (Interval(0.01, -0.01, 0.03), "Not certain"),
        (Interval(-0.02, -0.03, -0.01), "Yes, a loss"),
    ):
        summary = comparison.focused.gains.summary | {"AP": interval}
        gains = dataclasses.replace(comparison.focused.gains, summary=summary)
        other = compared.changed(comparison, "taught", gains=gains)
        gained, chance, _ = cards(page.page(other, compared.source(), most=0))
        assert chance[1] == said
    assert gained[1] == "\N{MINUS SIGN}2.0\N{NO-BREAK SPACE}AP"


def without_reference(comparison, *names):
    """The comparison with these detectors alone, of which the taught one has nothing to gain over."""
    kept = tuple(each for each in compared.changed(comparison, "taught", gains=None).detectors if each.name in names)
    return dataclasses.replace(comparison, detectors=kept)


@pytest.mark.parametrize("names", [("taught",), ("taught", "teacher")])
def test_a_student_with_nothing_to_gain_over(comparison, names):
    for data in (None, compared.source(classes=[f"class {number}" for number in range(20)])):
        whole = comparison if data is None else compared.comparison(data=data)
        single = without_reference(whole, *names)
        text = page.page(single, data or compared.source(), most=2)
        gained, chance, cost = cards(text)
        assert (gained[1], chance[1]) == ("Not known", "No gain measured") and "ms" in cost[1]
        assert "<h1>taught</h1>" in text and ("Where it gains" in headings(text)) == (len(names) > 1)
        assert tables.markdown(single).startswith("# taught\n")
        assert re.fullmatch(
            r"taught has AP \d+\.\d on 12 validation pictures; no gain is measured without .*\.", tables.verdict(single)
        )
        assert page.as_json(single)["detectors"]["taught"]["difference"] is None


def test_the_gain_of_several_seeds_takes_the_place_of_one(comparison):
    over = OverSeeds((0.02, 0.05), Interval(0.035, 0.01, 0.06))
    text = page.page(dataclasses.replace(comparison, over_seeds=over), compared.source(), most=0)
    gained, chance, _ = cards(text)
    assert (gained[1], chance[1]) == ("+3.5\N{NO-BREAK SPACE}AP", "Yes")
    assert "The gain is +2.0 and +5.0 over 2 seeds." in chance[2].replace("\N{NO-BREAK SPACE}", " ")
    assert "Welch" in text and page.as_json(dataclasses.replace(comparison, over_seeds=over))["over_seeds"]


def test_a_detector_that_costs_more(comparison):
    slow = {batch: Cost(2_900_000, 0.9, 15.0, 16.0, batch) for batch in BATCHES}
    text = page.page(compared.changed(comparison, "taught", costs=slow), compared.source(), most=0)
    answer, said = cards(text)[2][1:]
    assert answer.replace("\N{NO-BREAK SPACE}", " ") == "3 x the time"
    assert "15.0 ms for a picture, where alone takes 5.0" in said.replace("\N{NO-BREAK SPACE}", " ")


def test_every_part_has_a_heading_and_a_word_on_how_to_read_it(text):
    assert headings(text)[3:] == [
        "Where it gains",
        "What it costs",
        "How the training went",
        "What goes wrong",
        "What is taken for what",
        "Pictures",
        "How this was made",
    ]
    for section in re.findall(r"<section.*?</section>", text, re.DOTALL):
        assert section.count('<p class="how">') >= 1
    for heading in ("Differences to alone", "Time for a picture", "Loss", "AP", "The detector's own terms"):
        assert re.search(rf'<h3>{heading}</h3>\s*<p class="how">', text.replace("&#x27;", "'")), heading
    for name in ("tar: decay", "tar: box gate", "tar: feature 4"):
        assert f"<h4>{name}</h4>" in text
    assert "<h4>tar: feature</h4>" in text.partition("<h3>How hard the teacher pulls</h3>")[2]
    assert "train.probe_every" not in text
    assert "gradient norm" not in text
    assert text.index("tar: feature 4<") < text.index("tar: feature 16<")


def test_it_needs_nothing_else(comparison, text):
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    shown = sum(map(len, pictures.ranked(comparison, most=2).values()))
    assert len(links) == 4 * shown >= 8  # truth and three detectors
    for link in links:
        head, _, data = link.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert max(picture.size) == pictures.SIDE
    assert not re.search(r"https?:|@import|<script|url\(", text)
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 5_000_000


def test_every_chart_has_words_and_every_detector_one_colour(text):
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert re.match(r'<svg viewBox="[^"]*" role="img" aria-label="[^"]+"><title>', chart)
    for number, name in enumerate(("alone", "taught", "teacher")):
        assert set(re.findall(rf'background:(var\(--c\d\))"></i>{name}</span>', text)) == {f"var(--c{number})"}


def test_one_evaluation_is_no_curve():
    once = page.page(compared.comparison(evaluations=1), compared.source(), most=0)
    assert "<h3>AP</h3>" not in once
    assert "AP was taken once, after the last step" in once


def test_a_taught_run_without_gradient_ratios_says_how_to_have_them(comparison):
    reported = {key: series for key, series in comparison.focused.curves.reported.items() if "ratio" not in key}
    curves = dataclasses.replace(comparison.focused.curves, reported=reported)
    without = page.page(compared.changed(comparison, "taught", curves=curves), compared.source(), most=0)
    assert "How hard the teacher pulls</h3>" not in without
    assert "train.probe_every in a recipe adds that" in without
    untaught = compared.changed(compared.changed(comparison, "taught", curves=curves, methods=()), "alone", methods=())
    assert "train.probe_every" not in page.page(untaught, compared.source(), most=0)


def test_a_run_whose_losses_are_not_finite(comparison):
    curves = dataclasses.replace(comparison.focused.curves, reported={"box": Series((1,), (2.0,))})
    broken = compared.changed(compared.changed(comparison, "alone", curves=curves), "taught", curves=curves)
    assert "No loss that was reported is finite." in page.page(broken, compared.source(), most=0)


def test_numbers_stay_by_their_units():
    for text in ("95 % of them", "-4.5 AP", "2.9 ms"):
        assert layout.signed(text).count("\N{NO-BREAK SPACE}") == 1
    assert layout.signed("3 Ms and 5 men") == "3 Ms and 5 men"


def test_weights_alone_have_no_training(comparison):
    without = compared.changed(compared.changed(comparison, "alone", curves=None), "taught", curves=None)
    text = page.page(without, compared.source(), most=0)
    assert "How the training went" not in text
    assert "A step of training" not in text


def test_names_are_text(comparison):
    odd = dataclasses.replace(compared.changed(comparison, "taught", name="<b>&", folder="<i>"), focus="<b>&")
    text = page.page(dataclasses.replace(odd, remarks=("<u>",)), compared.source(), most=1)
    assert not re.search(r"<b>&|<i>|<u>", text)
    assert "&lt;b&gt;&amp; compared with alone" in text


def test_pictures_are_those_that_gained_and_lost_most(comparison):
    quality = np.zeros(12)
    changes = {3: 0.5, 7: 0.25, 8: 0.1, 2: -0.5, 11: -0.25}
    better = quality.copy()
    for row, change in changes.items():
        better[row] = change
    made = compared.changed(compared.changed(comparison, "alone", quality=quality), "taught", quality=better)
    assert pictures.ranked(made, most=2) == {"gained": [3, 7], "lost": [2, 11]}
    text = pictures.pictures(made, compared.source(), most=2)
    assert re.findall(r"<h4><b>([^<]*)</b>", text) == ["+0.50", "+0.25", "\N{MINUS SIGN}0.50", "\N{MINUS SIGN}0.25"]
    assert re.findall(r"<figcaption>([^<]*)<", text)[:2] == ["truth", "alone 0.00"]
    assert "taught 0.50" in text
    same = compared.changed(made, "taught", quality=quality)
    assert pictures.pictures(same, compared.source(), most=2) == ""
    source = compared.source()
    truth = source.annotations()
    truth["annotations"] = [item | {"ignore": 1} for item in truth["annotations"]]
    source.annotations = lambda: truth
    assert pictures.DASHED in pictures.pictures(made, source, most=1)
    assert pictures.DASHED not in text
    only_gains = compared.changed(made, "taught", quality=np.abs(better))
    assert "On no picture." in pictures.pictures(only_gains, compared.source(), most=2)


def test_pictures_keep_to_their_budget(comparison, monkeypatch):
    def size():
        text = pictures.pictures(comparison, compared.source(), most=2)
        return sum(len(base64.b64decode(data)) for data in re.findall(r"base64,([^\"]*)", text))

    budget = size() // 2
    monkeypatch.setattr(pictures, "BUDGET", budget)
    assert budget / 2 < size() <= budget


def test_many_classes(comparison):
    names = tuple(f"class {number}" for number in range(40))
    counts = np.zeros((41, 41), np.int64)
    counts[3, 4], counts[5, 6], counts[40, 2], counts[7, 40] = 2, 9, 50, 60
    gains = {name: Interval(number / 100, 0.0, 1.0) for number, name in enumerate(names)}
    many = dataclasses.replace(comparison, objects=dict.fromkeys(names, 3))
    for one in comparison.detectors:
        scores = dataclasses.replace(one.scores, per_class={name: {"AP": 0.1, "AP50": 0.2} for name in names})
        own = one.gains and dataclasses.replace(one.gains, per_class=gains)
        found = Confusion(names, counts * (one.name != "teacher"), 0.5)
        many = compared.changed(many, one.name, scores=scores, gains=own, confusion=found)
    text = page.page(many, compared.source(), most=0)
    assert "<summary>All 40 classes</summary>" in text
    assert re.findall(r"<li>(class [^<]*)</li>", text)[:2] == [
        "class 5 taken for class 6: 9",
        "class 3 taken for class 4: 2",
    ]
    plain = tables.markdown(many)
    assert "### alone\n\n| there | found | times |\n| --- | ---: | ---: |\n| class 5 | class 6 | 9 |\n" in plain
    assert "### teacher\n\nNo class is taken for another.\n" in plain
    assert "class 39" in re.search(r'aria-label="Differences to alone".*?</svg>', text, re.DOTALL)[0]
    assert "class 1<" not in re.search(r'aria-label="Differences to alone".*?</svg>', text, re.DOTALL)[0]


def test_nothing_is_written_where_something_cannot_be_told(comparison, tmp_path):
    with pytest.raises(KeyError):
        page.write(tmp_path / "out", dataclasses.replace(comparison, sizes={}), compared.source(), most=0)
    assert not (tmp_path / "out").exists()


def test_files(comparison, tmp_path):
    page.write(tmp_path / "new" / "folder", comparison, compared.source(), most=1)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(page.FILES)
    content = json.loads((tmp_path / "new" / "folder" / "comparison.json").read_text())
    assert (content["reference"], content["focus"], content["split"]) == ("alone", "taught", "validation")
    assert content["bootstrap"] == {"resamples": 50, "seed": 0, "interval": 0.95}
    taught = content["detectors"]["taught"]
    gain = comparison.focused.gains.summary["AP"]
    assert taught["difference"]["summary"]["AP"] == {"difference": gain.difference, "low": gain.low, "high": gain.high}
    assert taught["scores"]["APm"] is None  # not known
    assert taught["cost"]["batch_8"]["per_second"] == pytest.approx(200)
    assert taught["confusion"]["truth_by_found"] == comparison.focused.confusion.counts.tolist()
    assert taught["curves"]["reported"]["loss"]["steps"][0] == 100
    assert content["detectors"]["alone"]["difference"] is None
    assert (tmp_path / "new" / "folder" / "comparison.md").read_text() == tables.markdown(comparison)

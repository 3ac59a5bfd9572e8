"""The quickstart's report, from numbers that a reader can check."""

import json
import math

import pytest
from PIL import Image

from jaxkd.cli import report
from jaxkd.data import shapes
from jaxkd.data.loader import Config as LoaderConfig
from jaxkd.evaluation.coco import SUMMARY, Scores
from jaxkd.evaluation.cost import Cost
from jaxkd.loading import build

COLUMNS = ["detector", "AP", "AP50", "AP75", "AP cat", "AP dog", "parameters", "GFLOPs", "ms/image"]


def row(name: str, ap: float) -> report.Row:
    scores = Scores(
        summary=dict.fromkeys(SUMMARY, ap) | {"AP50": 0.9},
        per_class={n: {"AP": ap, "AP50": 0.9} for n in ("cat", "dog")},
    )
    return report.Row(name, scores, Cost(parameters=1_234_567, gflops=0.126, milliseconds=12.34, p90=13.0))


@pytest.fixture
def summary() -> report.Summary:
    rows = [row("teacher", 0.5), row("alone", 0.3), row("taught", 0.3421)]
    return report.Summary(rows=rows, seed=3, steps=40, seconds=61.27, wait_share=0.025)


def test_the_gain_is_in_points(summary):
    assert summary.gain == pytest.approx(4.21)


def test_cells_of_a_row(summary):
    cells = report.cells(summary.rows[2])
    assert list(cells) == COLUMNS
    assert list(cells.values()) == ["taught", "34.2", "90.0", "34.2", "34.2", "34.2", "1.23 M", "0.13", "12.3"]


def test_the_table_is_whole_also_in_a_pipe(summary, capsys):
    report.show(summary)
    out = capsys.readouterr().out
    for words in (*COLUMNS, "teacher", "alone", "taught", "34.2", "1.23 M"):
        assert words in out
    assert "…" not in out
    assert "The teacher gave the student +4.2 AP (40 steps, 61 s in all)." in out


def test_a_loss_is_shown_as_one(summary, capsys):
    worse = report.Summary(rows=[row("alone", 0.3), row("taught", 0.25)], seed=0, steps=1, seconds=1.0, wait_share=0.0)
    report.show(worse)
    assert "gave the student -5.0 AP" in capsys.readouterr().out


def test_files(summary, tmp_path):
    summary.rows[0].scores.summary["APl"] = math.nan
    report.write(tmp_path, summary)
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["gain_ap"] == pytest.approx(4.21)
    assert (content["seed"], content["steps"], content["seconds"]) == (3, 40, 61.3)
    assert content["data_wait_share"] == 0.025
    assert list(content["detectors"]) == ["teacher", "alone", "taught"]
    assert content["detectors"]["taught"]["scores"]["AP"] == 0.3421
    assert content["detectors"]["teacher"]["parameters"] == 1_234_567
    text = (tmp_path / "report.md").read_text()
    lines = text.splitlines()
    assert f"| {' | '.join(COLUMNS)} |" in lines
    assert "| taught | 34.2 | 90.0 | 34.2 | 34.2 | 34.2 | 1.23 M | 0.13 | 12.3 |" in lines
    assert "+4.2 AP: seed 3, 40 steps, 61 s in all" in text
    assert "2.5% of training went into waiting for data" in text
    assert "(pictures.png)" in text


def test_pictures_side_by_side(tmp_path):
    source = shapes.load(shapes.Config(count=6, size=(48, 64)))
    results = [{"image_id": 2, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9}]
    report.draw_comparison(tmp_path / "pictures.png", source, {"alone": results, "taught": []})
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width > 3 * 64
        assert picture.height > report.PICTURES * 48


def test_the_cost_of_trained_detectors(runs):
    loaded = build.load(runs.alone / "student")
    source = shapes.load(shapes.Config(count=2, size=(64, 96)))
    both = {"alone": loaded, "taught": build.load(runs.taught / "student")}
    costs = report.costs_of(both, source, LoaderConfig(buckets=((64, 96),), short=(64,), long=96))
    cost = costs["alone"]
    assert costs["taught"] is cost  # measured once, as they are equal
    leaves = [leaf for part in loaded.params.values() for leaf in build.tree.flatten(part).values()]
    assert cost.parameters == sum(leaf.size for leaf in leaves)
    assert cost.gflops > 0.001
    assert cost.milliseconds > 0

"""What `jaxkd explain` draws, and what it refuses."""

import json
import re
import shutil
from types import SimpleNamespace

import projects
import pytest
from PIL import Image

from jaxkd.cli import explain, explain_sheet
from jaxkd.cli.explain_sheet import Panel, Part
from jaxkd.errors import ConfigError

STRIDES = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """What is said and drawn of a picture."""
    out = tmp_path_factory.mktemp("explained") / "out"
    outcome = projects.call("explain", f"--workdir={runs.taught}", "some/where/9.png", f"--out={out}")
    assert outcome.code == 0, outcome
    return outcome, out


def test_a_picture_of_everything(drawn):
    outcome, out = drawn
    single = {
        "truth",
        "tar_class_gate",
        "tar_box_gate",
        "gkd_prototypes",
        *(f"tar_mask_{stride}" for stride in STRIDES),
        *(f"gkd_sigma_{stride}" for stride in STRIDES),
    }
    assert {path.stem for path in out.iterdir()} == single | {"explained"}
    assert all(name in outcome.out for name in single)
    assert f"{out / 'explained.png'} shows everything" in outcome.out
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert picture.width >= 96
    with Image.open(out / "explained.png") as picture:
        assert picture.width == explain_sheet.COLUMNS * (explain_sheet.WIDTH + explain_sheet.GAP) + explain_sheet.GAP


def test_why_a_map_is_empty_is_said_and_marked(drawn, runs):
    outcome, out = drawn
    content = json.loads((runs.project.folder / "val.json").read_text())
    assert (
        len([item for item in content["annotations"] if item["image_id"] == 9]) == 2
    )  # so on two of four levels at most
    empty = [
        stride
        for stride in STRIDES
        if f"tar (distill.task_adaptive): mask, stride {stride}: empty, no object lies on this level." in outcome.out
    ]
    assert 2 <= len(empty) < 4
    for stride in STRIDES:
        with Image.open(out / f"tar_mask_{stride}.png") as picture:
            assert (picture.height > 64) == (stride in empty)
    assert "Not drawn: What mimic does on a picture." in outcome.out


@pytest.mark.parametrize(
    ("which", "pictures", "words"),
    [
        ("taught", ["9.png", "10.png"], "Name one picture"),
        ("taught", [], "Name one picture"),
        ("taught", ["elsewhere/11.png"], "No picture of val and train is called 11.png; near it are 1"),
        ("taught", ["9.png", "--split=train"], "No picture of train is called 9.png; near it are "),
        ("alone", ["9.png"], "has no teacher"),
    ],
)
def test_what_is_refused(runs, refused, tmp_path, which, pictures, words):
    workdir = getattr(runs, which)
    outcome = projects.call("explain", f"--workdir={workdir}", *pictures, f"--out={tmp_path / 'out'}")
    refused(outcome, 64, words, command="explain")
    assert not (tmp_path / "out").exists()


def test_weights_alone_teach_nothing(runs, refused, tmp_path):
    weights = shutil.copytree(runs.taught / "student", tmp_path / "weights")
    outcome = projects.call("explain", f"--workdir={weights}", "9.png", f"--out={tmp_path / 'out'}")
    refused(outcome, 64, weights, "give the workdir of a taught run", command="explain")


def sources(**files):
    """Splits of pictures with these files."""
    return {
        split: SimpleNamespace(records=[SimpleNamespace(file=file, index=place) for place, file in enumerate(names)])
        for split, names in files.items()
    }


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("b.jpg", ("val", 1), ""),
        ("/anywhere/b.jpg", ("val", 1), ""),
        ("c.jpg", ("train", 1), ""),
        (
            "a.jpg",
            ("val", 0),
            "a.jpg of val is drawn; the name fits a.jpg of train too (give --split=train for another).\n",
        ),
        ("x/d.jpg", ("train", 2), ""),
        (
            "d.jpg",
            ("train", 2),
            "x/d.jpg of train is drawn; the name fits y/d.jpg of train too (give more of the path for another).\n",
        ),
    ],
)
def test_a_picture_is_found_by_the_end_of_its_path(name, place, said, capsys):
    there = sources(val=["a.jpg", "b.jpg"], train=["a.jpg", "c.jpg", "x/d.jpg", "y/d.jpg"])
    assert explain._find_picture(there, name) == place
    assert capsys.readouterr().out == said


def test_a_name_that_is_not_there():
    there = sources(val=["cells_0012.jpg", "cells_0013.jpg"], train=["cells_0100.jpg"])
    with pytest.raises(ConfigError, match=r"is called cells_012\.jpg; near it are cells_0012\.jpg"):
        explain._find_picture(there, "cells_012.jpg")
    for nothing in ("", "."):
        with pytest.raises(ConfigError, match=f"is called '{re.escape(nothing)}'; the first are"):
            explain._find_picture(there, nothing)
    with pytest.raises(ConfigError, match=r"the first are cells_0012\.jpg, cells_0013\.jpg and cells_0100\.jpg\.$"):
        explain._find_picture(there, "?")


def test_a_sheet_leaves_out_what_is_empty_and_says_where_it_has_less():
    red, high = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 9000), "blue")
    panels = [Panel("a", "one", "what it is", red), Panel("b", "two", "", red, empty="for no reason")]
    alone = explain_sheet.compose("title", [Part("part", panels[:1])])
    assert explain_sheet.compose("title", [Part("part", panels)]).tobytes() == alone.tobytes()
    assert alone.getpixel((explain_sheet.GAP + 9, alone.height - 2 * explain_sheet.GAP - 9)) == (255, 0, 0)
    assert explain_sheet.compose("title", [Part("part", panels[:1], ["a note"])]).height > alone.height
    wide = explain_sheet.compose("title", [Part("part", [*panels, Panel("c", "three", "", high, wide=True)])])
    assert alone.height + explain_sheet.MAX_HEIGHT < wide.height < alone.height + explain_sheet.MAX_HEIGHT + 150
    assert explain_sheet.single(panels[0]) is red
    assert explain_sheet.single(panels[1]).height > red.height

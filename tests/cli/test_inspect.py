"""What `jaxkd inspect data` prints and writes, and what it refuses."""

import base64
import io
import json
import re

import drawn_layouts
import projects
import pytest
from PIL import Image


def inspect(project, out, *flags):
    return projects.call("inspect", "data", f"--config={project.recipe}", f"--out={out}", *flags)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def refuse(outcome, code, *words):
    """Checks that an outcome ends with one sentence on stderr that has these words."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.out + outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("jaxkd"))
    assert line.startswith("jaxkd inspect: ")
    assert line.endswith(".")
    for word in words:
        assert word in line


def test_numbers_and_a_page(project, out):
    outcome = inspect(project, out, "--pictures=3")
    assert outcome.code == 0, outcome
    for words in ("square", "bar", "Nothing conspicuous was found.", f"index.html and data_report.json are in {out}."):
        assert words in outcome.out
    assert "…" not in outcome.out
    content = json.loads((out / "data_report.json").read_text())
    train, val = content["splits"]["train"], content["splits"]["val"]
    assert (train["pictures"], train["objects"], val["pictures"], val["objects"]) == (8, 16, 2, 4)
    assert train["classes"]["square"]["sizes"] == {"small": 8, "medium": 0, "large": 0}
    assert content["samples"] == {
        "train": {"readable": [0, 4, 7], "unreadable": {}, "conspicuous": {}},
        "val": {"readable": [0, 1], "unreadable": {}, "conspicuous": {}},
    }
    assert content["remarks"] == []


def test_the_page_needs_nothing_else_and_fits_phones_and_the_dark(project, out):
    assert inspect(project, out, "--pictures=3").code == 0
    page = (out / "index.html").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["data_report.json", "index.html"]
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(links) == 3 + 2
    for link in links:
        head, _, data = link.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (480, 320)
    assert not re.search(r"https?://|@import|<script", page)
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page


def test_names_from_files_are_text_on_the_page(project, out):
    def rename(content):
        content["categories"][0]["name"] = "<b>[red]"

    project.edit("train.json", rename)
    project.edit("val.json", rename)
    outcome = inspect(project, out)
    assert outcome.code == 0, outcome
    assert "<b>[red]" in outcome.out
    page = (out / "index.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;[red]" in page


def test_crowds_are_dashed_and_said_to_be(project, out):
    def crowd(content):
        content["annotations"][0]["iscrowd"] = 1

    project.edit("val.json", crowd)
    assert inspect(project, out).code == 0
    page = (out / "index.html").read_text()
    assert "Dashed frames are crowds." in page
    assert "96x64, 1 object, 1 crowd" in page
    assert json.loads((out / "data_report.json").read_text())["splits"]["val"]["crowds"] == 1


def test_pictures_that_cannot_be_read_are_remarked(project, out):
    (project.folder / "images" / "1.png").write_text("no picture")
    outcome = inspect(project, out)
    assert outcome.code == 0, outcome
    assert "- 1 of 8 pictures of train that were opened cannot be read; the first: " in outcome.out
    assert "1.png is not a picture" in (out / "index.html").read_text()


def test_a_recipe_can_be_overridden(project, out):
    outcome = inspect(project, out, "--config.data.loader.max_objects=1")
    assert outcome.code == 0
    assert "8 pictures of train with more than max_objects=1 boxes; 2 would keep all of them." in outcome.out


def test_anchors_that_fit_no_object_are_remarked(project, out):
    outcome = inspect(project, out, "--config.student.anchors.sizes=(256.0,512.0,1024.0,2048.0)")
    assert outcome.code == 0
    assert "Only 0 % of the training objects have an anchor of IoU 0.5; with student.anchors.sizes=(" in outcome.out


def test_the_same_pictures_in_both(project, out):
    outcome = inspect(project, out, f"--config.data.val.annotations={project.folder / 'train.json'}")
    assert outcome.code == 0
    assert "share 8 file names; of 8 that were compared 8 are the same picture" in outcome.out


def test_no_readable_picture(project, out):
    for number in range(1, 9):
        (project.folder / "images" / f"{number}.png").unlink()
    refuse(inspect(project, out), 65, "8 of 8 pictures of train", "There is no picture", "images/1.png")
    assert (out / "index.html").exists()


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda content: content["categories"].pop(), 65, "which 'categories' does not list"),
        (lambda content: content.update(images=[]), 65, "lists no images"),
        (lambda content: content.update(annotations=[]), 65, "none of the 8 training pictures has an object"),
        (
            lambda content: content["categories"][0].update(name="cube"),
            64,
            "validation data has objects of classes that the training data does not know: square",
        ),
    ],
)
def test_what_training_would_refuse(project, out, change, code, said):
    project.edit("train.json", change)
    refuse(inspect(project, out), code, said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Say what to inspect: jaxkd inspect data FOLDER, or jaxkd inspect data --config=FILE[:ARG]"),
        (["--config=bccd"], "Say what to inspect"),
        (["weights"], "does not know 'weights'; say jaxkd inspect data"),
        (["data"], "Name one folder or one recipe: jaxkd inspect data FOLDER"),
        (["data", "--config=bccd", "more"], "Name one folder or one recipe"),
        (["data", "one", "more"], "Name one folder or one recipe"),
        (["data", "--config=bccd", "--format=coco"], "--format is for a folder"),
        (["data", "more", "--format=coca"], "There is no format 'coca'; the closest is 'coco'"),
        (["data", "more", "--config.data.train.limit=3"], "name a recipe"),
        (["data", "--config=bccd", "--pictures=0"], "pictures"),
        (["data", "--config=bccd", "--picture=3"], "no flag --picture; the closest is 'pictures'"),
    ],
)
def test_what_is_refused(argv, said):
    refuse(projects.call("inspect", *argv), 64, said)


def inspect_folder(folder, out, *flags):
    return projects.call("inspect", "data", folder, f"--out={out}", *flags)


def test_a_folder_is_recognised_and_inspected(tmp_path, out):
    drawn_layouts.yolo_roboflow(tmp_path / "set")
    outcome = inspect_folder(tmp_path / "set", out)
    assert outcome.code == 0, outcome
    first, *others = outcome.out.splitlines()
    assert first == f"{tmp_path}/set is YOLO data with train, val and test."
    assert f"- '../train/images' is not there as it is written; {tmp_path}/set/train/images is taken." in others
    content = json.loads((out / "data_report.json").read_text())
    assert {name: split["objects"] for name, split in content["splits"].items()} == {"train": 3, "val": 2}
    assert "jaxkd distill would take these settings; the table is for these sizes:" in others
    assert any(line.startswith("- student.anchors ") and line.endswith(".") for line in others)


def test_a_folder_without_validation_data(tmp_path, out):
    drawn_layouts.label_studio_coco(tmp_path / "set")
    outcome = inspect_folder(tmp_path / "set", out, "--format=coco")
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(f"{tmp_path}/set is COCO data with train.\n")
    content = json.loads((out / "data_report.json").read_text())
    assert content["splits"].keys() == content["samples"].keys() == {"train"}
    assert "val" not in (out / "index.html").read_text()


def test_a_folder_without_annotations(tmp_path, out):
    (tmp_path / "set").mkdir()
    refuse(inspect_folder(tmp_path / "set", out), 65, "is not recognised as annotated pictures")

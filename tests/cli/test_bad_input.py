"""What is wrong with a run's input ends in one sentence and an exit code, and takes nothing away."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import projects
import pytest

from jaxkd.train import log, manifest
from jaxkd.weights import read

CONFIG, DATA, WEIGHTS, STORAGE = 64, 65, 66, 74


@pytest.fixture
def begun(project, runs) -> Path:
    """A workdir with a finished run of `project`'s own recipe."""
    workdir = Path(shutil.copytree(runs.alone, project.folder.parent / "begun"))
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace(str(runs.project.folder), str(project.folder)))
    return workdir


def first(**changes):
    """A change of a file's first annotation."""
    return lambda content: content["annotations"][0].update(changes)


def remove(file: Path) -> None:
    file.unlink()


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove, ("There is no annotation file",)),
        (make_folder, ("cannot be read", "directory")),
        (lambda file: file.write_text('{"images": [],\n "categories": [\n!'), ("not valid JSON in line 3",)),
        (lambda file: file.write_bytes(b'{"images":\n "\xff"}'), ("not UTF-8 in line 2",)),
        (lambda file: file.write_text("[]"), ("JSON list", "'images'")),
        (lambda file: file.write_text("{}"), ("lists no categories",)),
        (lambda file: file.write_text('{"images": ' + "[" * 100_000), ("not JSON that can be read",)),
        (lambda file: file.write_text('{"images": ' + "9" * 5000 + "}"), ("not JSON that can be read",)),
        (lambda file: file.write_bytes(file.read_text().encode("utf-16")), ("not UTF-8 in line 1",)),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_annotation_files_that_cannot_be_used(project, begun, refused, spoil, words, split):
    file = project.folder / f"{split}.json"
    spoil(file)
    before = projects.listing(begun)
    refused(project.train(begun), DATA, file, *words)
    assert projects.listing(begun) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first(category_id=99), ("annotation 2", "category 99")),
        (first(bbox=["1", 2, 3, 4]), ("annotation 2", "plain numbers")),
        (first(bbox=[1, 2, 3, 4, 0.5]), ("annotation 2", "rotated")),
        (first(bbox=[10**400, 2, 3, 4]), ("annotation 2", "plain numbers")),
        (first(iscrowd="no"), ("annotation 2", "iscrowd = 'no'")),
        (lambda content: content["images"][0].update(file_name="\ud800.png"), ("image 1", "'\\ud800.png'")),
        (lambda content: content["categories"][1].update(name="a\nb"), ("category 7", "'a\\nb'")),
        (lambda content: content["images"][1].update(id=1), ("2 images with the id 1",)),
        (lambda content: content["images"][0].update(file_name="../1.png"), ("image 1", "'../1.png'")),
        (lambda content: content["categories"][1].update(name="square"), ("2 categories with the name 'square'",)),
    ],
)
def test_annotations_that_contradict_themselves(project, begun, refused, change, words):
    project.edit("train.json", change)
    before = projects.listing(begun)
    refused(project.train(begun), DATA, project.folder / "train.json", *words)
    assert projects.listing(begun) == before


BOX = "<object><name>bar</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
SIZE = "<size><width>96</width><height>64</height></size>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("not valid XML in line 1",)),
        (f"<annotation>{SIZE}", ("not valid XML in line 1",)),
        ("<annotation/>", ("has no <size><height>",)),
        (f"<annotation>{SIZE}{BOX.format('one')}</annotation>", ("object 1", "xmin = 'one'")),
        (f"<annotation>{SIZE}{BOX.format(1).replace('bar', 'baar')}</annotation>", ("object 1", "'baar'", "'bar'")),
        (f'<!DOCTYPE a [<!ENTITY e "ha">]><annotation>{SIZE}{BOX.format("&e;")}</annotation>', ("<!DOCTYPE>",)),
        ('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation>&e;</annotation>', ("<!DOCTYPE>",)),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_of_voc_that_cannot_be_used(project, tmp_path, refused, text, words, split):
    root = projects.add_devkit(project)
    recipe = project.recipe.read_text()
    for name in ("train", "val"):
        given = f'"data.coco", images=pictures, annotations=FOLDER + "/{name}.json"'
        assert given in recipe
        wanted = f'"data.voc", root=FOLDER + "/VOCdevkit", splits=("2007_{name}",), classes=("square", "bar")'
        recipe = recipe.replace(given, wanted)
    project.recipe.write_text(recipe)
    file = root / "VOC2007" / "Annotations" / ("1.xml" if split == "train" else "9.xml")
    file.write_text(text)
    refused(project.train(tmp_path / "run"), DATA, file, *words)


@pytest.mark.parametrize(
    "change", [lambda content: content.update(annotations=[]), lambda content: content.pop("annotations")]
)
def test_no_object_to_learn_from(project, tmp_path, refused, change):
    project.edit("train.json", change)
    refused(project.train(tmp_path / "run"), DATA, "none of the 8 training pictures has an object")


def test_validation_without_an_object_is_said_and_claims_no_score(project, tmp_path):
    project.edit("val.json", lambda content: content.update(annotations=[]))
    outcome = project.train(tmp_path / "run")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert "There is no object on the 2 validation pictures, so no student can be scored." in lines
    assert "step 4: there is no object to score on" in lines
    assert lines[-1] == f"The last student, for there was nothing to score it on, is in {tmp_path / 'run' / 'student'}."
    assert "AP nan" not in outcome.out and not math.isfinite(projects.scores_in(tmp_path / "run" / "student")["AP"])


def test_no_picture_folder(project, tmp_path, refused):
    shutil.rmtree(project.folder / "images")
    refused(project.train(tmp_path / "run"), DATA, "There is no picture folder", project.folder / "images")


def test_validation_data_of_other_classes(project, tmp_path, refused):
    project.edit("val.json", lambda content: content["categories"][0].update(name="disc"))
    refused(
        project.train(tmp_path / "run"),
        CONFIG,
        "validation data has objects",
        "disc (2 objects; there are bar, square)",
    )


def test_a_recipe_that_failed_leaves_the_workdir_to_the_corrected_one(project, tmp_path, refused):
    workdir, missing = tmp_path / "run", tmp_path / "nowhere.json"
    refused(project.train(workdir, f"--config.data.train.annotations={missing}"), DATA, missing)
    assert projects.listing(workdir) == {}
    refused(project.train(workdir, "--config.initial=nowhere.npz"), WEIGHTS, "nowhere.npz")
    assert "config.json" not in projects.listing(workdir)


def test_one_broken_picture_and_odd_boxes_are_left_out_counted_and_named(project, tmp_path):
    (project.folder / "images" / "1.png").write_text("no picture")
    odd = [[1, 1, 0, 5], [200, 200, 5, 5], [float("nan"), 1, 2, 3], [5, 5, -3, 4], [80, 50, 50, 50]]

    def spoil(content):
        for annotation, box in zip(content["annotations"], odd, strict=False):
            annotation["bbox"] = box

    project.edit("train.json", spoil)
    outcome = project.train(tmp_path / "run")
    assert outcome.code == 0, outcome
    for said in (
        "train.json: boxes with a number that is not finite, left out: 1, the first annotation 4, [nan, 1, nan, 3] on",
        "train.json: boxes without an area, left out: 2, the first annotation 2, [1, 1, 0, 5] on 1.png.",
        "train.json: boxes outside their picture, left out: 1, the first annotation 3, [200, 200, 5, 5] on 1.png.",
        "train.json: boxes that leave their picture, clipped to it: 1, the first annotation 6, [80, 50, 50, 50] on",
    ):
        assert said in outcome.err
    assert "1 of 8 pictures of train that were opened cannot be read; the first: " in outcome.out
    assert [line["step"] for line in log.read(tmp_path / "run") if "loss" in line] == [2, 4]


def test_more_broken_pictures_than_the_limit(project, refused, tmp_path):
    for number in range(1, 7):
        (project.folder / "images" / f"{number}.png").write_text("no picture")
    outcome = project.train(tmp_path / "run")
    refused(outcome, DATA, "pictures cannot be read, more than the 1 that skip_limit allows", ".png is not a picture")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ("teacher", "holds no detector.json")),
        (lambda folder: (folder / "detector.json").unlink(), ("teacher", "holds no detector.json")),
        (lambda folder: (folder / "detector.json").write_text("{"), ("detector.json", "not a description")),
        (lambda folder: (folder / "detector.json").write_text("[]"), ("detector.json", "not a description")),
        (lambda folder: (folder / "weights.safetensors").unlink(), ("There is no weights file",)),
        (
            lambda folder: (folder / "weights.safetensors").write_bytes(
                (folder / "weights.safetensors").read_bytes()[:5000]
            ),
            ("weights.safetensors", "not a sound .safetensors file"),
        ),
        (lambda folder: about(folder, classes=5), ("detector.json", "not a description")),
        (lambda folder: about(folder, detector={}), ("detector.json", "'name'")),
        (lambda folder: about(folder, detector={"name": "detectors.none"}), ("detector.json", "detectors.none")),
        (lambda folder: about(folder, scores=5), ("detector.json", "not a description")),
        (lambda folder: about(folder, scores={"AP": "high"}), ("detector.json", "not a description")),
        (lambda folder: about(folder, classes=[]), ("detector.json", "classes are no list of names")),
        (lambda folder: about(folder, classes="cat"), ("detector.json", "classes are no list of names")),
        (lambda folder: about(folder, format=1), ("detector.json", "form 1", "train or convert it again")),
        (lambda folder: about(folder, format=3), ("detector.json", "form 3", "update jaxkd")),
        (lambda folder: about(folder, detector={"name": 5}), ("detector.json", "names no module")),
        (lambda folder: about(folder, detector={"name": "."}), ("detector.json", "names no module")),
        (lambda folder: (folder / "detector.json").write_text("[" * 100_000), ("detector.json", "not a description")),
        (lambda folder: leaf(folder, None), ("head", "is missing")),
        (lambda folder: leaf(folder, np.zeros(3, np.float32)), ("head", "has the shape (3,) where")),
    ],
)
def test_teachers_that_cannot_teach(project, teacher, tmp_path, refused, spoil, words):
    spoil(teacher)
    refused(project.train(tmp_path / "run", arg="taught"), WEIGHTS, *words)
    assert projects.listing(tmp_path / "run") == {}


def about(folder: Path, **changes) -> None:
    """Changes the description of a detector."""
    file = folder / "detector.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def leaf(folder: Path, value: np.ndarray | None) -> None:
    """Replaces the first leaf of the head, or takes it away."""
    arrays = read.read(folder / "weights.safetensors")
    name = next(name for name in sorted(arrays) if name.startswith("head/"))
    del arrays[name]
    read.save(folder / "weights.safetensors", arrays if value is None else arrays | {name: value})


def test_a_teacher_much_worse_than_it_was(project, teacher, tmp_path, refused):
    about(teacher, scores={"AP": 0.9})
    workdir = tmp_path / "run"
    outcome = project.train(workdir, arg="taught")
    refused(outcome, WEIGHTS, "teacher scores AP", "90.0 where it was trained", "teacher_check=0")
    assert "config.json" not in projects.listing(workdir)  # so that the advice can be followed in this workdir


def test_methods_without_a_teacher(project, tmp_path, refused):
    outcome = project.train(tmp_path / "run", "--config.teacher=", arg="taught")
    refused(outcome, CONFIG, "no teacher", "config.teacher")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"foo": np.zeros(3, np.float32)}, ("foo", "no net known here")),
        ({"layer1.0.conv1.weight": np.zeros((8, 8, 5, 5), np.float32)}, ("conv1/kernel is missing",)),
    ],
)
def test_initial_weights_of_another_network(project, tmp_path, refused, arrays, words):
    file = tmp_path / "other.npz"
    np.savez(file, **arrays)
    refused(project.train(tmp_path / "run", f"--config.initial={file}"), WEIGHTS, *words)


def test_initial_weights_that_are_none(project, runs, tmp_path, refused):
    empty, text = tmp_path / "empty", tmp_path / "weights.txt"
    empty.mkdir()
    text.write_text("no weights")
    refused(project.train(tmp_path / "run", f"--config.initial={empty}"), WEIGHTS, empty, "There is no weights file")
    refused(project.train(tmp_path / "run", f"--config.initial={text}"), WEIGHTS, text, ".safetensors")
    wider = project.train(
        tmp_path / "run", f"--config.initial={runs.alone / 'student'}", "--config.student.neck.channels=32"
    )
    refused(wider, WEIGHTS, "neck/", "has the shape", "is wanted")


def test_the_workdir_of_another_recipe(runs, refused):
    before = projects.listing(runs.alone)
    outcome = runs.project.train(runs.alone, "--config.train.steps=9")
    refused(outcome, CONFIG, runs.alone, "another recipe", "config.train.steps was 4 and is now 9")
    refused(runs.project.train(runs.alone, arg="taught"), CONFIG, "another recipe", "config.distill")
    assert projects.listing(runs.alone) == before


def test_a_checkpoint_of_another_form(project, begun, refused):
    folder = begun / "checkpoints" / "4"
    about = manifest.check(folder) | {"format": 1}
    (folder / manifest.NAME).unlink()
    manifest.seal(folder, about)
    before = {name: digest for name, (_, digest) in projects.listing(begun).items()}
    refused(project.train(begun), STORAGE, "has the form 1", "take a new --workdir")
    assert {name: digest for name, (_, digest) in projects.listing(begun).items()} == before


def test_a_workdir_that_is_a_file_or_below_one(project, tmp_path, refused):
    file = tmp_path / "file"
    file.write_text("here first")
    refused(project.train(file), STORAGE, file, "is a file")
    refused(project.train(file / "run"), STORAGE, file / "run", "cannot be used")
    assert file.read_text() == "here first"


@pytest.mark.parametrize("text", ["{", "\0"])
def test_a_workdir_with_a_broken_recipe(project, tmp_path, refused, text):
    (tmp_path / "config.json").write_text(text)
    refused(project.train(tmp_path), STORAGE, tmp_path, "cannot be used")
    assert (tmp_path / "config.json").read_text() == text

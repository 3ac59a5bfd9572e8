"""Runs held against each other: the numbers are those of the runs, and what does not fit together is refused."""

import json
import shutil

import projects
import pytest

from jaxkd.evaluation.coco import SUMMARY
from jaxkd.loading import build


def compare(*argv, out):
    return projects.call("compare", *argv, f"--out={out}", "--resamples=100")


@pytest.fixture(scope="module")
def copies(runs, tmp_path_factory):
    """What is left of comparing a run, a copy of it, and the taught run."""
    folder = tmp_path_factory.mktemp("copies")
    copy = shutil.copytree(runs.alone, folder / "copy")
    before = [projects.listing(run) for run in (runs.alone, copy, runs.taught)]
    outcome = compare(runs.alone, copy, runs.taught, out=folder / "out")
    assert outcome.code == 0, outcome
    assert [projects.listing(run) for run in (runs.alone, copy, runs.taught)] == before
    return outcome, folder / "out"


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs.taught, tmp_path / "run")


def change(run, edit):
    """Edits the recipe in a workdir."""
    file = run / "config.json"
    recipe = json.loads(file.read_text())
    edit(recipe)
    file.write_text(json.dumps(recipe))


def read(out):
    return json.loads((out / "comparison.json").read_text())


def test_what_is_printed_and_written(copies):
    outcome, out = copies
    assert outcome.err == ""
    for words in (
        "AP - alone",
        "copy",
        "taught",
        "AP against alone on 2 validation pictures; fewer than 5 pictures have an object",
    ):
        assert words in outcome.out
    assert "…" not in outcome.out
    assert outcome.out.endswith(f"index.html, comparison.md, comparison.json are in {out}.\n")
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.md", "index.html"]
    page = (out / "index.html").read_text()
    assert "<h1>taught compared with alone</h1>" in page
    for name in ("How the training went", "tar: decay", "gkd: decay", "mimic: decay", "tar: box gate"):
        assert name in page
    assert len(page) < 5_000_000


def test_the_scores_are_those_of_the_runs(copies, runs):
    found = read(copies[1])["detectors"]
    for name, folder in (("alone", runs.alone), ("copy", runs.alone), ("taught", runs.taught)):
        trained = projects.scores_in(folder / "student")
        scores = {key: float("nan") if value is None else value for key, value in found[name]["scores"].items()}
        assert tuple(scores) == SUMMARY
        assert scores == pytest.approx(trained, abs=1e-6, nan_ok=True)
    assert found["taught"]["methods"] == ["gkd", "mimic", "tar"]


def test_two_copies_of_one_run_differ_in_nothing(copies):
    found = read(copies[1])["detectors"]
    for gain in (*found["copy"]["difference"]["summary"].values(), *found["copy"]["difference"]["per_class"].values()):
        assert gain["difference"] in (0, None)
        assert gain["low"] is gain["high"] is None  # of two pictures
    assert found["copy"]["difference"]["summary"]["AP"]["difference"] == 0
    assert found["copy"]["errors"] == found["alone"]["errors"]


def test_equal_detectors_cost_the_same(copies):
    found = read(copies[1])["detectors"]
    assert found["copy"]["cost"] == found["alone"]["cost"]
    for batch in (1, 8):
        cost = found["alone"]["cost"][f"batch_{batch}"]
        assert cost["pictures"] == batch
        assert 0 < cost["milliseconds"] <= cost["p90"]
        assert cost["per_second"] == pytest.approx(1000 * batch / cost["milliseconds"])


def test_the_teacher_comes_along_unless_it_is_there_or_not_wanted(copies, runs, run, tmp_path):
    assert list(read(copies[1])["detectors"]) == ["alone", "copy", "taught"]  # alone is what taught
    pair = (runs.taught, run / "student")  # which stands for its run
    assert compare(*pair, out=tmp_path / "with").code == 0
    with_it = read(tmp_path / "with")["detectors"]
    assert list(with_it) == ["taught", "run", "teacher"]
    assert with_it["run"]["folder"] == str(run)
    assert (with_it["teacher"]["role"], with_it["teacher"]["curves"]) == ("teacher", None)
    trained = projects.scores_in(runs.alone / "student")["AP"]
    assert with_it["teacher"]["scores"]["AP"] == pytest.approx(trained, abs=1e-6)
    assert compare(*pair, "--noteacher", out=tmp_path / "without").code == 0
    assert list(read(tmp_path / "without")["detectors"]) == ["taught", "run"]


def test_a_folder_of_weights_and_a_teacher_that_is_gone(runs, run, tmp_path):
    change(run, lambda recipe: recipe.update(teacher=str(tmp_path / "gone")))
    weights = shutil.copytree(runs.alone / "student", tmp_path / "weights")
    (weights / build.FRESH).mkdir()  # its writer died before it moved them up
    for name in (build.WEIGHTS, build.ABOUT):
        (weights / name).rename(weights / build.FRESH / name)
    outcome = compare(weights, run, out=tmp_path / "out")
    assert outcome.code == 0, outcome
    content = read(tmp_path / "out")
    assert list(content["detectors"]) == ["weights", "run"]
    assert (content["reference"], content["detectors"]["weights"]["role"]) == ("weights", "weights")
    (remark,) = content["remarks"]
    assert remark.startswith("The teacher of run is not shown: ")
    assert str(tmp_path / "gone") in remark
    for said in (
        outcome.out,
        (tmp_path / "out" / "index.html").read_text(),
        (tmp_path / "out" / "comparison.md").read_text(),
    ):
        assert remark in said.replace("&#x27;", "'")


def test_a_run_that_goes_on_is_said_to(runs, run, tmp_path):
    change(run, lambda recipe: recipe["train"].update(steps=90))
    outcome = compare(runs.alone, run, out=tmp_path / "out")
    assert "- run has come to step 4 of 90; its best student so far is shown." in outcome.out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "Name two or more workdirs of runs, or folders of weights"),
        (["{alone}"], "Name two or more"),
        (["{alone}", "nowhere"], "There is no nowhere; name workdirs of runs"),
        (["{alone}", "{folder}"], "config.json, and no weights, beside which is detector.json; name workdirs of runs"),
        (["assets:bccd_teacher", "assets:bccd_teacher"], "None of these folders is the workdir of a run"),
        (
            ["{alone}", "assets:bccd_teacher"],
            "bccd_teacher is for other classes than the validation data of alone: lacking",
        ),
        (["{alone}", "{taught}", "--pictures=-1"], "pictures"),
        (["{alone}", "{taught}", "--resamples=99"], "resamples"),
        (["{alone}", "{taught}", "--resample=9"], "no flag --resample; the closest is 'resamples'"),
    ],
)
def test_what_is_refused(runs, tmp_path, refused, argv, said):
    places = {"alone": runs.alone, "taught": runs.taught, "folder": tmp_path}
    outcome = projects.call("compare", *(argument.format(**places) for argument in argv))
    refused(outcome, 64, said, command="compare")


def test_a_run_without_a_finished_checkpoint_is_refused(runs, run, refused):
    shutil.rmtree(run / "student")
    refused(projects.call("compare", runs.alone, run), 64, f"The run in {run} has no student yet", command="compare")


def test_a_folder_that_cannot_be_written_is_found_before_the_work(runs, tmp_path, refused):
    (tmp_path / "file").write_text("here first")
    out = tmp_path / "file" / "out"
    outcome = projects.call("compare", runs.alone, runs.taught, f"--out={out}")
    refused(outcome, 74, f"{out} cannot be written to", command="compare")
    assert outcome.out == ""


def test_broken_weights_are_refused(runs, run, refused):
    (run / "student" / "weights.safetensors").write_bytes(b"nothing")
    refused(projects.call("compare", runs.alone, run), 66, "weights.safetensors", command="compare")


OTHER = "alone and run have other validation data"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda content: content["images"].pop(), f"{OTHER}: in that of run the number of pictures is 1, not 2"),
        (lambda content: content["annotations"].pop(), f"{OTHER}: in that of run 10.png has 1 object, not 2"),
        (
            lambda content: content["annotations"][0].update(bbox=[1, 1, 20, 20]),
            f"{OTHER}: in that of run the objects of 9.png have other places",
        ),
        (
            lambda content: content["categories"][1].update(name="rod"),
            "The validation data has objects of classes that run does not know: rod (",
        ),
    ],
)
def test_runs_over_other_data_are_refused(runs, run, tmp_path, refused, edit, said):
    content = json.loads((runs.project.folder / "val.json").read_text())
    edit(content)
    known = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in known]
    (tmp_path / "val.json").write_text(json.dumps(content))
    change(run, lambda recipe: recipe["data"]["val"].update(annotations=str(tmp_path / "val.json")))
    outcome = projects.call("compare", runs.alone, run, f"--out={tmp_path / 'out'}")
    refused(outcome, 64, said, command="compare")
    assert not (tmp_path / "out").exists()


def test_the_same_data_under_another_name_are_the_same(runs, run, tmp_path):
    shutil.copy(runs.project.folder / "val.json", tmp_path / "val.json")
    change(run, lambda recipe: recipe["data"]["val"].update(annotations=str(tmp_path / "val.json")))
    assert compare(runs.alone, run, "--noteacher", "--pictures=0", out=tmp_path / "out").code == 0


def test_a_picture_that_cannot_be_read_is_left_out(runs, run, tmp_path):
    images = shutil.copytree(runs.project.folder / "images", tmp_path / "images")
    (images / "10.png").write_text("no picture")
    change(run, lambda recipe: recipe["data"]["val"].update(images=str(images)))
    assert compare(run, runs.alone, "--noteacher", out=tmp_path / "out").code == 0
    content = read(tmp_path / "out")
    assert content["pictures"] == [9]
    assert content["objects"] == {"square": 1, "bar": 1}


def test_one_picture_with_a_class_that_is_absent_and_names_like_markup(runs, run, tmp_path):
    names = {"square": "[red] <b>:cat:", "bar": "细胞"}
    for split in ("train", "val"):
        content = json.loads((runs.project.folder / f"{split}.json").read_text())
        for category in content["categories"]:
            category["name"] = names[category["name"]]
        content["images"] = content["images"][:1]
        content["annotations"] = content["annotations"][:1]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))

    def edit(recipe):
        for split in ("train", "val"):
            recipe["data"][split].update(annotations=str(tmp_path / f"{split}.json"))

    change(run, edit)
    about = run / "student" / "detector.json"
    about.write_text(about.read_text().replace('"square"', '"[red] <b>:cat:"').replace('"bar"', '"细胞"'))
    other = shutil.copytree(run, tmp_path / "an [other] :dog: run")
    change(other, lambda recipe: recipe["data"]["train"].update(allow_links=True))
    change(other, lambda recipe: recipe["train"].update(batch=2))
    outcome = compare(run, other, "--noteacher", out=tmp_path / "out")
    assert outcome.code == 0, outcome
    shown = outcome.out + (tmp_path / "out" / "comparison.md").read_text()
    html = (tmp_path / "out" / "index.html").read_text()
    for said in (
        "an [other] :dog: run",
        "The pictures have no object of 细胞, whose AP is not known; AP is the mean over the other classes.",
        "an [other] :dog: run names other training data than run (allow_links is True, not False), so a difference",
        "an [other] :dog: run trains for 4 steps of 2 pictures, and run for 4 steps of 4 pictures.",
    ):
        assert said in outcome.out and said in shown and said in html, said
    assert "1 validation picture" in outcome.out and "1 validation pictures" not in outcome.out
    assert "On 1 validation picture with 1 object of 2 classes" in html
    assert "A dash stands where the pictures have no object of a size or class." in html
    assert "| 细胞 | - | - |" in shown
    assert "[red] &lt;b&gt;:cat:" in html and "<b>:cat:" not in html


def test_data_without_an_object_leave_nothing_to_compare(runs, run, tmp_path, refused):
    content = json.loads((runs.project.folder / "val.json").read_text()) | {"annotations": []}
    (tmp_path / "val.json").write_text(json.dumps(content))
    change(run, lambda recipe: recipe["data"]["val"].update(annotations=str(tmp_path / "val.json")))
    other = shutil.copytree(run, tmp_path / "other")
    refused(compare(run, other, out=tmp_path / "out"), 65, "there is nothing to compare", command="compare")

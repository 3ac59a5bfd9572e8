"""From a folder to a compared student: what the command derives, says, refuses, and leaves; and that it goes on."""

import json

import projects
import pytest

import jaxkd
from jaxkd import config as configs
from jaxkd import distillation
from jaxkd.errors import ConfigError, DataError


def distill(project, workdir, *flags):
    return projects.call("distill", project.folder, f"--workdir={workdir}", *flags)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--minutes=-1"], "minutes"),
        (["--seeds=0"], "seeds"),
        (["--student=huge"], "huge"),
        (["--method=luck"], "luck"),
        (["--other"], "no flag --other"),
    ],
)
def test_flags_that_are_refused(refused, project, tmp_path, flags, word):
    refused(distill(project, tmp_path / "run", *flags), 64, word, command="distill")
    assert not (tmp_path / "run").exists()


def test_folders_that_are_refused(refused, tmp_path):
    refused(projects.call("distill"), 64, "jaxkd distill FOLDER", command="distill")
    refused(projects.call("distill", tmp_path / "none"), 65, "none", command="distill")
    (tmp_path / "empty").mkdir()
    refused(projects.call("distill", tmp_path / "empty"), 65, "data.yaml", "empty", command="distill")


def test_from_python_it_is_the_same(tmp_path):
    with pytest.raises(DataError, match="none"):
        jaxkd.distill_folder(tmp_path / "none", workdir=tmp_path / "run")
    with pytest.raises(ConfigError, match="huge"):
        jaxkd.distill_folder(tmp_path, size="huge")


def test_explain_prints_a_recipe_and_trains_nothing(project, tmp_path):
    outcome = distill(project, tmp_path / "run", "--explain", "--epochs=3", "--method=tar")
    assert outcome.code == 0, outcome
    assert not (tmp_path / "run").exists()
    file = tmp_path / "mine.py"
    file.write_text(outcome.out)
    teacher, alone, taught = (configs.load_recipe(file, name) for name in ("teacher", "alone", "taught"))
    assert (alone.train.epochs, teacher.train.epochs) == (3, 6)
    assert alone.data.train.annotations == str(project.folder / "train.json")
    assert taught.teacher == str(tmp_path / "run" / "teacher" / "student")
    assert list(taught.distill) == ["tar"] and not alone.distill
    assert taught.student == alone.student != teacher.student


def test_a_teacher_at_hand_to_a_compared_student_and_on_again(runs, project, tmp_path, refused):
    (project.folder / "test.json").write_bytes((project.folder / "val.json").read_bytes())
    flags = [f"--teacher={runs.alone}", "--epochs=1", "--method=tar", "--augment=none", "--export=", "--anyway"]
    outcome = distill(project, tmp_path / "run", *flags)
    assert outcome.code == 0, outcome
    for words in ("COCO", "2 classes (square and bar), 8 pictures to train, 2 pictures to val", "data.loader.short"):
        assert words in outcome.out
    assert outcome.out.count("taught has") == 2 and "In all " in outcome.out and "2 test pictures" in outcome.out
    content = json.loads((tmp_path / "run" / "comparison" / "comparison.json").read_text())
    assert list(content["detectors"]) == ["alone", "taught", "teacher"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("alone", "comparison", "comparison_test", "options.json", "pictures.png", "recipe.py", "taught")
    ]
    recipe = (tmp_path / "run" / "recipe.py").read_text()
    again = distill(project, tmp_path / "run", *flags, "--seeds=2")
    assert again.code == 0, again
    assert "as an earlier start left it" in again.out and "too few to say" in again.out
    over = json.loads((tmp_path / "run" / "comparison" / "comparison.json").read_text())["over_seeds"]
    first = content["detectors"]["taught"]["difference"]["summary"]["AP"]["difference"]
    assert over["gains"][0] == first and len(over["gains"]) == 2
    assert (tmp_path / "run" / "recipe.py").read_text() == recipe
    assert all(
        json.loads((tmp_path / "run" / folder / "comparison.json").read_text())["detectors"]["taught"]["scores"]
        == content["detectors"]["taught"]["scores"]
        for folder in ("comparison", "comparison_test")
    )
    refused(
        distill(project, tmp_path / "run", *flags, "--size=fast"), 64, "size='balanced'", "'fast'", command="distill"
    )


def test_a_test_split_without_objects_is_left_out_and_said(project, tmp_path):
    content = json.loads((project.folder / "val.json").read_text())
    crowds = [item | {"iscrowd": 1} for item in content["annotations"]]
    (project.folder / "test.json").write_text(json.dumps(content | {"annotations": crowds}))
    data = distillation.load(str(project.folder), distillation.options({}), tmp_path)
    assert list(data.sources) == ["train", "val"]
    assert "The test split has no object, so nothing is compared on it." in data.sentences

"""From a folder to a compared student: what the command derives, says, refuses, and leaves; and that it goes on."""

import json
import re
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import projects
import pytest

import jaxkd
from jaxkd import config as configs
from jaxkd import distillation, experiment
from jaxkd.cli import distill as command
from jaxkd.data import presets
from jaxkd.data.base import digest
from jaxkd.derive import duration, methods, recipes, schedule, student
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import folder as folders
from jaxkd.loading import prepare
from jaxkd.train.memory import StepTooLargeError


def distill(project, workdir, *flags):
    return projects.call("distill", project.folder, f"--workdir={workdir}", *flags)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--minutes=-1"], "minutes"),
        (["--seeds=0"], "seeds"),
        (["--student=huge"], "no recipe has it"),
        (["--method=luck"], "luck"),
        (["--method=tar+tar"], "several as in tar+gkd"),
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


def test_some_classes_alone(refused, project, tmp_path):
    run = tmp_path / "run"
    refused(distill(project, run, "--classes=bar,squire"), 64, "squire", "the closest is 'square'", command="distill")
    refused(distill(project, run, "--classes=bar,bar"), 64, "'bar' twice", command="distill")
    with pytest.raises(ConfigError, match="list of names"):
        jaxkd.distill_folder(project.folder, classes="bar")
    options = distillation.options(str(project.folder), {}, classes=["bar"])
    lines = "\n".join(distillation.plan(options, run).lines())
    for words in ("1 class (bar), 8 pictures", "train: objects of classes that are not listed in classes, left out: 8"):
        assert words in lines
    file = tmp_path / "mine.py"
    file.write_text(distillation.explanation(options, run))
    train, val = prepare.load_sources(configs.load_recipe(file, "alone").data).values()
    assert train.classes == val.classes == ("bar",) and all(len(record.boxes) == 1 for record in train.records)
    project.edit("val.json", lambda content: content.update(annotations=content["annotations"][:1]))
    refused(distill(project, run, "--classes=bar"), 65, "validation picture", "of the classes bar", command="distill")


def test_a_split_is_made_of_the_classes_that_are_taken(project, tmp_path):
    (project.folder / "val.json").unlink()
    data = folders.load(str(project.folder), classes=("bar",), split_file=tmp_path / "split.json")
    assert data.divided and [source.classes for source in data.sources.values()] == [("bar",), ("bar",)]
    again = prepare.load_sources({name: data.components[name] for name in ("train", "val")})
    assert {name: digest(one) for name, one in again.items()} == {k: digest(v) for k, v in data.sources.items()}


def test_a_teacher_at_hand_to_a_compared_student_and_on_again(runs, project, tmp_path, refused):
    (project.folder / "test.json").write_bytes((project.folder / "val.json").read_bytes())
    flags = [f"--teacher={runs.alone}", "--epochs=1", "--method=tar", "--augment=none", "--export=none", "--anyway"]
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


def test_the_student_of_a_recipe_is_taught_some_classes_without_a_baseline(runs, project, tmp_path):
    flags = [f"--teacher={runs.alone}", "--student=bccd:retinanet-alone", "--classes=bar", "--no-baseline"]
    flags += ["--epochs=1", "--method=tar+gkd", "--augment=none", "--export=none", "--anyway"]
    outcome = distill(project, tmp_path / "run", *flags)
    assert outcome.code == 0, outcome
    for words in ("- student: the student of bccd:retinanet-alone.", "1/1 The student learns taught.", "1 class (bar)"):
        assert words in outcome.out
    assert experiment.NO_BASELINE in outcome.out and "no gain is measured without another student" in outcome.out
    page = tmp_path / "run" / "comparison"
    content = json.loads((page / "comparison.json").read_text())
    assert list(content["detectors"]) == ["taught", "teacher"] and list(content["objects"]) == ["bar"]
    assert experiment.NO_BASELINE in content["remarks"] and not (tmp_path / "run" / "alone").exists()
    trained = jaxkd.load(tmp_path / "run" / "taught")
    assert trained.classes == ("bar",)
    kept = configs.load_recipe(tmp_path / "run" / "recipe.py", "alone")
    assert configs.dump(kept.student) == configs.dump(configs.load_recipe("bccd", "retinanet-alone").student)


def test_pictures_without_labels_are_a_third_run(runs, project, tmp_path):
    draw = np.random.default_rng(5)
    (tmp_path / "more").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / "more" / f"{number}.png"), draw.integers(0, 255, (64, 96, 3), np.uint8))
    flags = [f"--teacher={runs.alone}", "--epochs=1", "--method=mimic", "--augment=none", "--export=none", "--anyway"]
    flags.append(f"--unlabelled={tmp_path / 'more'}")
    outcome = distill(project, tmp_path / "run", *flags)
    assert outcome.code == 0, outcome
    for words in ("3/3 The student learns taught, of pictures without labels too.", "data.unlabelled", "Step by step:"):
        assert words in outcome.out
    content = json.loads((tmp_path / "run" / "comparison" / "comparison.json").read_text())
    assert list(content["detectors"]) == ["alone", "taught", "unlabelled", "teacher"]
    again = distill(project, tmp_path / "run", *flags)
    assert again.code == 0 and "as an earlier start left it" in again.out
    file = tmp_path / "run" / "recipe.py"
    taught, unlabelled = (configs.load_recipe(file, name) for name in ("taught", "unlabelled"))
    assert unlabelled.data.unlabelled.images == str(tmp_path / "more")
    assert unlabelled.distill == taught.distill and "unlabelled" not in taught.data


def test_a_test_split_without_objects_is_left_out_and_said(project, tmp_path):
    content = json.loads((project.folder / "val.json").read_text())
    crowds = [item | {"iscrowd": 1} for item in content["annotations"]]
    (project.folder / "test.json").write_text(json.dumps(content | {"annotations": crowds}))
    data = folders.load(str(project.folder), split_file=tmp_path / "split.json")
    assert list(data.sources) == ["train", "val"]
    assert "The test split has no object, so nothing is compared on it." in data.sentences


def test_what_excludes_each_other_is_refused(refused, project, tmp_path):
    run = tmp_path / "run"
    for flags, words in (
        (["--minutes=5", "--epochs=3"], ("minutes", "epochs")),
        (["--teacher=large", "--teacher_initial=weights.npz"], ("teacher_initial",)),
        (["--minutes=5", "--explain"], ("minutes", "explain", "epochs")),
        (["--export=paper"], ("paper", "stablehlo")),
    ):
        refused(distill(project, run, *flags), 64, *words, command="distill")
    with pytest.raises(ConfigError, match="no option 'epoch'; the closest is 'epochs'"):
        jaxkd.distill_folder(project.folder, epoch=3)
    assert not run.exists()


def test_the_flags_offer_what_can_be_derived():
    offered = {name: set(choices) for name, (choices, _) in command.CHOICES.items()}
    assert command.STUDENTS == student.NAMES and command.METHODS == methods.NAMES
    assert offered == {"size": set(recipes.SIZES), "augment": set(get_args(presets.Name))}


def planned(project, workdir, **settings):
    return distillation.plan(distillation.options(str(project.folder), {"method": "tar", **settings}), workdir)


def test_a_teacher_of_stretched_pictures_has_its_own_canvas(project, tmp_path):
    folder = Path(__file__).parents[1] / "query_detectors" / "d_fine"
    recipes_of = planned(project, tmp_path / "run", teacher=str(folder)).experiment.recipes
    view = recipes_of["taught"].data.loader.teacher_view
    assert (view.size, view.fit, view.resample) == ((64, 96), "stretch", "bilinear")
    assert recipes_of["alone"].data.loader.teacher_view.size == (0, 0)


@pytest.fixture
def without_timing(monkeypatch):
    """Runs are not timed: each kind takes 20 s to start and .1 s a step."""

    def timings(experiment, *, say):
        return dict.fromkeys(experiment.recipes, duration.Timing(20.0, 0.1))

    monkeypatch.setattr(experiment, "timings", timings)


def test_before_anything_is_trained_other_options_derive_anew(project, tmp_path, without_timing):
    workdir = tmp_path / "run"
    first = distillation.timed(planned(project, workdir, epochs=3), say=str)
    recipe = first.file.read_text()
    again = distillation.timed(planned(project, workdir, epochs=3), say=str)
    assert again.derived is None and again.seconds() == pytest.approx(first.seconds())
    assert first.file.read_text() == recipe
    assert "as an earlier start left it" in "\n".join(again.lines())
    other = distillation.timed(planned(project, workdir, epochs=5), say=str)
    assert other.derived and other.steps("alone") == 5 * 2 and other.file.read_text() != recipe
    assert (workdir / "before-recipe.py").read_text() == recipe
    (workdir / "teacher").mkdir()
    with pytest.raises(ConfigError, match="epochs=5, not 3"):
        planned(project, workdir, epochs=3)
    assert not distillation.timed(planned(project, workdir, epochs=5), say=str).timings


def test_the_baseline_may_be_added_to_runs_that_were_begun(project, tmp_path, without_timing):
    def plan(**others):
        options = distillation.options(str(project.folder), {"epochs": 3}, **others)
        return distillation.timed(distillation.plan(options, tmp_path), say=str)

    assert plan(baseline=False).experiment.students == ("taught",)
    (tmp_path / "teacher").mkdir()
    again = plan()
    assert again.begun and again.experiment.students == ("alone", "taught")


def test_options_that_an_earlier_version_did_not_write_have_their_defaults(project, tmp_path, without_timing):
    distillation.timed(planned(project, tmp_path), say=str)
    file = tmp_path / distillation.OPTIONS
    content = json.loads(file.read_text())
    del content["classes"], content["baseline"]
    file.write_text(json.dumps(content))
    assert planned(project, tmp_path).derived is None


def test_an_edited_recipe_is_taken(project, tmp_path, without_timing):
    file = distillation.timed(planned(project, tmp_path, epochs=3), say=str).file
    edited = re.sub(r"    return component\(\n        \"train.loop\",", "\\g<0>\n        seed=7,", file.read_text())
    file.write_text(edited.replace("epochs=3,", "epochs=4,"))
    plan = planned(project, tmp_path, epochs=3)
    assert plan.steps("alone") == 4 * 2
    assert [recipe.train.seed for _, recipe, _ in plan.experiment.runs()][1:] == [7, 7]


def test_minutes_decide_steps_and_what_follows_of_them(project, tmp_path, without_timing):
    options = distillation.options(str(project.folder), {"method": "gkd"}, minutes=8.0, seeds=2)
    begun = distillation.plan(options, tmp_path)
    assert not any("train.steps" in line for line in begun.lines())
    plan = distillation.timed(begun, say=str)
    taught, steps = plan.experiment.recipes["taught"], plan.steps("alone")
    assert sum(plan.seconds().values()) <= 8 * 60 * duration.USABLE < sum(plan.seconds(steps + 1).values()) + 2
    assert (taught.train.steps, plan.steps("teacher")) == (steps, 2 * steps)
    assert taught.distill.gkd.start_epoch == round(steps / 2 / 11)
    assert any(f"{steps} steps" in line for line in plan.time_lines())
    assert f"steps={steps}," in plan.file.read_text()


def test_a_step_that_needs_most_of_the_memory_halves_the_batch(project, tmp_path, monkeypatch):
    def timings(one, *, say):
        if (batch := one.recipes["alone"].train.batch) > 4:
            raise StepTooLargeError(f"A step of {batch} pictures needs much", batch=batch)
        return dict.fromkeys(one.recipes, duration.Timing(20.0, 0.1))

    monkeypatch.setattr(schedule, "LEAST_BATCHES", 1)
    monkeypatch.setattr(experiment, "timings", timings)
    said = []
    before = planned(project, tmp_path, epochs=3)
    plan = distillation.timed(before, say=said.append)
    batches = {name: recipe.train.batch for name, recipe in plan.experiment.recipes.items()}
    assert set(batches.values()) == {4} and before.experiment.recipes["alone"].train.batch == 8
    assert said[-1] == "A step of 8 pictures needs much, so a step takes 4."
    assert "batch=4,  # a step of 8 would need most of the memory" in plan.file.read_text()


def test_a_batch_that_cannot_be_halved_is_refused(project, tmp_path, monkeypatch):
    def timings(one, *, say):
        raise StepTooLargeError("It needs much", batch=one.recipes["alone"].train.batch)

    monkeypatch.setattr(experiment, "timings", timings)
    with pytest.raises(StepTooLargeError, match="It needs much; a smaller size or student"):
        distillation.timed(planned(project, tmp_path, epochs=3), say=str)


def test_the_speed_is_reported_again_with_what_is_left(project, tmp_path, without_timing):
    plan = distillation.timed(planned(project, tmp_path, epochs=50), say=str)
    names = [name for name, _, _ in plan.experiment.runs()]
    steps = [plan.steps(name) for name in names]
    assert names == ["teacher", "alone", "taught"] and steps == [200, 100, 100]
    # Left are 160 of the teacher's steps, 100 and 100: 36 s of .1 s a step, 72 s of .2 s.
    assert plan.pace(0, 0.2) == (
        "A step takes 200 ms, 100 ms were timed: the steps that are left take 72 s, 36 s were expected."
    )
    assert "left take 4 s, 8 s were expected" in plan.pace(2, 0.05)


def test_the_question_before_a_long_run(project, tmp_path, without_timing, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    plan = distillation.timed(planned(project, tmp_path, epochs=10**5), say=str)
    for answer in ("n", "", EOFError):

        def reply(question, answer=answer):
            assert question == "Go on? [y/N] "
            if answer is EOFError:
                raise EOFError
            return answer

        monkeypatch.setattr("builtins.input", reply)
        with pytest.raises(ConfigError, match="Nothing was trained"):
            command.confirm(plan)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    command.confirm(plan)


def test_a_folder_is_named_by_its_whole_path(monkeypatch, tmp_path):
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "inner")
    assert distillation.workdir_of("..") == Path("runs/mine")
    assert distillation.options("../../mine", {}) == distillation.options(str(tmp_path / "mine"), {})

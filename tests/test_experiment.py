"""The runs of an experiment: their order, folders, seeds and teachers, and which teacher is refused."""

import contextlib
import dataclasses
import functools
from types import SimpleNamespace

import pytest
import tiny
import toy_teachers

from jaxkd.config import component
from jaxkd.data import shapes
from jaxkd.errors import WeightsError
from jaxkd.evaluation import coco
from jaxkd.experiment import Experiment, check_teacher
from jaxkd.loading import build, prepare
from jaxkd.train import evaluate


def experiment(workdir, *, teacher, seeds=(3,)):
    alone = tiny.run()
    taught = tiny.run(teacher="elsewhere", distill={"mimic": component("distill.mimic")})
    recipes = {"alone": alone, "taught": taught}
    return Experiment(({"teacher": tiny.run(train={"seed": 7})} if teacher else {}) | recipes, workdir, seeds)


def test_a_given_teacher_stays_and_each_seed_has_folders_of_its_own(tmp_path):
    runs = list(experiment(tmp_path, teacher=False, seeds=range(3, 5)).runs())
    assert [(name, recipe.train.seed, folder.name) for name, recipe, folder in runs] == [
        ("alone", 3, "alone"),
        ("taught", 3, "taught"),
        ("alone", 4, "alone-4"),
        ("taught", 4, "taught-4"),
    ]
    assert [recipe.teacher for _, recipe, _ in runs] == ["", "elsewhere", "", "elsewhere"]


def test_a_teacher_that_is_trained_comes_first_and_keeps_its_seed(tmp_path):
    (name, teacher, folder), _, (_, taught, _) = experiment(tmp_path, teacher=True).runs()
    assert (name, teacher.train.seed, folder) == ("teacher", 7, tmp_path / "teacher")
    assert taught.teacher == str(tmp_path / "teacher" / "student")


def test_without_the_baseline_the_recipe_stays_and_is_not_run(tmp_path):
    made = dataclasses.replace(experiment(tmp_path, teacher=True), baseline=False)
    assert [name for name, _, _ in made.runs()] == ["teacher", "taught"]
    assert made.students == ("taught",) and "alone" in made.recipes


def test_the_given_recipes_are_not_changed(tmp_path):
    made = experiment(tmp_path, teacher=True, seeds=(5,))
    list(made.runs())
    assert (made.recipes["alone"].train.seed, made.recipes["taught"].teacher) == (0, "elsewhere")


@pytest.mark.parametrize(
    ("ap", "ap50", "own", "weak"),
    ((0.2, 0.4, 0.3, False), (0.2, 0.4, 0.0, False), (0.05, 0.1, 0.0, True), (0.2, 0.4, 0.45, True)),
)
def test_a_teacher_that_finds_little_here_is_refused(ap, ap50, own, weak, monkeypatch):
    source, said = shapes.load(shapes.Config(count=1)), []
    loaded = build.Loaded(toy_teachers.FinalDetections(source.classes), {}, None, {"AP": own} if own else {}, {})
    scores = coco.Scores({"AP": ap, "AP50": ap50}, {})
    found = SimpleNamespace(scores=scores, pictures=64)
    monkeypatch.setattr(prepare, "load_teacher", lambda recipe, source=None: loaded)
    monkeypatch.setattr(evaluate, "evaluate_source", lambda *_, **__: found)
    check = functools.partial(check_teacher, tiny.run(), source, say=said.append)
    assert check(anyway=True) is found.scores
    assert said == [
        f"The teacher scores AP {100 * ap:.1f}, AP50 {100 * ap50:.1f} on 64 validation pictures"
        + (f"; AP {100 * own:.1f} where it was trained." if own else ".")
    ]
    with pytest.raises(WeightsError, match="--anyway") if weak else contextlib.nullcontext():
        check(anyway=False)

"""The runs of an experiment: their order, folders, seeds and teachers, without training any."""

import tiny

from jaxkd.config import component
from jaxkd.experiment import Experiment


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


def test_the_given_recipes_are_not_changed(tmp_path):
    made = experiment(tmp_path, teacher=True, seeds=(5,))
    list(made.runs())
    assert (made.recipes["alone"].train.seed, made.recipes["taught"].teacher) == (0, "elsewhere")

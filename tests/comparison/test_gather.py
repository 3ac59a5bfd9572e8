"""Which detectors may be compared, and what they are called."""

import dataclasses

import pytest

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.comparison import gather
from jaxkd.comparison.records import Entry
from jaxkd.data import shapes
from jaxkd.loading import build, prepare


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["runs/alone", "runs/taught/"], ["alone", "taught"]),
        (["a/run", "b/run"], ["a/run", "b/run"]),
        (["a/run", "b/run", "c"], ["a/run", "b/run", "x/c"]),
        (["runs/alone", "assets:bccd_teacher"], ["alone", "bccd_teacher"]),
        (["run", "run"], ["run", "run (2)"]),
        (["runs/alone", "runs/objects"], ["runs/alone", "runs/objects"]),  # a column of the tables
        (["a", "b", "b - a"], ["x/a", "x/b", "x/b - a"]),  # the column of a difference
        (["run", "run", "run"], ["run", "run (2)", "run (3)"]),
    ],
)
def test_names_are_ends_of_paths_that_tell_them_apart(places, names, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert gather.unique_names(places) == names


def altered(**changes):
    """Three pictures of which the second is another."""
    source = shapes.load(shapes.Config(count=3, size=(48, 64)))
    first, second, third = source.records
    source.records = (first, dataclasses.replace(second, **changes), third)
    return source


def with_values(**values):
    """The pictures with other values of their source."""
    source = altered()
    for name, value in values.items():
        setattr(source, name, value)
    return source


def test_what_differs_between_data_is_said():
    source = altered()
    file, lacking = source.records[1].file, source.classes[0]
    sizes = f"(64x48), not {file} (64x48)"
    for other, said in (
        (altered(), ""),
        (with_values(records=source.records[:2]), "the number of pictures is 2, not 3"),
        (
            with_values(classes=(*source.classes[1:], "cat")),
            f"the classes are others: lacking {lacking} and with cat",
        ),
        (with_values(classes=source.classes[::-1]), "the classes are others: in another order"),
        (altered(file="other.png"), f"picture 2 is other.png {sizes}"),
        (altered(boxes=source.records[1].boxes + 1), f"the objects of {file} have other places or classes"),
        (with_values(category_ids=(7, 8, 9)), "the categories have other numbers"),
    ):
        assert gather._difference(source, other) == said
    fewer = {name: getattr(source.records[1], name)[:-1] for name in ("boxes", "labels", "crowd")}
    left = len(fewer["boxes"])
    assert (
        gather._difference(source, altered(**fewer)) == f"{file} has {phrases.counted(left, 'object')}, not {left + 1}"
    )


def test_a_teacher_of_only_some_classes_is_said_to_be_one(monkeypatch):
    recipe = configs.load_recipe("bccd", "tar")
    teacher = build.Loaded(build.detector(recipe.student, ("dog", "owl")), {}, recipe.student, {}, {})
    monkeypatch.setattr(prepare, "load_teacher", lambda recipe, source=None: teacher)
    taught = Entry("taught", "runs/taught", teacher, recipe)
    for classes, said in (
        (("owl", "dog"), []),
        (
            ("owl", "cat"),
            [
                "The teacher knows 1 of the student's 2 classes by name; it says nothing about cat. "
                "Its AP counts these as never found."
            ],
        ),
    ):
        teachers, remarks = gather._teachers([taught], with_values(classes=classes))
        assert ([one.entry.name for one in teachers], remarks) == (["teacher"], said)

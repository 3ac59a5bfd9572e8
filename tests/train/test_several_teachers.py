"""Several teachers in one recipe, two on canvases of their own: a stopped run goes on, and what is refused."""

import os
import signal

import numpy as np
import pytest
import runs
import teacher_scene
import tiny
from teacher_scene import GKD, LARGER, TAR, recipe

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.errors import ConfigError, StoppedError
from jaxkd.loading import build, prepare
from jaxkd.train import log, loop, pairing


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return teacher_scene.files(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def whole(teachers, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    loop.run(recipe(teachers), workdir, quiet=True)
    return workdir


def rows(workdir):
    return [line for line in log.read(workdir) if "loss" in line]


def test_every_method_of_every_teacher_is_in_every_step(whole):
    for row in rows(whole):
        for term in ("tar/class", "tar/feature_8", "gkd/foreground_8", "align/align_32", "detections/class"):
            assert row[term] >= 0 and np.isfinite(row[term])
        assert row["align/align_32"] > 0 and row["detections/class"] > 0


def test_the_student_is_there_alone(whole):
    loaded = build.load(whole / "student")
    assert set(loaded.params) == {"backbone", "neck", "rpn", "head"}


def signalled_at_two(patched):
    """This process gets SIGTERM when it reports step 2."""
    report = log.Log.report

    def reported(self, step, *args, **fields):
        report(self, step, *args, **fields)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    patched.setattr(log.Log, "report", reported)


def test_a_run_that_was_stopped_goes_on_equally(teachers, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        signalled_at_two(patched)
        with pytest.raises(StoppedError, match="after step 2"):
            loop.run(recipe(teachers), tmp_path, quiet=True)
    loop.run(recipe(teachers), tmp_path, quiet=True)
    for name, array in runs.arrays(whole, step=4).items():
        np.testing.assert_array_equal(runs.arrays(tmp_path, step=4)[name], array, err_msg=name)


def test_the_short_form_is_the_same_run(teachers, tmp_path):
    methods = {"tar": TAR, "gkd": GKD}
    loop.run(tiny.run(steps=2, teacher=teachers["large"], distill=methods), tmp_path / "short", quiet=True)
    long = {"large": {"path": teachers["large"], "distill": methods}}
    loop.run(tiny.run(steps=2, teachers=long), tmp_path / "long", quiet=True)
    for short, other in zip(rows(tmp_path / "short"), rows(tmp_path / "long"), strict=True):
        for term, value in short.items():
            if "/" in term or term == "loss":
                assert other[term] == pytest.approx(value, rel=1e-5), term


def test_each_teacher_has_its_own_methods(teachers):
    """Also where there are some of both forms."""
    align = {"align": component("distill.align")}
    found = {"found": component("distill.detections")}
    both = tiny.run(teacher="a", distill=align, teachers={"web": {"path": "b", "distill": found}})
    of_each = configs.of_each_teacher(both)
    assert [(one.teacher, list(one.distill)) for one in of_each.values()] == [("a", ["align"]), ("b", ["found"])]
    assert configs.methods_in(both) == ("align", "found")
    made = tiny.run(teachers={"web": {"path": "", "distill": found}})
    with pytest.raises(ConfigError, match=r"in config\.teachers\.web\.path\."):
        prepare.load_teachers(made, prepare.load_sources(made.data)["train"])


def test_paths_are_fields_with_paths(teachers):
    made = recipe(teachers | {"web": "web.json"}).copy_and_resolve_references()
    assert configs.with_absolute_paths(made).teachers.web.path.startswith("/")


def test_each_teacher_sees_its_own_canvas(teachers):
    made = recipe(teachers)
    loaded = prepare.load_teachers(made, prepare.load_sources(made.data)["train"])
    loader_config = pairing.loader_config_of(made, loaded)
    batch = next(loader.train_batches(shapes.load(configs.build(made.data.train)), loader_config, seed=0, steps=1,
                                      batch=2))  # fmt: skip
    assert batch.teacher is None and set(batch.further) == {"large", "dino"}
    assert batch.for_teacher("large").teacher.images.shape[1:3] == (96, 144)
    seen = batch.for_teacher("dino")
    assert seen.teacher.images.shape[1:3] == (96, 96) and not seen.further
    np.testing.assert_allclose(seen.teacher.scales, [[1.5, 1.0]] * 2)
    assert batch.for_teacher("web").teacher is None
    pair = pairing.make_pair(made, configs.build(made.train), build.student(made.student, shapes.CLASSES), loaded)
    assert {name: (lesson.own_canvas, lesson.bilinear) for name, lesson in pair.lessons.items()} == {
        "large": (True, True), "dino": (True, True), "web": (False, False)
    }  # fmt: skip


def test_an_older_recipe_has_no_canvases(teachers):
    made = configs.parse(configs.dump(recipe(teachers)))
    for one in made.teachers.values():
        del one["view"]
    loaded = prepare.load_teachers(made, prepare.load_sources(made.data)["train"])
    assert pairing.loader_config_of(made, loaded).views == {}


def test_a_canvas_without_effect_is_said(teachers):
    web = {"web": {"path": teachers["web"], "distill": {"found": component("distill.detections")}, "view": LARGER}}
    made = tiny.run(teachers=web)
    loaded = prepare.load_teachers(made, prepare.load_sources(made.data)["train"])
    assert list(pairing.canvas_notes(made, loaded)) == [
        "The teacher web is a file of detections, which sees no pictures, so config.teachers.web.view has no effect."
    ]
    assert pairing.loader_config_of(made, loaded).views == {}


def test_a_canvas_that_does_not_fit_is_refused(teachers, tmp_path):
    def refused(words, view):
        with pytest.raises(ConfigError, match=words):
            align = {"dino": {"path": teachers["dino"], "distill": {"align": component("distill.align")}, "view": view}}
            loop.run(tiny.run(steps=1, teachers=align), tmp_path, quiet=True)

    refused(r"teachers\['dino'\]\.view has no field 'sides'", {"sides": (1, 2)})
    refused(r"config\.teachers\.dino\.view\.fit must be one of 'keep', 'stretch'", {"fit": "squash"})
    refused(r"config\.teachers\.dino\.view\.size is \(64, 0\); give a height", {"size": (64, 0)})
    refused(
        r"cannot be compared cell by cell: .* set config\.teachers\.dino\.view\.resample",
        {"size": (96, 96), "fit": "stretch"},
    )


def test_what_does_not_fit_is_refused(teachers, tmp_path):
    align = {"align": component("distill.align")}
    with pytest.raises(ConfigError, match=r"The teachers config\.teacher and dino have a method 'align' each"):
        configs.of_each_teacher(
            tiny.run(teacher="a", distill=align, teachers={"dino": {"path": "b", "distill": align}})
        )
    with pytest.raises(ConfigError, match=r"teachers\['dino'\] wants a name, 'path', 'distill' with"):
        tiny.run(teachers={"dino": {"path": "b", "distill": {}}})
    two = {name: {"path": teachers["web"], "distill": {name: component("distill.detections")}} for name in "ab"}
    made = tiny.run(teachers=two)
    with pytest.raises(ConfigError, match="Two teachers are files of detections; put the files in one folder"):
        prepare.load_teachers(made, prepare.load_sources(made.data)["train"])
    with pytest.raises(ConfigError, match=r"distill.detections \(distill.detections\) does not fit"):
        wrong = {"dino": {"path": teachers["dino"], "distill": {"detections": component("distill.detections")}}}
        loop.run(tiny.run(teachers=wrong), tmp_path, quiet=True)

"""Recipes: from components to dataclasses and back, and every way to get one wrong."""

import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from jaxkd import config as configs
from jaxkd.config import component, describe, dump, load_recipe, parse, recipe
from jaxkd.data import shapes
from jaxkd.detectors import faster_rcnn
from jaxkd.distill import decay, mimic
from jaxkd.errors import ConfigError
from jaxkd.nets import mobilenet, resnet
from jaxkd.train import optimizer

NAMES = ("detectors.faster_rcnn", "distill.task_adaptive", "distill.mimic", "data.coco", "data.loader", "data.shapes",
         "data.voc", "data.yolo", "nets.resnet", "nets.fpn", "train.loop", "train.optimizer")  # fmt: skip


def small(**more):
    return recipe(
        student=component("detectors.faster_rcnn"),
        data={"train": component("data.shapes"), "val": component("data.shapes", seed=1)},
        **more,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_its_defaults_and_back(name):
    config = component(name)
    built = configs.build(config)
    assert built == type(built)()
    assert type(built).__module__ == f"jaxkd.{name}"
    assert configs.module_of(built) is sys.modules[f"jaxkd.{name}"]
    assert describe(built).to_dict() == config.to_dict()
    assert configs.build(describe(built)) == built


def test_overrides():
    built = configs.build(component("train.optimizer", learning_rate=0.5, milestones=(0.25,), kind="adamw"))
    assert built == optimizer.Config(learning_rate=0.5, milestones=(0.25,), kind="adamw")


def test_nested_overrides_and_another_component():
    config = component("detectors.faster_rcnn", backbone=component("nets.mobilenet", width=0.5), dtype="bfloat16")
    built = configs.build(config)
    assert isinstance(built, faster_rcnn.Config)
    assert built.backbone == mobilenet.Config(width=0.5)
    assert built.dtype == "bfloat16"
    assert configs.build(component("detectors.faster_rcnn")).backbone == resnet.Config()


def test_a_dataclass_is_as_good_as_a_component():
    config = component("distill.mimic", decay=decay.Config(kind="none"))
    assert configs.build(config) == mimic.Config(decay=decay.Config(kind="none"))


def test_lists_become_tuples_and_whole_numbers_floats():
    config = ConfigDict(component("detectors.faster_rcnn").to_dict())
    with config.unlocked():
        config.anchors.ratios = [1, 2]
        config.pooling.canonical_scale = 112
    built = configs.build(ConfigDict(configs.merged(config.to_dict(), {"anchors": {"sizes": [8.0, 16.0]}})))
    assert built.anchors.ratios == (1.0, 2.0) and built.anchors.sizes == (8.0, 16.0)
    assert isinstance(built.pooling.canonical_scale, float)


def test_overrides_of_a_part_leave_its_other_fields():
    config = component("detectors.faster_rcnn", rpn={"nms": 0.8}, head=faster_rcnn.Head(hidden=16))
    assert "name" not in config.rpn and config.is_locked and config.rpn.is_locked
    built = configs.build(config)
    assert built.rpn == faster_rcnn.RPN(nms=0.8) and built.head == faster_rcnn.Head(hidden=16)
    assert describe(built).to_dict() == config.to_dict()
    assert configs.merged({"rpn": {"nms": 0.8}, "dtype": "x"}, {"rpn": {"samples": 3}}) == {
        "rpn": {"nms": 0.8, "samples": 3},
        "dtype": "x",
    }
    assert configs.nested({"rpn.nms": 0.8, "rpn.samples": 3, "dtype": "x"}) == {
        "rpn": {"nms": 0.8, "samples": 3},
        "dtype": "x",
    }


def test_a_part_that_lacks_fields_has_the_defaults_of_its_component():
    config = component("detectors.retinanet").to_dict() | {"postprocess": {"nms": 0.3}}
    built = configs.build(ConfigDict(config))
    assert (built.postprocess.nms, built.postprocess.candidates) == (0.3, 1000)  # 2000 in Faster R-CNN


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"nsm": 0.7}, r"detectors\.faster_rcnn\.rpn has no field 'nsm'; the closest is 'nms'\."),
        ({"name": "rpn"}, r"detectors\.faster_rcnn\.rpn has no field 'name'"),
        ({"nms": 2.0}, r"detectors\.faster_rcnn\.rpn\.nms must be at least 0 and at most 1, not 2\.0\."),
        (0.7, r"detectors\.faster_rcnn\.rpn wants a dict of some of its fields, got 0\.7\."),
    ],
)
def test_parts_that_cannot_be(part, words):
    with pytest.raises(ConfigError, match=words):
        configs.build(component("detectors.faster_rcnn", rpn=part))
    with pytest.raises(ConfigError, match=words):
        configs.build(ConfigDict(component("detectors.faster_rcnn").to_dict() | {"rpn": part}))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("train.optimizer", {"learning_rat": 0.1}, "no field 'learning_rat'.*'learning_rate'"),
        ("train.optimizer", {"learning_rate": "high"}, r"train\.optimizer\.learning_rate wants float, got 'high'"),
        ("data.shapes", {"count": 1.5}, r"data\.shapes\.count wants int, got 1\.5"),
        ("detectors.faster_rcnn", {"backbone": 50}, r"faster_rcnn\.backbone wants ConfigDict, got 50"),
        ("distill.nothing", {}, r"no module 'distill\.nothing'"),
        ("nowhere_at_all.method", {}, r"no module 'nowhere_at_all\.method'"),
        ("ops.boxes", {}, "holds no Config dataclass"),
        (".", {}, "names no module"),
        ("..data.coco", {}, "names no module"),
        ("data.coco\n", {}, "names no module"),
        ("/data/coco.py", {}, "names no module"),
    ],
)
def test_components_that_cannot_be(name, options, words):
    with pytest.raises(ConfigError, match=words):
        component(name, **options)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "sdg", r"train\.optimizer\.kind must be one of 'sgd', 'adamw'; got 'sdg'"),
        ("warmup", 5, "no field 'warmup'.*'warmup_steps'"),
        ("learning_rate", "high", "learning_rate wants float"),
        ("milestones", (0.5, "late"), "milestones"),
    ],
)
def test_what_build_refuses(field, value, words):
    config = component("train.optimizer").to_dict() | {field: value}
    with pytest.raises(ConfigError, match=words):
        configs.build(ConfigDict(config))


@pytest.mark.parametrize("name", [5, None, ["data.coco"], "", "data..coco", "x" * 9999 + "!"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="names no module") as refusal:
        configs.build(ConfigDict({"name": name}))
    assert len(str(refusal.value)) < 200


def test_a_config_without_a_name_is_refused():
    with pytest.raises(ConfigError, match="needs the field 'name'"):
        configs.build(ConfigDict({"kind": "sgd"}))


def test_a_recipe_is_locked_and_typed():
    config = small()
    with pytest.raises(AttributeError):
        config.students = 1
    with pytest.raises(TypeError):
        config.train.steps = "many"
    config.train.steps = 7
    assert configs.build(config.train).steps == 7


def test_a_recipe_needs_both_sources():
    with pytest.raises(ConfigError, match=r"lacks \['val'\]"):
        recipe(student=component("detectors.faster_rcnn"), data={"train": component("data.shapes")})


def test_a_module_of_ones_own():
    config = component("mixed", count=3)
    built = configs.build(config)
    assert config.name == "mixed"
    assert len(configs.module_of(built).load(built).records) == 3
    assert describe(built).to_dict() == config.to_dict()


def test_a_dotted_module_of_ones_own(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text(
        "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Config:\n    size: int = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    built = configs.build(component("own_package.part", size=4))
    assert built.size == 4
    assert configs.module_of(built).__name__ == "own_package.part"


def test_dump_and_parse():
    config = small(distill={"tar": component("distill.task_adaptive", box={"weight": 2.0})}, teacher="somewhere")
    again = parse(dump(config))
    assert again.to_dict() == config.to_dict()
    assert dump(again) == dump(config)
    assert again.student.anchors.ratios == (0.5, 1.0, 2.0)
    assert again.data.loader.buckets == ((800, 1344), (1344, 800))
    for part in ("student", "optimizer", "train"):
        assert configs.build(again[part]) == configs.build(config[part])
    assert configs.build(again.data.val) == shapes.Config(seed=1)


def test_shipped_recipes():
    config = load_recipe("bccd")
    assert config.teacher == "" and not config.distill
    taught = load_recipe("bccd", "tar")
    assert taught.teacher and set(taught.distill) == {"tar"}
    assert load_recipe("bccd.py", "tar").to_dict() == taught.to_dict()
    assert load_recipe(Path(__file__).parents[1] / "configs" / "bccd.py", "tar").to_dict() == taught.to_dict()


def test_a_recipe_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxkd.config import component, recipe\n\n\n"
        "def get_config(arg='3'):\n"
        "    shapes = component('data.shapes', count=int(arg))\n"
        "    return recipe(student=component('detectors.faster_rcnn'), data={'train': shapes, 'val': shapes})\n"
    )
    assert load_recipe(file).data.train.count == 3
    assert load_recipe(str(file), "5").data.train.count == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "There is no recipe .*bccd"),
        ("def get_config(:\n", "not valid Python"),
        ("x = 1\n", "defines no get_config"),
    ],
)
def test_recipes_that_cannot_be_loaded(tmp_path, text, words):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_recipe(file)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("coco:tiny", r"coco.py does not take the argument 'tiny': it takes DETECTOR-BACKBONE .* ten steps of that\.$"),
        ("gkd_coco:tiny", "gkd_coco.py does not take the argument 'tiny': it takes faster_rcnn or retinanet; then"),
        ("bccd:none", "bccd.py does not take the argument 'none': it takes alone, mimic"),
    ],
)
def test_an_unknown_argument_brings_the_known_ones(argument, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(*argument.split(":"))


@pytest.mark.parametrize("path", ["http://localhost/a.py", "https://x/bccd", "file:///tmp/a.py", "gs://bucket/a.py"])
def test_recipes_are_never_fetched(path):
    with pytest.raises(ConfigError, match="is not on this machine") as refusal:
        load_recipe(path)
    assert path in str(refusal.value) and "\n" not in str(refusal.value)


def test_which_recipes_are_from_elsewhere(tmp_path, monkeypatch):
    here = tmp_path / "here"
    for file in (here / "a.py", here / "below" / "b.py", tmp_path / "c.py", tmp_path / "here too" / "d.py"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    (here / "link.py").symlink_to(tmp_path / "c.py")
    monkeypatch.chdir(here)
    for path in ("a.py", "below/b.py", "./below/../a.py", here / "a.py", "bccd"):
        assert not configs.is_foreign(configs.locate(path))
    for path in ("../c.py", "below/../../c.py", tmp_path / "c.py", "../here too/d.py", "link.py"):
        assert configs.is_foreign(configs.locate(path))


def test_conventions_of_another_library_are_put_in_first():
    like = component("detectors.faster_rcnn", like="torchvision", rpn={"nms": 0.5, "smooth_l1_beta": 0.1})
    assert (like.compat.roi_align_aligned, like.compat.anchor_step) == (False, "canvas")
    assert (like.rpn.nms, like.rpn.smooth_l1_beta, like.rpn.post_nms_train) == (0.5, 0.1, 2000)
    with pytest.raises(ConfigError, match=r"no conventions like 'torchvsion'; the closest is 'torchvision'"):
        component("nets.resnet", like="torchvsion")
    with pytest.raises(ConfigError, match="no conventions like 'torchvision'"):
        component("distill.mimic", like="torchvision")

"""Networks by name, by the number of classes, and by a file of backbone weights."""

import jax
import numpy as np
import pytest
import timm_reference
from safetensors.numpy import save_file

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.derive import student
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, initial
from jaxkd.weights.tree import flatten


def network(name="auto", **fields):
    return student.student(name, **({"classes": 3} | fields)).value


@pytest.mark.parametrize(
    ("classes", "width"), [(1, 8), (3, 8), (15, 8), (16, 16), (20, 16), (63, 16), (64, 32), (1203, 32)]
)
def test_the_width_goes_with_the_classes(classes, width):
    found = network(classes=classes)
    assert (found.backbone.depth, found.backbone.width, found.channels, found.hidden) == (
        10,
        width,
        2 * width,
        8 * width,
    )
    assert (found.backbone.norm, found.start, found.frozen_stages) == ("group", "random", -1)


def test_the_student_of_blood_cells_is_that_of_its_recipe():
    wanted = configs.load_recipe("bccd", "alone").student
    found = network()
    assert configs.dump(found.backbone) == configs.dump(wanted.backbone)
    assert (found.channels, found.hidden) == (wanted.neck.channels, wanted.head.hidden)


@pytest.mark.parametrize(
    ("name", "backbone", "teacher"),
    [
        ("auto", (10, 8), (18, 32)),
        ("r18", (18, 64), (34, 64)),
    ],
)
def test_residual_networks_and_their_teachers(name, backbone, teacher):
    found = network(name)
    larger = student.teacher(found).value
    assert (found.backbone.depth, found.backbone.width) == backbone
    assert (larger.backbone.depth, larger.backbone.width) == teacher
    assert (larger.channels, larger.hidden) == (4 * found.channels, 4 * found.hidden)
    assert larger.start == "random"


@pytest.mark.parametrize(
    ("name", "backbone", "channels", "teacher"),
    [
        ("pocket", ("small", 0.5), 48, (18, 32, 64)),
        ("tiny", ("small", 1.0), 96, (18, 64, 128)),
        ("small", ("medium", 0.75), 128, (34, 64, 256)),
        ("medium", ("medium", 1.0), 128, (34, 64, 256)),
    ],
)
def test_dense_sizes_and_their_teachers(name, backbone, channels, teacher):
    found = network(name)
    assert (found.backbone.name, found.backbone.size, found.backbone.width) == ("nets.mobilenetv4", *backbone)
    assert (found.detector, found.channels, found.start) == ("gfl", channels, "random")
    larger = student.teacher(found).value
    assert (larger.backbone.depth, larger.backbone.width, larger.channels) == teacher
    assert (larger.detector, larger.hidden) == ("faster_rcnn", 4 * larger.channels)


def test_a_dense_size_has_the_backbone_of_a_file(tmp_path):
    file = weights_of(component("nets.mobilenet"), tmp_path / "net.safetensors")
    found = network("tiny", initial=file)
    assert configs.dump(found.backbone) == configs.dump(component("nets.mobilenet"))
    assert (found.detector, found.channels, found.initial, found.frozen_stages) == ("gfl", 96, file, 1)


def test_weights_are_told_from_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "coco"):  # the second has the name of a recipe
        (tmp_path / folder).mkdir()
    (tmp_path / "net.pth").touch(), (tmp_path / "recipe.py").touch()
    names = ("mine", "net.pth", "net.pth:model", "assets:nanodet", "coco", "recipe.py", "gone", "tiny")
    assert [student.is_weights(name) for name in names] == [True] * 4 + [False] * 4


def test_a_mobilenet_and_its_teacher():
    found = network("mobilenet")
    assert (found.backbone.name, found.backbone.norm, found.channels, found.hidden) == (
        "nets.mobilenet",
        "group",
        64,
        256,
    )
    assert student.teacher(found).value.backbone.depth == 34


def shapes_of(backbone):
    detector = build.detector(component("detectors.faster_rcnn", backbone=backbone), ["cell"])
    return flatten(jax.eval_shape(detector.init, jax.random.key(0))["backbone"])


def weights_of(backbone, file):
    shapes = shapes_of(backbone)
    save_file({name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}, file)
    return str(file)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_network_of_a_file(tmp_path, depth):
    file = weights_of(component("nets.resnet", depth=depth), tmp_path / "net.safetensors")
    found = network(initial=file)
    assert configs.dump(found.backbone) == configs.dump(component("nets.resnet", depth=depth))
    assert (found.start, found.frozen_stages, found.initial) == ("pretrained", 1, file)
    larger = student.teacher(found).value
    assert (larger.backbone, larger.initial, larger.channels) == (found.backbone, file, 512)


def test_a_teacher_from_a_file(tmp_path):
    file = weights_of(component("nets.mobilenet"), tmp_path / "net.safetensors")
    larger = student.teacher(network(), initial=file).value
    assert configs.dump(larger.backbone) == configs.dump(component("nets.mobilenet"))
    assert (larger.channels, larger.hidden, larger.start) == (64, 256, "pretrained")


@pytest.mark.parametrize("fields", [{"size": "small", "width": 0.5}, {"size": "medium", "top": "stage"}])
def test_a_mobilenet_v4_in_a_file(tmp_path, fields):
    backbone = component("nets.mobilenetv4", **fields)
    ours, theirs = weights_of(backbone, tmp_path / "ours.safetensors"), tmp_path / "theirs.safetensors"
    arrays = timm_reference.state_of(shapes_of(backbone))
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, theirs)
    for file in (ours, str(theirs)):
        found = network(initial=file)
        assert configs.dump(found.backbone) == configs.dump(backbone)
        assert (found.start, found.initial, found.channels, found.hidden) == ("pretrained", file, 64, 256)


def test_a_student_starts_from_timms_weights(tmp_path):
    backbone = component("nets.mobilenetv4", width=0.25)
    detector = build.detector(component("detectors.faster_rcnn", backbone=backbone), ["cell"])
    arrays = timm_reference.state_of(shapes_of(backbone)) | timm_reference.BEYOND
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, tmp_path / "net.safetensors")
    params, words = initial.params(detector, jax.random.key(0), str(tmp_path / "net.safetensors"))
    assert f"starts from net.safetensors (mobilenet_v4): {len(shapes_of(backbone))} leaves." in words
    np.testing.assert_array_equal(params["backbone"]["features_0"]["norm"]["scale"], arrays["bn1.weight"])


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("huge", {}, r"There is no student 'huge'; take auto, pocket, tiny, small, medium, mobilenet and r18\."),
    ],
)
def test_what_is_refused(name, fields, words):
    with pytest.raises(ConfigError, match=words):
        network(name, **fields)


def test_files_of_no_known_network(tmp_path):
    save_file({"layer1_0/conv1/kernel": np.zeros((3, 3, 8, 8), np.float32)}, tmp_path / "stub.safetensors")
    with pytest.raises(ConfigError, match=r"stub.safetensors holds no backbone that a student is made of; give"):
        network(initial=str(tmp_path / "stub.safetensors"))
    with pytest.raises(WeightsError):
        network(initial=str(tmp_path / "missing.pth"))


RECIPE = """
from jaxkd.config import component, load_recipe


def get_config(arg="none"):
    config = load_recipe("bccd", "alone")
    with config.unlocked():
        config.student = {"none": None, "net": component("nets.resnet"), "data": component("data.coco")}[arg]
    return config
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("huge", "'huge' is none of auto, .* and no recipe has it: There is no recipe huge"),
        ("gone.py:tar", "There is no recipe gone.py"),
        ("bccd:luck", "does not take the argument 'luck'"),
        ("mine.py", "mine.py has no student"),
        ("mine.py:net", "is nets.resnet, which is no detector"),
        ("mine.py:data", "is data.coco, which is no detector"),
    ],
)
def test_recipes_without_a_student_are_refused(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)
    with pytest.raises(ConfigError, match=words) as caught:
        student.check(name)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "channels", "hidden", "depth"),
    [
        ("faster_rcnn-r18", 512, 2048, 34),
        ("faster_rcnn-r50", 512, 2048, 101),
        ("retinanet-r101-2x", 512, 2048, 152),
    ],
)
def test_the_teacher_of_a_detector_from_elsewhere_is_larger(argument, channels, hidden, depth):
    detector = configs.load_recipe("coco", argument).student
    larger = student.teacher(student.network_of(detector, classes=3, initial="")).value
    assert (larger.channels, larger.hidden, larger.backbone.depth) == (channels, hidden, depth)


def test_a_teacher_starts_from_its_students_backbone_but_not_from_a_whole_detector(tmp_path):
    detector = configs.load_recipe("coco", "faster_rcnn-r18").student
    for file, start in ((str(tmp_path), "random"), ("backbone.pth", "pretrained"), ("", "random")):
        assert student.network_of(detector, classes=3, initial=file).start == start

"""Derived recipes: golden numbers, what options change, and the file that gives them again."""

import dataclasses
import functools
import itertools
import re

import drawn
import jax
import pytest

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.derive import anchors, explain, learners, methods, recipes, schedule
from jaxkd.derive import remarks as settings
from jaxkd.derive import sizes as sizes_of
from jaxkd.derive.base import Choice
from jaxkd.distill import fit
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import build, prepare
from jaxkd.train import unused
from jaxkd.types import Traits

DATA = {
    "train": component("data.coco", images="mine/images", annotations="mine/train.json"),
    "val": component("data.coco", images="mine/images", annotations="mine/val.json"),
}


def source(name):
    return {
        "cells": lambda: drawn.scattered(240, sides=(60, 260), rare=0.07, rare_side=36),
        "specks": lambda: drawn.scattered(60, sides=(8, 40), size=(300, 400), each=30),
        "mixed": lambda: drawn.Drawn(
            [
                *drawn.scattered(300, sides=(20, 300)).records,
                *drawn.scattered(300, sides=(20, 300), size=(640, 480)).records,
            ]
        ),
    }[name]()


UNKNOWN = recipes.Given()
STRETCHED = {"size": (320, 320), "fit": "stretch", "antialias": True, "resample": "bilinear"}  # a teacher's canvas


def one_stage(**fields):
    """What is known of a teacher of one stage."""
    capabilities = frozenset(["features", "anchor_predictions", "detections"])
    return recipes.Given(teacher=Traits((), capabilities, **({"strides": (4, 8, 16, 32)} | fields)))


def derive(train, *, steps=None, given=UNKNOWN, **options):
    val = drawn.Drawn(train.records[:50])
    return recipes.derive(train, val, data=DATA, options=recipes.Options(**options), given=given, steps=steps)


def numbers(derived):
    """What is derived from data, of the student's recipe and then of its teacher's."""
    alone, teacher = derived.recipes["alone"], derived.recipes["teacher"]
    loader = alone.data.loader
    return (
        (loader.short[0], loader.long, loader.buckets, loader.max_objects),
        (alone.student.anchors.sizes[0], alone.student.pooling.canonical_scale, alone.student.rpn.post_nms_test),
        (alone.train.batch, alone.train.epochs, alone.train.evaluate_every, alone.optimizer.learning_rate),
        (
            teacher.student.backbone.depth,
            teacher.student.neck.channels,
            teacher.train.epochs,
        ),
        tuple(sorted(derived.recipes["taught"].distill)),
    )


GOLDEN = {
    "cells": (
        (160, 224, ((160, 224),), 20),
        (14.25, 99.8, 160),
        (8, 52, 156, 0.003),
        (18, 64, 104),
        ("gkd", "tar"),
    ),
    "specks": (
        (288, 384, ((288, 384),), 40),
        (11.31, 79.2, 256),
        (4, 80, 120, 0.00212),
        (18, 64, 160),
        ("tar",),
    ),
    "mixed": (
        (288, 384, ((288, 384), (384, 288)), 20),
        (16.0, 112.0, 256),
        (8, 39, 293, 0.003),
        (18, 64, 78),
        ("gkd", "tar"),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_numbers_golden(name):
    assert numbers(derive(source(name))) == GOLDEN[name]


OPTIONS = [
    {},
    {"student": "mobilenet", "size": "accurate", "platform": "gpu", "devices": 4, "method": "tar"},
    {"student": "r18", "size": "fast", "method": "gkd", "epochs": 7, "seed": 3},
    {"student": "pocket", "method": "tar+gkd"},
    {"student": "medium", "method": "detections"},
    {"student": "tiny", "method": "mimic", "teacher": 'there\'s/a "teacher".pth'},
    {
        "teacher": "retinanet.pth",
        "given": one_stage(),
        "method": "tar+gkd",
        "platform": "tpu",
    },
    {"teacher": "hub", "given": dataclasses.replace(one_stage(), teacher_view=STRETCHED), "method": "mimic"},
    {"student": "bccd:retinanet-alone", "method": "tar+gkd"},
    {"student": "coco:faster_rcnn-r18", "method": "tar+gkd"},
    {"student": "coco:retinanet-r18", "initial": "other.pth", "teacher": "teacher.pth"},
]


@pytest.mark.parametrize(("name", "options"), [*itertools.product(GOLDEN, OPTIONS)])
def test_the_file_gives_the_recipes_again(name, options, tmp_path):
    derived = derive(source(name), **options)
    file = tmp_path / "mine.py"
    file.write_text(explain.module(derived), encoding="utf-8")
    assert set(derived.recipes) == {"alone", "taught"} | ({"teacher"} if not options.get("teacher") else set())
    for argument, recipe in derived.recipes.items():
        assert configs.dump(configs.load_recipe(file, argument)) == configs.dump(recipe)
        assert unused.sentences(recipe) == []
        for part in (recipe.student, recipe.optimizer, recipe.train, *recipe.data.values(), *recipe.distill.values()):
            configs.build(part)


def test_the_command_of_its_run_card_names_a_file_that_is_found(tmp_path):
    file = tmp_path / "recipe.py"
    file.write_text(explain.module(derive(source("cells")), file=str(file)), encoding="utf-8")
    name, argument = re.search(r"--config=(\S+):(\w+)", file.read_text()).groups()
    assert configs.load_recipe(name, argument).distill


def has_reason_above(lines, index):
    """Whether a comment stands above the line, or above the part that it belongs to."""
    indents = [len(line) - len(line.lstrip()) for line in lines]
    opening = max(above for above in range(index) if indents[above] < indents[index])
    return any(lines[place - 1].lstrip().startswith("# ") for place in (index, opening))


def test_every_number_of_the_file_has_a_reason_beside_or_above():
    text = explain.module(derive(source("cells")))
    assert re.findall(r"^(?:import|from) .*", text, re.MULTILINE) == ["from jaxkd.config import component, recipe"]
    lines = text.split('"""')[2].splitlines()
    with_numbers = [index for index, line in enumerate(lines) if re.search(r"[=:(] ?-?\d", line.partition("#")[0])]
    assert len(with_numbers) > 25
    for index in with_numbers:
        assert "  # " in lines[index] or has_reason_above(lines, index), lines[index]
    assert max(map(len, lines)) <= 120


def test_reasons_are_of_settings_that_the_recipes_have():
    derived = derive(source("cells"))
    for setting, value, words in derived.reasons:
        name, colon, path = setting.rpartition(":")
        part = derived.recipes[name if colon else "taught"]
        for key in path.split("."):
            part = part[key]
        assert words and not words.endswith("."), setting
        if not isinstance(value, dict) and not hasattr(part, "keys") and path != "distill":
            assert part == value, setting


def test_a_derived_detector_can_be_built():
    derived = derive(source("cells"))
    for recipe in derived.recipes.values():
        detector = build.detector(recipe.student, ("cell", "speck"))
        shapes = jax.eval_shape(detector.init, jax.random.key(0))
        assert shapes["rpn"]["logits"]["kernel"].shape[-1] == 2 * 3


def test_a_teacher_that_is_given_has_no_recipe():
    derived = derive(source("cells"), teacher="teacher.pth", given=one_stage())
    taught = derived.recipes["taught"]
    assert (taught.teacher, tuple(taught.distill)) == ("teacher.pth", ("tar",))
    assert (taught.distill.tar.classification.weight, taught.distill.tar.box.weight) == (0.0, 0.0)


def test_a_student_of_a_recipe_is_taken_as_it_is():
    given = configs.load_recipe("bccd", "retinanet-tar+gkd")
    derived = derive(source("cells"), student="bccd:retinanet-alone", method="tar+gkd")
    teacher, alone, taught = derived.recipes.values()
    assert configs.dump(alone.student) == configs.dump(given.student)
    assert teacher.student.name == "detectors.faster_rcnn" and teacher.student.backbone.depth == 18
    assert alone.data.loader.short == (160,) and alone.train.epochs == 52  # as of any student
    tar, gkd = taught.distill.tar, taught.distill.gkd
    assert tar.feature.canonical_scale == given.distill.tar.feature.canonical_scale
    assert (tar.classification.weight, tar.box.weight, gkd.soft.weight, gkd.levels) == (0.0, 0.0, 0.0, "equal")
    assert gkd.canonical_scale == given.distill.gkd.canonical_scale
    said = {reason.setting: reason.words for reason in derived.reasons}
    assert said["student"] == "the student of bccd:retinanet-alone"
    assert re.match(r"those of bccd:retinanet-alone; \d+ % of training objects", said["student.anchors"])


@pytest.mark.parametrize("student", ["bccd:retinanet-alone", "coco:retinanet-r18", "mobilenet_coco", "auto", "pocket"])
@pytest.mark.parametrize("method", [*methods.NAMES[:-1], "tar+gkd+detections"])
def test_every_method_fits_the_teacher_that_is_derived(student, method):
    recipes = derive(source("specks"), student=student, method=method).recipes
    parties = [
        fit.party(who, detector, detector.traits)
        for who, name in (("student", "taught"), ("teacher", "teacher"))
        for detector in [build.detector(recipes[name].student, ("cell", "speck"))]
    ]
    chosen = {name: configs.build(one) for name, one in recipes["taught"].distill.items()}
    fit.check(chosen, *parties)
    for config in chosen.values():
        init = functools.partial(configs.module_of(config).init, config)
        jax.eval_shape(lambda key, init=init: init(key, *(one.traits for one in parties)), jax.random.key(0))


@pytest.mark.parametrize(
    ("student", "fields", "scales"),
    [
        ("coco:faster_rcnn-r18", {}, (224.0, 56.0)),  # as in the recipes for COCO
        ("coco:retinanet-r18", {}, (112.0, 56.0)),  # anchors of 32 at stride 8
        (
            "coco:faster_rcnn-r18",
            {"teacher": "one_stage.pth", "given": one_stage(strides=(8, 16, 32, 64, 128))},
            (224.0, 112.0),
        ),
    ],
)
def test_the_scales_of_methods_follow_of_the_levels_of_both_detectors(student, fields, scales):
    taught = derive(source("cells"), student=student, method="tar+gkd", **fields).recipes["taught"]
    assert (taught.distill.tar.feature.canonical_scale, taught.distill.gkd.canonical_scale) == scales
    assert taught.distill.gkd.levels == "common" and taught.initial.endswith("weights/resnet18.pth")


@pytest.mark.parametrize(("name", "millions"), [("pocket", 0.4), ("tiny", 1.5), ("small", 4.5), ("medium", 7.5)])
def test_a_dense_student_learns_feature_maps_of_a_larger_teacher(name, millions):
    derived = derive(source("specks"), student=name)
    student, teacher = (
        build.detector(derived.recipes[who].student, ("cell", "speck")) for who in ("taught", "teacher")
    )
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(build.param_shapes(one))) for one in (student, teacher)]
    assert round(sizes[0] / 1e6, 1) == millions and sizes[0] < sizes[1]
    tar = derived.recipes["taught"].distill.tar
    assert tar.feature.weight > 0 and tar.classification.weight == 0


@pytest.mark.parametrize(("short", "first"), [(150, 0), (300, 1)])
def test_levels_and_squares_follow_of_the_objects_sizes(short, first):
    loader = configs.build(component("data.loader", short=(short,), long=2 * short))
    objects = anchors.objects_in(source("specks").records, loader)
    assert anchors.first_level(objects, strides=(4, 8)).value == first
    strides = [stride * 2**first for stride in learners.STRIDES]
    scale, words = anchors.square(objects, strides=strides)
    near, far = (anchors.square_grid(one, strides=strides) for one in (scale, 2 * scale))
    assert anchors.recall(objects, near, iou=0.5) > anchors.recall(objects, far, iou=0.5)
    assert "% of training objects" in words


def test_a_student_of_weights_is_taken_as_it_is():
    detector = configs.load_recipe("bccd", "gfl-alone").student
    given = recipes.Given(student=learners.Given(detector, "/runs/coco/student"))
    derived = derive(source("cells"), student="runs/coco", given=given)
    alone, taught = derived.recipes["alone"], derived.recipes["taught"]
    assert configs.dump(alone.student) == configs.dump(detector)
    assert alone.initial == taught.initial == "/runs/coco/student"
    assert alone.optimizer.learning_rate == schedule.RATES["pretrained"][0]


def test_a_teacher_of_one_stage_answers_for_a_student_with_its_anchors():
    name = "bccd:retinanet-alone"
    given = configs.load_recipe("bccd", "retinanet-alone").student
    same = build.detector(given, ("cell", "speck")).traits.anchors
    for anchors_of_teacher, weight in ((same, 2.0), (("others",), 0.0), (None, 0.0)):
        given = one_stage(anchors=anchors_of_teacher)
        taught = derive(source("specks"), student=name, teacher="one_stage.pth", given=given).recipes["taught"]
        assert taught.distill.tar.classification.weight == weight


def test_a_teacher_of_detections_alone_teaches_by_them():
    derived = derive(
        source("cells"), teacher="found.json", given=recipes.Given(teacher=Traits((), frozenset(["detections"])))
    )
    assert list(derived.recipes["taught"].distill) == ["detections"]


def test_steps_in_place_of_epochs():
    shorter = derive(source("cells"), steps=Choice(300, "what the minutes hold"))
    lengths = {name: (one.train.steps, one.train.epochs) for name, one in shorter.recipes.items()}
    assert lengths == {"teacher": (600, 0), "alone": (300, 0), "taught": (300, 0)}
    said = {reason.setting: (reason.value, reason.words) for reason in shorter.reasons}
    assert said["train.steps"] == (300, "what the minutes hold")
    assert said["teacher:train.steps"] == (600, "what the minutes hold")
    assert said["train.epochs"] == said["teacher:train.epochs"] == (0, "the steps say it")
    assert shorter.recipes["taught"].distill.gkd.start_epoch == 1  # of 10 epochs


def test_what_would_help_a_start_from_random_numbers_is_said():
    (words,) = (reason.words for reason in derive(source("cells")).reasons if reason.setting == "initial")
    assert "with 240 pictures" in words and "mobilenet_v2" in words and "--initial=FILE" in words


def test_alone_and_taught_differ_only_in_the_teacher_its_check_and_its_balance():
    derived = derive(source("cells"))
    alone, taught = (derived.recipes[name].copy_and_resolve_references() for name in ("alone", "taught"))
    with taught.unlocked():
        taught.teacher, taught.distill = alone.teacher, alone.distill
        taught.train.balance, taught.train.teacher_check = alone.train.balance, alone.train.teacher_check
    assert configs.dump(taught) == configs.dump(alone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, r"There is no size 'huge'; take fast, balanced and accurate\."),
        ({"platform": "abacus"}, r"There is no platform 'abacus'; take cpu, gpu and tpu\."),
        ({"method": "magic"}, r"There is no method 'magic'; take auto, tar, gkd, mimic, "),
    ],
)
def test_options_that_there_are_not(options, words):
    with pytest.raises(ConfigError, match=words):
        derive(source("specks"), **options)


def test_no_object():
    with pytest.raises(DataError, match=r"None of the 1 training pictures has an object"):
        derive(drawn.Drawn([drawn.record([])]))


def test_derived_recipes_suit_their_data():
    for name in GOLDEN:
        train = source(name)
        assert all(settings.remarks(train, recipe) == () for recipe in derive(train).recipes.values())


def test_remarks_on_recipes_that_do_not_suit():
    train = source("cells")
    recipe = derive(train).recipes["alone"]
    recipe.student.anchors.sizes = (2.0, 4.0, 8.0, 16.0)
    recipe.train.epochs = 5
    anchored, long = settings.remarks(train, recipe)
    assert re.fullmatch(
        r"Only \d+ % of the training objects have an anchor of IoU 0\.5; with student\.anchors\.sizes=\(.*\) it would "
        r"be \d+ %\.",
        anchored,
    )
    assert long == (
        "The run is 5.0 epochs of 240 pictures long, and 52 are usual for so many: train.epochs=52 with train.steps=0."
    )
    recipe.initial = "finished/student"
    assert settings.remarks(train, recipe) == (anchored,)


def test_a_remark_on_pictures_that_hide_their_objects():
    train = drawn.scattered(60, sides=(20, 60))
    recipe = derive(train).recipes["alone"]
    recipe.data.loader.short, recipe.data.loader.long = (96,), 128
    assert any(
        re.fullmatch(r"\d+ % of the training objects are below 16x16 pixels after the resize, and 0 % before; .*", line)
        for line in settings.remarks(train, recipe)
    )


def real(name, folder):
    """The sources of a shared set and their components."""

    def voc(split, root, **fields):
        return component("data.voc", root=str(folder / root), splits=(split,), **fields)

    def coco(split, year=""):
        annotations = folder / name / "annotations" / f"instances_{split}{year}.json"
        return component("data.coco", images=str(folder / name / f"{split}{year}"), annotations=str(annotations))

    makers = {
        "bccd": lambda split: voc(f"BCCD/{split}", "bccd/VOCdevkit", classes=("RBC", "WBC", "Platelets")),
        "minivoc": lambda split: voc(f"2012_{split}", "minivoc/VOCdevkit"),
        "aquarium": coco,
        "minicoco": lambda split: coco(split, "2017"),
    }
    data = {split: makers[name](split) for split in ("train", "val")}
    return prepare.load_sources(data, warn=False), data


REAL = {  # working size and canvases, padding of one to three, finest anchors and recalls at .5 and .7 of validation
    ("bccd", "cpu"): ((160, 224), 1, (5,), 12.7, (99.8, 75.7)),
    ("minivoc", "cpu"): ((160, 224), 2, (34, 8, 7), 20.16, (94.6, 77.5)),
    ("aquarium", "cpu"): ((288, 384), 2, (27, 3, 1), 16.0, (94.7, 65.6)),
    ("aquarium", "gpu"): ((320, 448), 2, (33, 6, 5), 16.0, (96.7, 65.5)),
    ("minicoco", "cpu"): ((256, 384), 2, (39, 9, 6), 16.0, (78.4, 48.0)),
    ("minicoco", "gpu"): ((416, 640), 2, (42, 11, 7), 22.63, (81.5, 59.8)),
}


@pytest.mark.parametrize(("name", "platform"), REAL)
def test_real_sets_golden(shared, name, platform):
    sources, data = real(name, shared / "data")
    derived = recipes.derive(**sources, data=data, options=recipes.Options(platform=platform))
    alone = derived.recipes["alone"]
    size, canvases, padding, finest, recalls = REAL[name, platform]
    assert (alone.data.loader.short[0], alone.data.loader.long) == size
    assert len(alone.data.loader.buckets) == canvases
    packings = sizes_of.best_packings(sources["train"].records, short=size[0], long=size[1])
    assert tuple(int(100 * packing.padding + 0.5) for packing in packings) == padding
    assert alone.student.anchors.sizes[0] == finest
    grid = anchors.grid_of(alone.student.anchors.sizes, strides=learners.STRIDES, octaves=learners.OCTAVES)
    objects = anchors.objects_in(sources["val"].records, configs.build(alone.data.loader))
    assert tuple(round(100 * anchors.recall(objects, grid, iou=iou), 1) for iou in (0.5, 0.7)) == recalls

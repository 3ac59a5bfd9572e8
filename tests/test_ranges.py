"""Every number of every Config has a range, and `config.build` refuses what lies outside."""

import dataclasses
import functools
import importlib
import math
import operator
import re
import typing
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import jaxkd
from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.errors import ConfigError
from jaxkd.ranges import Count, PartShare, Range, SomeShare, Whole

ROOT = Path(jaxkd.__file__).parent
COMPONENTS = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.rglob("*.py")
    if re.search(r"^class Config[:(]", file.read_text(), re.MULTILINE)
)


def numbers(hint, place=()):
    """Places of the numbers that a field's type has room for, each with its plain type and its range, or None."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [mark for mark in inner[1:] if isinstance(mark, Range)]
        yield from ((at, kind, limits[0] if limits else inside) for at, kind, inside in numbers(inner[0], place))
    elif origin is tuple:
        for index, part in enumerate(part for part in inner if part is not Ellipsis):
            yield from numbers(part, (*place, index))
    elif hint in (int, float):
        yield place, hint, None


def fields(cls, part=""):
    """(dotted field, place in it, plain type, range) of every number of a Config and its parts."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if configs.is_part(hints[field.name]):
            yield from fields(hints[field.name], f"{part}{field.name}.")
        for number in numbers(hints[field.name]):
            yield f"{part}{field.name}", *number


FIELDS = [(name, *field) for name in COMPONENTS for field in fields(importlib.import_module(f"jaxkd.{name}").Config)]


def test_all_components_are_here():
    assert {"detectors.faster_rcnn", "nets.fpn", "distill.decay", "train.loop", "data.loader"} <= set(COMPONENTS)
    assert len(FIELDS) > 150
    named = {f"{name}.{field}" for name, field, *_ in FIELDS}
    assert {"detectors.faster_rcnn.rpn.nms", "distill.task_adaptive.box.margin"} <= named  # of parts too


def test_every_number_has_a_range():
    assert [f"{name}.{field}" for name, field, _, _, limits in FIELDS if limits is None] == []


def outside(kind, limits):
    """Numbers just outside of a range, below and above, and those that are none."""
    if kind is int:
        ends = (limits.low - 1, limits.high + 1)
        return [int(end) for end in ends if math.isfinite(end)]
    low = limits.low if limits.without_low else math.nextafter(limits.low, -math.inf)
    high = limits.high if limits.without_high else math.nextafter(limits.high, math.inf)
    return [float(end) for end in (low, high) if math.isfinite(end)] + [math.nan, math.inf, -math.inf]


def put(value, place, number):
    """A field's value with another number at a place, which an empty one gets."""
    if not place:
        return number
    if not value:
        return (put(None, place[1:], number),)
    return tuple(put(item, place[1:], number) if index == place[0] else item for index, item in enumerate(value))


def changed(default, field, value):
    """A component with another value of a dotted field."""
    return ConfigDict(configs.merged(default, configs.nested({field: value})))


@pytest.mark.parametrize("name", sorted({name for name, *_ in FIELDS}))  # the components with numbers
def test_what_lies_outside_is_refused_and_named(name):
    default = component(name).to_dict()
    tried = 0
    for component_name, field, place, kind, limits in FIELDS:
        for number in outside(kind, limits) if component_name == name else ():
            where = f"{name}.{field}{''.join(f'[{index}]' for index in place)}"
            value = functools.reduce(operator.getitem, field.split("."), default)
            with pytest.raises(ConfigError) as refusal:
                configs.build(changed(default, field, put(value, place, number)))
            assert str(refusal.value).startswith(f"{where} must be "), where
            assert str(refusal.value).endswith(f", not {number!r}."), where
            tried += 1
    assert tried


def test_the_ends_of_ranges():
    def of(kind):
        return typing.get_args(kind)[1]

    assert [1 in of(Count), 0 in of(Count), -1 in of(Whole)] == [True, False, True]
    assert [0.0 in of(SomeShare), 1.0 in of(SomeShare)] == [False, True]
    assert [0.0 in of(PartShare), 1.0 in of(PartShare)] == [True, False]
    assert [str(of(kind)) for kind in (Count, Whole, SomeShare, PartShare)] == [
        "at least 1",
        "finite",
        "above 0 and at most 1",
        "at least 0 and below 1",
    ]


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("distill.decay", "warmup_steps", -1, r"distill\.decay\.warmup_steps must be at least 0, not -1\."),
        ("train.optimizer", "warmup_steps", -3, r"train\.optimizer\.warmup_steps must be at least 0, not -3\."),
        ("train.optimizer", "milestones", (0.5, 1.5), r"milestones\[1\] must be above 0 and at most 1, not 1\.5\."),
        ("train.optimizer", "learning_rate", 10**400, r"learning_rate wants float, got 1000+\.\.\.\."),
        (
            "detectors.retinanet",
            "head.box_weights",
            (1.0,),
            r"box_weights wants tuple\[float, float, float, float\], got",
        ),
        ("detectors.faster_rcnn", "anchors.sizes", ("a",), r"faster_rcnn\.anchors\.sizes\[0\] wants float, got 'a'\."),
    ],
)
def test_messages(name, field, value, words):
    with pytest.raises(ConfigError, match=words):
        configs.build(changed(component(name).to_dict(), field, value))


def test_numbers_of_a_module_of_ones_own_are_finite_too(tmp_path, monkeypatch):
    (tmp_path / "unranged.py").write_text(
        "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Config:\n    weight: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert configs.build(component("unranged", weight=-3.0)).weight == -3.0
    with pytest.raises(ConfigError, match=r"unranged\.weight must be finite, not nan"):
        configs.build(component("unranged", weight=math.nan))

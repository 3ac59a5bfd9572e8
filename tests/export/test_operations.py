"""Every operation of the shipped detectors' programs, as this jax traces them, has a rule of the lowering."""

import importlib
import pkgutil
import typing

import jax
import numpy as np
import pytest

from jaxkd import config as configs
from jaxkd import detectors, nets
from jaxkd.detectors.base import Detector
from jaxkd.detectors.query import QueryDetector
from jaxkd.errors import ConfigError
from jaxkd.export import base, lowering, ops
from jaxkd.loading import build
from jaxkd.nets.norm import BATCH

CLASSES = ("round", "square", "long")
FULL, TINY = (800, 1344), (64, 96)
SMALL = {  # so that little has to be traced; fields that a detector lacks are passed over
    "rpn.pre_nms_test": 64,
    "rpn.post_nms_test": 32,
    "head.hidden": 32,
    "postprocess.candidates": 64,
    "postprocess.max_detections": 20,
    "head.channels": 16,
    "head.convs": 1,
    "anchors.ratios": (1.0,),
}
DEEPER = {  # numbers that make other programs
    "faster_rcnn": {"head.convs": (0, 2), "rpn.depth": (1, 2)},
    "retinanet": {"anchors.octaves": (1, 2)},
}
NETS = {  # of each backbone, where numbers make other programs
    "resnet": (
        {"depth": 10, "width": 8},
        {"depth": 50, "width": 8},
        {"depth": 50, "width": 8, "cardinality": 4, "part_width": 4},
    ),
    "mobilenet": ({"width": 0.25},),
    "mobilenetv4": ({"width": 0.25},),
    "csp": ({"width": 8},),
    "resnet_d": (
        {"stem": 8, "widths": (8,) * 4, "blocks": (1,) * 4},
        {"stem": 8, "widths": (8,) * 4, "blocks": (1,) * 4, "bottleneck": False},
    ),
    "hgnet": ({"stem": (8, 8), "inner": (8,) * 4, "widths": (8,) * 4, "blocks": (1,) * 4, "layers": (1,) * 4},),
}


def modules(package):
    found = pkgutil.iter_modules(package.__path__)
    return {one.name: importlib.import_module(f"{package.__name__}.{one.name}") for one in found}


BUILT = {
    name: (module, module.build(module.Config(), classes=CLASSES))
    for name, module in modules(detectors).items()
    if hasattr(module, "build")
}
QUERIES = {name: module for name, (module, one) in BUILT.items() if isinstance(one, QueryDetector)}
DETECTORS = {name: module for name, (module, one) in BUILT.items() if isinstance(one, Detector) and name not in QUERIES}
BACKBONES = {name: module for name, module in modules(nets).items() if hasattr(module, "stage_of")}
NECKS = {name: one for name, one in modules(nets).items() if hasattr(one, "strides") and name not in BACKBONES}
SIZES = [(net, more) for net in BACKBONES for more in NETS.get(net, ({},))]


class Nothing:
    """A format that takes whatever `ops.Ops` has, and writes none of it."""

    format = "nothing"

    def top_k(self, x, k):
        return None, None

    def loop(self, condition, body, start, shapes, dtypes):
        condition(list(start))
        return body(list(start))

    def map(self, body, rows, given, made):
        return body([None for _ in rows])


for name in vars(ops.Ops):  # real attributes, which is what checks of a protocol look at; no non-maximum suppression
    if not name.startswith("_") and not hasattr(Nothing, name):
        setattr(Nothing, name, lambda *given, **more: None)


class Survey(lowering.Lowering):
    """A lowering that goes on at unsupported operations and collects them."""

    def __init__(self):
        super().__init__(Nothing(), None)
        self.lacking = set()

    def _equation(self, equation, inputs):
        try:
            return super()._equation(equation, inputs)
        except ConfigError:
            return [self.as_value(None, variable.aval) for variable in equation.outvars]

    def unsupported(self, what):
        self.lacking.add(what)
        return super().unsupported(what)


def lacking(program):
    """What only StableHLO supports of a program."""
    walk = Survey()
    walk.run(program, [walk.as_value(None, variable.aval) for variable in program.jaxpr.invars])
    return walk.lacking


def computed(equation, arrays, *, plainly=lowering._evaluate):
    """What depends on constants alone, as zeros where it is no single number, for values change no operation.

    What is the same for every picture is stored without them, and has no static shape.
    """
    static = all(lowering.is_static(variable.aval.shape) for variable in equation.outvars)
    if not static or all(array.size == 1 for array in arrays):
        return plainly(equation, arrays)
    return [np.zeros(variable.aval.shape, variable.aval.dtype) for variable in equation.outvars]


def fields(config, part=""):
    """The types of a config's fields, those of its parts dotted."""
    found = {}
    for name, kind in typing.get_type_hints(config).items():
        found |= fields(kind, f"{part}{name}.") if configs.is_part(kind) else {f"{part}{name}": kind}
    return found


def choices(config, turn):
    """One option of every field that has a few, so that the turns from 0 on go through all of them."""
    few = dict(DEEPER.get(config.__module__.rpartition(".")[2], {}))
    for name, kind in fields(config).items():
        if typing.get_origin(kind) is typing.Literal and name not in ("depth", "dtype"):
            few[name] = typing.get_args(kind)
        elif kind is bool:
            few[name] = (False, True)
    return {name: options[turn % len(options)] for name, options in few.items()}


def traced(recipe, size):
    """The program of a detector whose parameters are zeros; a recipe in bfloat16 is exported in float32."""
    recipe.dtype = "bfloat16"
    detector = build.detector(recipe, CLASSES)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    params = jax.device_put(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    return base.subject(build.Loaded(detector, params, recipe, {}, {}), size=size).program()


def varied(kind, net, more, turn, neck="fpn"):
    """A small recipe of a detector."""
    detector = DETECTORS[kind].Config
    backbone = configs.component(f"nets.{net}", **(choices(BACKBONES[net].Config, turn) | more))
    module = NECKS[neck]
    numbers = {name: number for name, number in (("channels", 16), ("groups", 4)) if name in fields(module.Config)}
    neck = configs.component(f"nets.{neck}", **(numbers | choices(module.Config, turn)))
    with backbone.unlocked():
        backbone.groups = 4
    levels = module.strides(configs.build(neck), BACKBONES[net].strides(configs.build(backbone)))
    known = fields(detector)
    small = {name: value for name, value in SMALL.items() if name in known} | choices(detector, turn)
    # What is refused: a separable head without norms or with biases, and batch norms that levels share.
    if small.get("head.norm") == "none" and "head.separable" in known:
        small["head.separable"] = False
    if small.get("head.separable") and "head.bias" in known:
        small["head.bias"] = False
    if small.get("head.norm") in BATCH and "head.per_level" in known:
        small["head.per_level"] = True
    if "anchors.sizes" in known:
        small["anchors.sizes"] = tuple(8.0 * 2**level for level in range(len(levels)))
    return configs.component(f"detectors.{kind}", backbone=backbone, neck=neck, **configs.nested(small))


def check(programs):
    """Raises with all that lacks a rule, and where it first came up."""
    missing = {}
    for name, program in programs:
        for what in sorted(lacking(program)):
            missing.setdefault(what, name)
    lines = "\n".join(f"  {what}, first in {name}" for what, name in missing.items())
    assert not missing, f"jax {jax.__version__} traces what only StableHLO takes; it lacks rules:\n{lines}"


@pytest.fixture(autouse=True)
def _no_numbers(monkeypatch):
    monkeypatch.setattr(lowering, "_evaluate", computed)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("place", range(len(SIZES)))
def test_every_operation_of_every_detector_has_a_rule(kind, place):
    """Each backbone in two turns, so with either norm; over all of them every option has had its turn."""
    net, more = SIZES[place]
    turns = (place, place + 1)
    check((f"{kind} on {net} {more}, turn {turn}", traced(varied(kind, net, more, turn), TINY)) for turn in turns)


@pytest.mark.parametrize("neck", sorted(set(NECKS) - {"fpn"}))
def test_every_operation_of_every_neck_has_a_rule(neck):
    recipes = {f"retinanet over {neck}, turn {turn}": varied("retinanet", *SIZES[0], turn, neck) for turn in (0, 1)}
    check((name, traced(recipe, TINY)) for name, recipe in recipes.items())


@pytest.mark.parametrize("sampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("kind", QUERIES)
def test_every_operation_of_detectors_with_queries_has_a_rule(kind, sampling):
    """Over their own backbones in each of its kinds, once at full size too."""
    plain = QUERIES[kind].Config()
    (_, _, net), (_, _, neck) = (part.__class__.__module__.rpartition(".") for part in (plain.backbone, plain.neck))
    decoder = {"width": 16, "layers": 2, "heads": 2, "hidden": 16, "queries": 10, "sampling": sampling}
    neck = configs.component(f"nets.{neck}", channels=16, hidden=16)
    recipes = {
        f"{kind} on {net} {more}": configs.component(
            f"detectors.{kind}", backbone=configs.component(f"nets.{net}", **more), neck=neck, decoder=decoder
        )
        for more in NETS[net]
    }
    sizes = (TINY, FULL) if sampling == "bilinear" else (TINY,)
    check((name, traced(recipe, size)) for name, recipe in recipes.items() for size in sizes)


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_operation_at_full_size_has_a_rule(kind):
    """Large maps are convolved in other ways; with the conventions of every library."""
    known = ("", *getattr(DETECTORS[kind], "LIKE", ()))
    check((f"{kind} like {like}", traced(configs.component(f"detectors.{kind}", like=like), FULL)) for like in known)


def test_all_that_lacks_a_rule_is_told_at_once():
    def function(x):
        return jax.numpy.linalg.qr(x)[0].sum() + jax.numpy.fft.fft(x).real.sum() + x.sum()

    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((4, 4), np.float32))
    with pytest.raises(AssertionError, match=r"(?s)the operation fft, first in it.*the operation .*, first in it"):
        check([("it", program)])

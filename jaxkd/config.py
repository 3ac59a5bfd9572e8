"""Recipes: ConfigDicts outside, frozen dataclasses inside, and the one place that translates between them.

A component is the `Config` of a module; its ConfigDict has the module's `name`. A part is any other dataclass that is
the value of a field, such as `rpn` of `detectors.faster_rcnn`; its ConfigDict has no name, the field's type says it.

Detectors, methods and the step, which need `module_of` alone, work without ml_collections; so it is imported late.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import json
import math
import re
import sys
import traceback
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxkd.errors import ConfigError
from jaxkd.paths import PathText, absolute, expanded
from jaxkd.ranges import Range

NAME = "name"
PLAIN = (bool, int, float, str)
FIELDS = {"student", "initial", "inherit", "teacher", "distill", "data", "optimizer", "train"}  # of a recipe
PATHS = {"teacher", "initial", "teachers.*.path"}  # fields of a recipe itself that hold paths; a star is any name
SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")  # folders of recipes
Recipe = Any  # a ConfigDict of a recipe or of one component, the types of whose fields no checker can know


def component(name: str, *, like: str = "", **overrides: Any) -> Recipe:
    """Every field of the `Config` dataclass in the module called `name`, with `overrides` put in.

    `name` is looked up below jaxkd first ("distill.mimic" is jaxkd.distill.mimic) and as it stands second, so a
    module of one's own is used like one of ours. An override of a part is a dict of the fields that change:
    `rpn={"nms": 0.8}`. `like` puts in the conventions of another library first, which the module lists in its LIKE
    ("torchvision", "detectron2", "mmdetection"). Raises ConfigError for an unknown module, field or type, and for a
    library that the module does not list.
    """
    cls = _config_class(name)
    config = describe(cls())
    for key, value in merged(_conventions(cls, like), overrides).items():
        _assign(config, key, value, where=name)
    return config.lock()


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of a component with others put in, part by part: {"rpn": {"nms": 0.8}} leaves the rest of `rpn`."""
    out = dict(fields)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a component from dotted names: {"rpn.nms": 0.8} as {"rpn": {"nms": 0.8}}."""
    out: dict[str, Any] = {}
    for path, value in fields.items():
        key, dot, rest = path.partition(".")
        out = merged(out, {key: nested({rest: value}) if dot else value})
    return out


def recipe(
    *,
    student: Recipe,
    data: Mapping[str, Recipe],
    train: Recipe | None = None,
    optimizer: Recipe | None = None,
    distill: Mapping[str, Recipe] | None = None,
    teacher: str = "",
    teachers: Mapping[str, Mapping[str, Any]] | None = None,
    initial: str = "",
    inherit: str = "none",
) -> Recipe:
    """The recipe of a run.

    Args:
      student: the detector to train.
      data: sources under the names "train" and "val", and optionally "loader".
      train: seed, batch, steps and reporting; `train.loop` by default.
      optimizer: `train.optimizer` by default.
      distill: methods under names of one's choice; the names prefix their terms in the log.
      teacher: folder of a trained detector (weights.safetensors and detector.json); empty without distillation.
      teachers: others beside `teacher`, under names of one's choice: {"path": PATH, "distill": METHODS} each, and
        "view" with fields of `data.loader.teacher_view` for a canvas of its own. Names of methods are distinct over
        all teachers.
      initial: folder or file of weights that the student starts from; empty to start from random numbers.
      inherit: parts that the student takes over from its teacher after that: "none", "neck", "head" or "neck+head".
    """
    from ml_collections import ConfigDict  # late: `module_of` works without it

    missing = {"train", "val"} - set(data)
    if missing:
        raise ConfigError(f"The recipe's data lacks {sorted(missing)}; give a source for 'train' and for 'val'.")
    sources = {"loader": component("data.loader"), **data}
    config = ConfigDict(
        {
            "student": student,
            "initial": initial,
            "inherit": inherit,
            "teacher": teacher,
            "distill": ConfigDict(dict(distill or {})),
            **_of_teachers(teachers or {}),
            "data": ConfigDict(sources),
            "optimizer": optimizer or component("train.optimizer"),
            "train": train or component("train.loop"),
        }
    )
    return config.lock()


def _of_teachers(teachers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The field "teachers" of a recipe, where there are some."""
    from ml_collections import ConfigDict  # late: `module_of` works without it

    for name, one in teachers.items():
        if not name or set(one) - {"view"} != {"path", "distill"} or not one["distill"]:
            raise ConfigError(
                f"teachers['{name}'] wants a name, 'path', 'distill' with a method, and maybe 'view'; it has "
                f"{sorted(one)}."
            )
    entries = {
        name: ConfigDict({"path": str(one["path"]), "distill": ConfigDict(dict(one["distill"])), "view": _view()})
        for name, one in teachers.items()
    }
    for name, entry in entries.items():
        _assign(entry, "view", teachers[name].get("view", {}), where=f"teachers['{name}']")
    return {"teachers": ConfigDict(entries)} if entries else {}


def _view() -> Recipe:
    """The fields of a teacher's own canvas, with their defaults."""
    return component("data.loader").teacher_view.copy_and_resolve_references()


def of_each_teacher(recipe: Recipe) -> dict[str, Recipe]:
    """Recipes of one teacher each, by its name in "teachers"; "" is the recipe with its `teacher` alone.

    Raises ConfigError where two teachers have a method of one name.
    """
    own, teachers = recipe.copy_and_resolve_references(), {}
    if "teachers" in own:
        teachers = own.teachers
        with own.unlocked():
            del own["teachers"]
    out, owners = {"": own}, dict.fromkeys(own.distill, "config.teacher")
    for name, one in teachers.items():
        for method in one.distill:
            if (other := owners.setdefault(method, name)) != name:
                raise ConfigError(f"The teachers {other} and {name} have a method '{method}' each; rename one of them.")
        out[name] = own.copy_and_resolve_references()
        with out[name].unlocked():
            out[name].teacher, out[name].distill, out[name].inherit = one.path, one.distill, "none"
    return out


def methods_in(recipe: Recipe) -> tuple[str, ...]:
    """The names of the methods of all teachers of a recipe."""
    return tuple(method for one in of_each_teacher(recipe).values() for method in one.distill)


def describe(config: Any) -> Recipe:
    """The ConfigDict of a `Config` instance, its parts and components included; `build` is its inverse."""
    from ml_collections import ConfigDict, config_dict  # late: `module_of` works without it

    name = {NAME: type(config).__module__.removeprefix("jaxkd.")} if _is_component(type(config)) else {}
    out = ConfigDict(name)
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = describe(value)
        elif value is None:
            value = config_dict.placeholder(_plain_type(hints[field.name]))
        out[field.name] = value
    return out


def build(config: Recipe) -> Any:
    """The frozen `Config` instance that a component's ConfigDict describes.

    A part that lacks fields has their defaults. Raises ConfigError where a field is unknown, missing its component,
    outside its choices or out of its range (`ranges`), and for a number that is not finite.
    """
    if NAME not in config:
        raise ConfigError(f"A component needs the field '{NAME}'; {_short(config)} has none.")
    cls = _config_class(config[NAME])
    values = {key: value for key, value in config.items() if key != NAME}
    return cls(**_values(cls, values, where=config[NAME]))


def build_part(cls: type, config: Recipe, *, where: str) -> Any:
    """The part, a frozen dataclass, that some of its fields describe; raises as `build`, where it is called `where`."""
    return cls(**_values(cls, dict(config), where=where))


def _values(cls: type, given: Mapping[str, Any], *, where: str, default: Any = None) -> dict[str, Any]:
    """The values of a dataclass's fields, as they are declared; those of its parts begin as they are in `default`."""
    from ml_collections import ConfigDict  # late: `module_of` works without it

    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in given.items():
        name = f"{where}.{key}"
        if key not in fields:
            raise ConfigError(f"{where} has no field '{key}'{closest(key, set(fields))}.")
        if is_part(hints[key]):
            if not isinstance(value, (ConfigDict, dict)):
                raise ConfigError(f"{name} wants a dict of some of its fields, got {_brief(value)}.")
            begun = _default(fields[key]) if default is None else getattr(default, key)
            value = dataclasses.replace(begun, **_values(hints[key], dict(value), where=name, default=begun))
        elif isinstance(value, (ConfigDict, dict)):
            value = build(value)
        values[key] = _checked(value, hints[key], where=name)
    return values


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def _is_component(cls: type) -> bool:
    """Whether this dataclass is the `Config` of its module."""
    return getattr(sys.modules.get(cls.__module__), "Config", None) is cls


def is_part(hint: Any) -> bool:
    """Whether a field of this type holds a part: a dataclass that is no component."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and not _is_component(hint)


def module_of(config: Any) -> types.ModuleType:
    """The module that a `Config` instance belongs to: where its functions are."""
    return importlib.import_module(type(config).__module__)


def load_recipe(path: str | Path, argument: str | None = None) -> Recipe:
    """What `get_config(argument)` of the Python file at `path` returns.

    A bare name finds a shipped recipe: "tar_coco" is configs/tar_coco.py.
    Raises ConfigError where there is no such file, it fails, has no get_config, or that returns no recipe.
    """
    from ml_collections import ConfigDict  # late: `module_of` works without it

    file = locate(path)
    spec = importlib.util.spec_from_file_location(f"jaxkd_recipe_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"{file} is not valid Python: {error}.") from error
    except Exception as error:  # a recipe is a program, which may fail in any way
        raise _failed(error, file) from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{file} defines no get_config(arg) function; see configs/ for examples.")
    try:
        config = module.get_config(argument) if argument is not None else module.get_config()
    except (KeyError, ValueError, TypeError) as error:
        if argument is None:
            raise _failed(error, file) from error
        known = _arguments(module.__doc__ or "") or repr(error)
        raise ConfigError(f"The recipe {file.name} does not take the argument {argument!r}: {known}.") from error
    except Exception as error:
        raise _failed(error, file) from error
    if not isinstance(config, ConfigDict) or not set(config.keys()) >= FIELDS:
        raise ConfigError(f"get_config of {file} returns no recipe; return what jaxkd.config.recipe gives.")
    return config


def _arguments(card: str) -> str:
    """The arguments of a recipe by its run card, as half a sentence; empty where the card lists none."""
    match = re.search(r"^  arguments +(.*(?:\n {3,}.*)*)", card, re.MULTILINE)
    return f"it takes {' '.join(match[1].split()).removesuffix('.')}" if match else ""


def locate(path: str | Path) -> Path:
    """The file of a recipe, given by its path or by a shipped one's name; raises ConfigError where there is none."""
    file = Path(path)
    if re.match(r"[A-Za-z][\w+.-]*:/", str(path)):
        raise ConfigError(
            f"The recipe {path} is not on this machine; a recipe is a program, so fetch it, read it and give its path."
        )
    candidates = [file] if file.suffix == ".py" else []
    candidates += [folder / f"{file.name.removesuffix('.py')}.py" for folder in SHIPPED if file.parent == Path(".")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    names = sorted({file.stem for folder in SHIPPED if folder.is_dir() for file in folder.glob("*.py")})
    raise ConfigError(f"There is no recipe {file}; give a .py file or one of the shipped names: {', '.join(names)}.")


def named(text: str) -> tuple[Path, str | None]:
    """The file and the argument of FILE[:ARG], as --config names a recipe; raises as `locate` does."""
    path, colon, argument = expanded(text).partition(":")
    return locate(text if argument.startswith("//") else path), argument if colon else None


def is_foreign(file: Path) -> bool:
    """Whether a recipe's file is neither a shipped one nor below the current folder, wherever links lead."""
    place = file.resolve()
    return not any(place.is_relative_to(folder.resolve()) for folder in (Path.cwd(), *SHIPPED))


def dump(config: Recipe) -> str:
    """The resolved recipe as JSON text, keys in order."""
    return json.dumps(config.to_dict(), indent=2, default=list)


def parse(text: str) -> Recipe:
    """The inverse of `dump`; lists become tuples again."""
    from ml_collections import ConfigDict  # late: `module_of` works without it

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return ConfigDict(tuples(json.loads(text)))


def path_fields(name: str) -> frozenset[str]:
    """The fields of a component that hold paths, those of its parts dotted; none of a component that is not there."""
    try:
        return frozenset(_paths(_config_class(name)))
    except ConfigError:
        return frozenset()


def _paths(cls: type, part: str = "") -> Iterator[str]:
    for key, hint in typing.get_type_hints(cls, include_extras=True).items():
        if hint == PathText:
            yield f"{part}{key}"
        elif is_part(hint):
            yield from _paths(hint, f"{part}{key}.")


def paths_below(paths: Iterable[str], key: str) -> frozenset[str]:
    """Of the dotted fields those of the part `key`, named as the part names them."""
    parts = (path.partition(".") for path in paths)
    return frozenset(below for part, dot, below in parts if dot and part in (key, "*"))


def with_absolute_paths(config: Recipe) -> Recipe:
    """A copy of a recipe, or of one component of it, whose paths mean the same from any folder."""
    out = config.copy_and_resolve_references()
    _make_absolute(out, path_fields(out[NAME]) if NAME in out else PATHS)
    return out


def _make_absolute(config: Recipe, paths: Collection[str]) -> None:
    from ml_collections import ConfigDict  # late: `module_of` works without it

    with config.unlocked():
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                _make_absolute(value, path_fields(str(value[NAME])) if NAME in value else paths_below(paths, key))
            elif key in paths and isinstance(value, str):
                config[key] = absolute(value)


def closest(key: str, names: set[str]) -> str:
    """What is nearest to `key`, or all there is, as the end of a sentence."""
    near = difflib.get_close_matches(key, sorted(names), n=1)
    return f"; the closest is '{near[0]}'" if near else f"; there are {', '.join(sorted(names))}" if names else ""


def _failed(error: Exception, file: Path) -> ConfigError:
    """What is wrong with a recipe's program, and in which of its lines."""
    if isinstance(error, ConfigError):
        return error
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    where = f" in line {lines[-1]}" if lines else ""
    return ConfigError(f"The recipe {file} fails{where}: {error!r}.")


def _config_class(name: Any) -> type:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{_brief(name)} names no module to take a component from; write one such as 'data.coco'.")
    without = ""  # a module that exists and has no Config
    for candidate in (f"jaxkd.{name}", name):
        try:
            spec = importlib.util.find_spec(candidate)
        except ModuleNotFoundError:
            spec = None
        if spec is not None:
            module = importlib.import_module(candidate)
            if hasattr(module, "Config"):
                return module.Config
            without = without or candidate
    if without:
        raise ConfigError(f"The module {without} holds no Config dataclass, so it cannot be a component.")
    raise ConfigError(f"There is no module '{name}' (nor 'jaxkd.{name}') to take a component from.")


def _conventions(config: type, like: str) -> dict[str, Any]:
    known = getattr(importlib.import_module(config.__module__), "LIKE", {})
    if like and like not in known:
        raise ConfigError(f"{config.__module__} has no conventions like '{like}'{closest(like, set(known))}.")
    return known.get(like, {})


def _assign(config: Recipe, key: str, value: Any, *, where: str) -> None:
    from ml_collections import ConfigDict  # late: `module_of` works without it

    names = set(config.keys()) - {NAME}
    if key not in names:
        raise ConfigError(f"{where} has no field '{key}'{closest(key, names)}.")
    if dataclasses.is_dataclass(value):
        value = describe(value)
    current = config[key]
    if isinstance(current, ConfigDict) and NAME not in current:
        if not isinstance(value, (ConfigDict, Mapping)):
            raise ConfigError(f"{where}.{key} wants a dict of some of its fields, got {_brief(value)}.")
        for inner, item in value.items():
            _assign(current, inner, item, where=f"{where}.{key}")
        return
    try:
        if isinstance(current, ConfigDict):
            config[key] = value  # another component, with fields of its own, takes the place of the default
        else:
            with config.unlocked():
                config[key] = value
    except (TypeError, ValueError) as error:
        wanted = type(config[key]).__name__
        raise ConfigError(f"{where}.{key} wants {wanted}, got {value!r}.") from error


def _plain_type(hint: Any) -> type:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    origin = typing.get_origin(options[0]) if options else None
    return origin or (options[0] if options else object)


def _checked(value: Any, hint: Any, *, where: str) -> Any:
    """The value as its field declares it: lists as tuples and whole numbers as floats."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = _checked(value, inner[0], where=where)
        for limits in inner[1:]:
            if isinstance(limits, Range) and value not in limits:
                raise ConfigError(f"{where} must be {limits}, not {value!r}.")
        return value
    if origin is typing.Literal and value not in inner:
        choices = ", ".join(repr(choice) for choice in inner)
        raise ConfigError(f"{where} must be one of {choices}; got {value!r}.")
    if origin is tuple and isinstance(value, (tuple, list)):
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(each) == len(value):
            return tuple(
                _checked(item, of, where=f"{where}[{index}]")
                for index, (item, of) in enumerate(zip(value, each, strict=True))
            )
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if origin is tuple or (hint in PLAIN and type(value) is not hint):
        raise ConfigError(f"{where} wants {_wanted(hint)}, got {_brief(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite, not {value!r}.")
    return value


def _wanted(hint: Any) -> str:
    """A type as it is written, without ranges."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _wanted(inner[0])
    if origin is tuple:
        return f"tuple[{', '.join('...' if part is Ellipsis else _wanted(part) for part in inner)}]"
    return hint.__name__ if hint in PLAIN else str(hint)


def _brief(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _short(config: Recipe) -> str:
    return "{" + ", ".join(list(config)[:4]) + "}"


def view_field(name: str) -> str:
    """The field of a recipe that holds the canvas of a teacher in `config.teachers`, or for "" of `config.teacher`."""
    return f"config.teachers.{name}.view" if name else "data.loader.teacher_view"

"""Derived recipes as a Python file to read, to edit and to train: literal numbers, each with its reason."""

import dataclasses
import functools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.derive.recipes import OF_TEACHER, Derived

WIDTH = 120
INDENT = "    "
BESIDE = 100  # characters up to which a reason stands beside its value, without the indents
FUNCTIONS = {"student": "detector", "data.loader": "data", "optimizer": "optimizer", "train": "train"}  # of the file


def module(derived: Derived, *, file: str = "recipe.py") -> str:
    """The text of a Python module whose `get_config(arg)` gives the derived recipes by their names.

    `file` is the name under which its head says how to train it.
    """
    runs = [_Run(name, derived) for name in ("teacher", "alone") if name in derived.recipes]
    shared = {path: names for path in FUNCTIONS if (names := _shared(path, runs))}
    arguments = ", ".join(f'"{name}": {name}' for name in derived.recipes)
    blocks = [
        f"{_head(derived, file)}\n\nfrom jaxkd.config import component, recipe",
        f'def get_config(arg="taught"):\n    return {{{arguments}}}[arg]()',
        *(_recipe_function(run, shared) for run in runs),
        _taught_function(derived),
        *([_unlabelled_function(derived)] if "unlabelled" in derived.recipes else []),
        *(_shared_function(path, runs, names) for path, names in shared.items()),
    ]
    return "\n\n\n".join(blocks) + "\n"


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An argument of a call or an item of a dict: what stands before the value, the value's lines and its reason."""

    key: str
    lines: Sequence[str]
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class _Run:
    """One of the recipes, with its reasons."""

    name: str
    derived: Derived

    def component(self, path: str) -> Any:
        """The Config at a dotted path of the recipe."""
        part = self.derived.recipes[self.name]
        for key in path.split("."):
            part = part[key]
        return configs.build(part)

    def changed(self, path: str) -> list[str]:
        """The fields of the component at a dotted path that are no defaults."""
        config = self.component(path)
        return _changed(config, type(config)())

    def reason(self, path: str) -> str:
        """The reason of a setting; "" where it has none of its own."""
        of_teacher = self._words.get(f"{OF_TEACHER}{path}") if self.name == "teacher" else None
        return " ".join((of_teacher or self._words.get(path, "")).split())

    @functools.cached_property
    def _words(self) -> dict[str, str]:
        return {reason.setting: reason.words for reason in self.derived.reasons}

    def entries(self, path: str, names: Iterable[str], *, depth: int) -> list[_Entry]:
        """The fields of the component at `path` with these names, as arguments that stand at so many indents."""
        config = self.component(path)
        default = type(config)()
        return [
            self._entry(f"{name}=", getattr(config, name), getattr(default, name), f"{path}.{name}", depth=depth)
            for name in names
        ]

    def call(self, path: str, *, key: str, depth: int) -> _Entry:
        """The component at `path` as an item that stands at so many indents."""
        return self._entry(key, self.component(path), None, path, depth=depth)

    def _entry(self, key: str, value: Any, default: Any, path: str, *, depth: int) -> _Entry:
        """A value as a literal, a part as a dict of what its default has not, a component as a call with that."""
        if not dataclasses.is_dataclass(value):
            return _Entry(key, [_literal(value)], self.reason(path))
        is_part = configs.is_part(type(value))
        default = default if is_part else type(value)()
        inner = [] if is_part else [_Entry("", [_literal(_name(value))])]
        for name in _changed(value, default):
            of, to = getattr(value, name), getattr(default, name)
            inner.append(
                self._entry(f'"{name}": ' if is_part else f"{name}=", of, to, f"{path}.{name}", depth=depth + 1)
            )
        opening, closing = ("{", "}") if is_part else ("component(", ")")
        lines = _block(opening, inner, closing, before=depth * len(INDENT) + len(key))
        return _Entry(key, lines, self.reason(path))


def _changed(config: Any, default: Any) -> list[str]:
    """The fields of a Config or part that differ from its default, in their order."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(default, field.name)
    ]


def _shared(path: str, runs: Sequence[_Run]) -> list[str]:
    """The fields of the component at `path` that are no defaults, and alike in all runs, reasons included.

    There are none where it is another component in another run, as two detectors may be.
    """
    if len({type(run.component(path)) for run in runs}) > 1:
        return []

    def of(run: _Run, name: str) -> tuple[Any, str]:
        return getattr(run.component(path), name), run.reason(f"{path}.{name}")

    first, *others = runs
    return [name for name in first.changed(path) if all(of(other, name) == of(first, name) for other in others)]


def _head(derived: Derived, file: str) -> str:
    """The run card."""
    train, val = derived.pictures["train"], derived.pictures["val"]
    classes = phrases.counted(derived.classes, "class")
    whose = "A student and its teacher" if "teacher" in derived.recipes else "A student"
    return f'''"""{whose} for {classes}: settings that follow of the data, each with its reason.

Run card
  data      {phrases.counted(train, "picture")} to learn from, {val} to validate on
  command   jaxkd train --config={file}:taught --workdir=runs/taught
  arguments {", ".join(derived.recipes)}
"""'''


def _recipe_function(run: _Run, shared: dict[str, list[str]]) -> str:
    """The function of a recipe without a teacher; the student's takes the arguments of the one with a teacher."""
    entries = []
    for path, function in FUNCTIONS.items():
        key = f"{path.removesuffix('.loader')}="
        if path not in shared:
            entries.append(run.call(path, key=key, depth=2))
            continue
        names = [name for name in run.changed(path) if name not in shared[path]]
        lines = _block(f"{function}(", run.entries(path, names, depth=3), ")", before=2 * len(INDENT))
        entries.append(_Entry(key, lines, run.reason(path)))
    recipe = run.derived.recipes[run.name]
    if recipe.initial:
        entries.insert(1, _Entry("initial=", [_literal(recipe.initial)], run.reason("initial")))
    more = run.name == "alone"
    entries += [_Entry("", ["**more"])] if more else []
    return _function(run.name, "**more" if more else "", _block("recipe(", entries, ")", before=WIDTH))


def _taught_function(derived: Derived) -> str:
    run = _Run("taught", derived)
    recipe = derived.recipes["taught"]
    methods = [run.call(f"distill.{name}", key=f'"{name}": ', depth=3) for name in recipe.distill]
    entries = [
        _Entry("teacher=", [_literal(recipe.teacher)], run.reason("teacher")),
        _Entry("distill=", _block("{", methods, "}", before=2 * len(INDENT)), run.reason("distill")),
    ]
    call = _block("alone(", entries, ")", before=WIDTH)
    alone, own = derived.recipes["alone"], []
    pairs = {"train": (recipe.train, alone.train), "data.loader": (recipe.data.loader, alone.data.loader)}
    for part, both in pairs.items():
        for path, value in _differences(*both):
            reason = run.reason(f"{part}.{path}")
            own += textwrap.wrap(reason, BESIDE, initial_indent="# ", subsequent_indent="# ")
            own.append(f"config.{part}.{path} = {_literal(value)}")
    lines = [f"config = {call[0]}", *call[1:], *own, "return config"]
    return "\n".join(["def taught():", *(f"{INDENT}{line}" for line in lines)])


def _unlabelled_function(derived: Derived) -> str:
    """The function of the recipe that learns of pictures without labels too."""
    source = _Run("unlabelled", derived).call("data.unlabelled", key="config.data.unlabelled = ", depth=2)
    reason = textwrap.wrap(source.reason, BESIDE, initial_indent="# ", subsequent_indent="# ")
    inside = [*reason, f"{source.key}{source.lines[0]}", *source.lines[1:]]
    lines = ["config = taught()", "with config.unlocked():", *(f"{INDENT}{line}" for line in inside), "return config"]
    return "\n".join(["def unlabelled():", *(f"{INDENT}{line}" for line in lines)])


def _differences(part: configs.Recipe, other: configs.Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names and values of the fields of a component that another of its kind has otherwise."""
    for name, value in part.items():
        if hasattr(value, "items"):
            yield from _differences(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            yield f"{prefix}{name}", value


def _shared_function(path: str, runs: Sequence[_Run], names: Sequence[str]) -> str:
    """The function of a component that gives its shared fields, and takes those in which recipes differ."""
    run, of_loader = runs[-1], path == "data.loader"
    more = "**more" if any(one.changed(path) != names for one in runs) else ""
    entries = [_Entry("", [_literal(_name(run.component(path)))])]
    entries += run.entries(path, names, depth=3 if of_loader else 1)
    entries += [_Entry("", [more])] if more else []
    component = _block("component(", entries, ")", before=WIDTH)
    if not of_loader:
        return _function(FUNCTIONS[path], more, component)
    sources = [run.call(f"data.{name}", key=f'"{name}": ', depth=2) for name in ("train", "val")]
    return _function("data", more, _block("{", [*sources, _Entry('"loader": ', component)], "}", before=WIDTH))


def _function(name: str, parameters: str, value: Sequence[str]) -> str:
    lines = [f"return {value[0]}", *value[1:]]
    return "\n".join([f"def {name}({parameters}):", *(f"{INDENT}{line}" for line in lines)])


def _block(opening: str, entries: Sequence[_Entry], closing: str, *, before: int) -> list[str]:
    """The lines of a call or dict: one, where it has no reasons inside and fits behind so many characters, or more."""
    plain = all(len(entry.lines) == 1 and not entry.reason for entry in entries)
    line = f"{opening}{', '.join(f'{entry.key}{entry.lines[0]}' for entry in entries)}{closing}"
    if plain and before + len(line) < WIDTH:
        return [line]
    lines = []
    for entry in entries:
        first, *rest = entry.lines
        beside = f"{entry.key}{first},  # {entry.reason}"
        if entry.reason and not rest and len(beside) <= BESIDE:
            lines.append(beside)
            continue
        lines += textwrap.wrap(entry.reason, BESIDE, initial_indent="# ", subsequent_indent="# ")
        lines += [f"{entry.key}{first}", *rest]
        lines[-1] += ","
    return [opening, *(f"{INDENT}{line}" for line in lines), closing]


def _name(config: Any) -> str:
    """The name of a component."""
    return configs.module_of(config).__name__.removeprefix("jaxkd.")


def _literal(value: Any) -> str:
    """A value in Python, texts in double quotes."""
    if isinstance(value, str) and '"' not in value:
        return f'"{repr(value)[1:-1]}"' if "'" not in value else repr(value)
    if isinstance(value, tuple):
        items = ", ".join(map(_literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    return repr(value)

"""Fields of a recipe that its other fields leave without effect."""

from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict

from jaxkd import config as configs


def sentences(recipe: configs.Recipe) -> list[str]:
    """One sentence for each field that is set to another value than its default and changes nothing.

    A component's module lists in ONLY_WITH the fields that depend on another one: {field: (other, value)}, where the
    value is one, a tuple of several, or True for all that is not 0, empty or False. Fields of parts are dotted.
    """
    return [sentence for name, part in recipe.items() for sentence in _of(part, f"config.{name}")]


def _of(part: Any, path: str) -> list[str]:
    if not isinstance(part, ConfigDict):
        return []
    below = [sentence for name, inner in part.items() for sentence in _of(inner, f"{path}.{name}")]
    return [*_fields(part, path), *below] if configs.NAME in part else below


def _fields(part: configs.Recipe, path: str) -> list[str]:
    config = configs.build(part)
    module, default = configs.module_of(config), type(config)()
    lines = []
    for name, (other, wanted) in getattr(module, "ONLY_WITH", {}).items():
        value, condition = attrgetter(name, other)(config)
        if value != attrgetter(name)(default) and not _satisfies(condition, wanted):
            lines.append(f"{path}.{name}={value!r} has no effect while {other} is {condition!r}.")
    return lines


def _satisfies(value: Any, wanted: Any) -> bool:
    if wanted is True or wanted is False:
        return bool(value) is wanted
    return value in wanted if isinstance(wanted, tuple) else value == wanted

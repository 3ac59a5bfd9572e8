"""Fields of a recipe that its other fields leave without effect."""

from typing import Any

from ml_collections import ConfigDict

from jaxkd import config as configs


def sentences(recipe: configs.Recipe) -> list[str]:
    """One sentence for each field that is set to another value than its default and changes nothing.

    A component's module says in ONLY_WITH on which other field each of its fields hangs: {field: (other, value)}, where
    the value is one, a tuple of several, or True for all that is not 0, empty or False.
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
    found = []
    for name, (other, wanted) in getattr(module, "ONLY_WITH", {}).items():
        value, given = getattr(config, name), getattr(config, other)
        if value != getattr(default, name) and not _holds(given, wanted):
            found.append(f"{path}.{name}={part[name]!r} has no effect while {other} is {given!r}.")
    return found


def _holds(given: Any, wanted: Any) -> bool:
    if wanted is True or wanted is False:
        return bool(given) is wanted
    return given in wanted if isinstance(wanted, tuple) else given == wanted

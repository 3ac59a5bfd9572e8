"""Which run a workdir belongs to: its recipe, and what that recipe's paths led to."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd import storage
from jaxkd.errors import ConfigError, DataError, StorageError
from jaxkd.loading import build
from jaxkd.paths import path_of
from jaxkd.weights import parts

# Fields that change no number of a run: it may go on with others.
FREE = {
    "train": ("devices", "report_every", "checkpoint_every", "keep"),
    "loader": ("threads", "prefetch", "cache"),
}


def refuse_other(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes the folder, and lets only its own recipe pass.

    Raises ConfigError where it belongs to another recipe, StorageError where it cannot be used.
    """
    file = workdir / build.RECIPE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            return
        there = json.loads(file.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise StorageError(f"The workdir {workdir} is a file; give a folder.") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"The workdir {workdir} cannot be used: {error}.") from error
    other = differences(binding(there), binding(json.loads(configs.dump(recipe))))
    if other:
        raise ConfigError(
            f"The workdir {workdir} belongs to another recipe: {'; '.join(other[:3])}; "
            "take a new --workdir, or the old recipe to go on."
        )


def claim(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes `workdir` this recipe's, whose paths and free fields it keeps as they are now.

    A recipe that fails before its first step leaves the workdir free for another. Raises as `refuse_other` does.
    """
    refuse_other(workdir, recipe)
    storage.write(workdir / build.RECIPE, configs.dump(recipe) + "\n")


def binding(recipe: Any, *, part: str = "") -> Any:
    """What of a recipe's JSON a run is bound to: all but what changes no number of it.

    Of a path it counts that there is one: what it leads to is held against the run by its content (see `facts`).
    """
    if not isinstance(recipe, dict):
        return recipe
    paths = configs.path_fields(recipe[configs.NAME]) if configs.NAME in recipe else () if part else configs.PATHS
    return {
        name: bool(value) if name in paths else binding(value, part=name)
        for name, value in recipe.items()
        if name not in FREE.get(part, ())
    }


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """Where two resolved recipes differ, one phrase a place."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [f"{path} was {old!r} and is now {new!r}"]


def teacher_digest(recipe: configs.Recipe) -> str:
    """The SHA-256 sum of the teacher's weights as they are stored; empty where the recipe names none."""
    if not recipe.teacher:
        return ""
    place, _ = parts.split(path_of(recipe.teacher))
    if place.is_dir():
        place = build.file_of(place / build.STUDENT if (place / build.RECIPE).is_file() else place, build.WEIGHTS)
    if not place.is_file():
        return ""  # whoever loads it says so
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_facts(began: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises DataError where a run began with other data than it has now, ConfigError for another teacher."""
    changed = [name for name, value in now.items() if began.get(name, value) != value]
    if changed:
        what = changed[0]
        kind = ConfigError if what == "teacher" else DataError
        raise kind(f"The {what} of this run changed since it began; take a new --workdir, or the old {what}.")

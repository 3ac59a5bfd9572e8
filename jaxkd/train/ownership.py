"""Checks that a workdir belongs to the run: the same recipe, data and teacher as when it began."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd import storage
from jaxkd.errors import ConfigError, DataError, StorageError
from jaxkd.loading import build, foundation, hub, stored_teacher
from jaxkd.paths import path_of
from jaxkd.weights import parts

# Fields that change no number of a run, which may go on with other values.
FREE = {
    "train": ("devices", "report_every", "checkpoint_every", "keep"),
    "loader": ("threads", "prefetch", "cache"),
}


def refuse_other(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes the folder where it is missing, and refuses one that belongs to another recipe.

    Raises ConfigError where it belongs to another recipe, StorageError where it cannot be used.
    """
    file = workdir / build.RECIPE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            return
        stored = json.loads(file.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise StorageError(f"The workdir {workdir} is a file; give a folder.") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"The workdir {workdir} cannot be used: {error}.") from error
    changes = differences(binding(stored), binding(json.loads(configs.dump(recipe))))
    if changes:
        raise ConfigError(
            f"The workdir {workdir} belongs to another recipe: {'; '.join(changes[:3])}; "
            "take a new --workdir, or the old recipe to go on."
        )


def claim(workdir: Path, recipe: configs.Recipe) -> None:
    """Makes `workdir` belong to this recipe, which is stored with its present paths and free fields.

    A recipe that fails before its first step leaves the workdir free for another. Raises as `refuse_other` does.
    """
    refuse_other(workdir, recipe)
    storage.write(workdir / build.RECIPE, configs.dump(recipe) + "\n")


def binding(recipe: Any, *, part: str = "", paths: Collection[str] = configs.PATHS) -> Any:
    """The part of a recipe's JSON that has to stay equal when a run goes on: all fields but FREE.

    A path counts as set or not; its content is compared by `check_facts`. Steps that follow of epochs are left out:
    they follow of the training data too, which `check_facts` compares.
    """
    if not isinstance(recipe, dict):
        return recipe
    paths = configs.path_fields(recipe[configs.NAME]) if configs.NAME in recipe else paths
    return {
        name: bool(value) if name in paths else binding(value, part=name, paths=configs.paths_below(paths, name))
        for name, value in recipe.items()
        if name not in FREE.get(part, ()) and not (part == "train" and name == "steps" and recipe.get("epochs"))
    }


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """One phrase for each field in which two resolved recipes differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [f"{path} was {old!r} and is now {new!r}"]


def teacher_digest(recipe: configs.Recipe) -> str:
    """The SHA-256 sum of the teacher's weights as they are stored, or of those of all; empty where there are none."""
    digests = [_of_teacher(one) for one in configs.of_each_teacher(recipe).values()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _of_teacher(recipe: configs.Recipe) -> str:
    if not recipe.teacher:
        return ""
    path, _ = parts.split(path_of(recipe.teacher))
    if stored_teacher.is_one(path) and path.is_dir():
        digests = [_digest(file) for file in stored_teacher.files_of(path)]
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    if foundation.is_one(path):
        path = foundation.file_of(path)
    elif hub.is_one(path):
        path = hub.file_of(path)
    if path.is_dir():
        path = build.file_of(build.folder_of(path), build.WEIGHTS)
    if not path.is_file():
        return ""  # `prepare.load_teacher` raises for it
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_facts(began: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises DataError where the data differ from those that the run began with, ConfigError where the teacher does."""
    changed = [name for name, value in now.items() if began.get(name, value) != value]
    if changed:
        fact = changed[0]
        kind = ConfigError if fact == "teacher" else DataError
        raise kind(f"The {fact} of this run changed since it began; take a new --workdir, or the old {fact}.")

"""Paths as people write them: below the home folder, among the files of the package, relative to where they are."""

import os
from pathlib import Path
from typing import Annotated

from jaxkd.errors import ConfigError

ASSETS = "assets:"  # before a path among the files that come with the package
PathText = Annotated[str, "path"]  # the type of a field that holds a path as people write it


def expanded(text: str) -> str:
    """`text` with a leading ~ or ~user replaced by that home folder.

    Raises ConfigError where there is no such home: a folder called ~ is nobody's wish.
    """
    out = os.path.expanduser(text)
    if out.startswith("~"):
        raise ConfigError(
            f"There is no home folder {text.split('/')[0]}; write the path {text} out, or put ./ before it."
        )
    return out


def path_of(text: str) -> Path:
    """`text` as a Path: "assets:NAME" points into the files that come with the package, ~ to the home folder."""
    if text.startswith(ASSETS):
        return Path(__file__).parent / "assets" / text.removeprefix(ASSETS)
    return Path(expanded(text))


def absolute(text: str) -> str:
    """`text` so that it means the same from any folder; empty and "assets:NAME" stay as they are."""
    return text if not text or text.startswith(ASSETS) else os.path.abspath(expanded(text))

"""Paths as users write them: with ~, with "assets:" for the package's files, or relative to the current folder."""

import os
from pathlib import Path
from typing import Annotated

from jaxkd.errors import ConfigError

ASSETS = "assets:"  # prefix of paths among the files of the package
PathText = Annotated[str, "path"]  # the type of a field that holds a path


def expanded(text: str) -> str:
    """`text` with a leading ~ or ~user replaced by that home folder.

    Raises ConfigError where there is no such home, since a folder named ~ is hardly meant.
    """
    out = os.path.expanduser(text)
    if out.startswith("~"):
        raise ConfigError(
            f"There is no home folder {text.split('/')[0]}; write the path {text} out, or put ./ before it."
        )
    return out


def path_of(text: str) -> Path:
    """`text` as a Path: "assets:NAME" is a file of the package, ~ the home folder."""
    if text.startswith(ASSETS):
        return Path(__file__).parent / "assets" / text.removeprefix(ASSETS)
    return Path(expanded(text))


def absolute(text: str) -> str:
    """`text` as an absolute path; empty text and "assets:NAME" stay as they are."""
    return text if not text or text.startswith(ASSETS) else os.path.abspath(expanded(text))

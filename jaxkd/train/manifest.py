"""Manifests: the files of a folder with their sizes and SHA-256 sums, written last, so that damage is noticed."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

NAME = "manifest.json"
BLOCK = 1 << 20  # bytes read at a time


class Broken(Exception):
    """A folder differs from its manifest; the message is a phrase that names the file."""


class Unfinished(Broken):
    """A folder without a manifest, whose writing was interrupted."""


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Writes the manifest of all files below `folder`, with the metadata `about` them; atomic and durable."""
    files = {name: _sum(folder / name) for name in _names(folder)}
    body = {"about": about, "files": files}
    text = json.dumps({"body": body, "sha256": _text_sum(body)}, indent=1)
    unfinished = folder / f".{NAME}.part"
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / NAME)


def check(folder: Path) -> dict[str, Any]:
    """The metadata in the manifest of `folder`, after comparing every file with the manifest.

    Raises Unfinished without a manifest, and Broken where it or a file that it lists is missing, cut or changed.
    """
    body = _body(folder)
    for name, (size, digest) in body["files"].items():
        try:
            actual = (folder / name).stat().st_size
            same = actual == size and _sum(folder / name)[1] == digest
        except OSError as error:
            raise Broken(f"{name} cannot be read ({error.strerror})") from error
        if not same:
            raise Broken(f"{name} has {actual} bytes in place of {size}" if actual != size else f"{name} has changed")
    return body["about"]


def read(folder: Path) -> dict[str, Any]:
    """The metadata in the manifest of `folder`, with no other file compared; raises as `check` does."""
    return _body(folder)["about"]


def _body(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / NAME).read_bytes()
    except OSError as error:
        raise Unfinished(f"it has no {NAME}") from error
    try:
        content = json.loads(text)
        body, digest = content["body"], content["sha256"]
        if _text_sum(body) != digest or json.dumps(content, indent=1).encode() != text:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Broken(f"{NAME} has changed") from error
    return body


def _names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in (NAME, f".{NAME}.part"))


def _sum(file: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _text_sum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

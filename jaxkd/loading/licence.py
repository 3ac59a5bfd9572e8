"""The licence that a folder of weights states, and what is known of the libraries that publish weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxkd.data import plain_yaml
from jaxkd.errors import DataError
from jaxkd.weights.unpickle import printable

CARD = "README.md"
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
FENCE = "---"  # around the YAML that a model card begins with
READ, LENGTH = 1 << 16, 80  # characters of a file that are read, and of a statement that are shown
LIBRARIES = {  # by the family of a published detector; read in December 2026, see docs/teachers.md
    "torchvision": "torchvision's code is under BSD-3-Clause, and its README says that weights may have terms of the "
    "data that they were trained on",
    "detectron2": "detectron2's MODEL_ZOO.md puts its models under CC BY-SA 3.0",
    "mmdetection": "mmdetection's repository is under Apache-2.0",
    "nanodet": "NanoDet's repository is under Apache-2.0",
    "RT-DETR": "the page of rtdetr_r50vd on Hugging Face states Apache-2.0",
    "D-FINE": "the pages of its models on Hugging Face state Apache-2.0",
}


def of_folder(folder: Path) -> str:
    """A sentence on the licence that a folder states: in the front matter of README.md, or by a LICENSE file."""
    if stated := _of_card(folder / CARD):
        return f"Licence: {stated}, as {CARD} of the folder states."
    for name in FILES:
        if lines := [line.strip() for line in _text(folder / name).splitlines() if line.strip()]:
            return f"Licence: {name} of the folder begins: {_shown(', '.join(lines[:2]))}."
    return "Licence: not stated in the folder; ask who published it before you pass it on."


def of_file(family: str) -> str:
    """A sentence on the licence of a file of weights, which states none itself, named as a library names them."""
    known = LIBRARIES.get(family)
    return f"Licence: not stated in the file{f'. If its publisher is that of the library: {known}' if known else ''}."


def _of_card(file: Path) -> str:
    """The licence in the front matter of a model card, "" where there is none."""
    head, *lines = _text(file).splitlines() or [""]
    if head.strip() != FENCE:
        return ""
    end = next((place for place, line in enumerate(lines) if line.strip() == FENCE), None)
    if end is None:
        return ""
    try:
        card = plain_yaml.parse("\n".join(lines[:end]), where=str(file))
    except DataError:
        return ""
    return _shown(", ".join(_named(card))) if isinstance(card, dict) else ""


def _named(card: dict[Any, Any]) -> Iterator[str]:
    """The texts of the fields on a licence; one that is called other has its name and link in two more."""
    for field in ("license", "license_name", "license_link"):
        value = card.get(field)
        yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item)


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(READ)
    except OSError:
        return ""


def _shown(text: str) -> str:
    return printable(text[:LENGTH])

"""Words written on pictures: a font that has their letters, or something else in their place."""

import functools
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Of the system, where Pillow's own font lacks a letter; the first that has all of a word is taken.
SYSTEM = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "malgun.ttf"),
    *("YuGothM.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
)
NOBODY = "\uffff"  # no character, so what a font draws for it stands for all letters that it lacks


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """A font that has every letter of the text: Pillow's, or one of the system's; None where none has."""
    file = _file(frozenset(text))
    if file is None:
        return None
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def written(name: str, *, label: int) -> str:
    """The name of a class as pictures carry it: without accents, or as the number of the class, where no font has it.

    The number is that of a prediction's category: `label`, the place in the list of classes, and 1.
    """
    if _file(frozenset(name)) is not None:
        return name
    parts = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return plain if _file(frozenset(plain)) is not None else f"#{label + 1}"


def readable(text: str) -> str:
    """The text, with question marks for the letters that Pillow's font lacks where no font has all of them."""
    if _file(frozenset(text)) is not None:
        return text
    return "".join(letter if _file(frozenset(letter)) == "" else "?" for letter in text)


def legend(classes: Sequence[str]) -> str:
    """A sentence on the names that pictures carry otherwise; empty where there is none."""
    shown = {name: written(name, label=label) for label, name in enumerate(classes)}
    others = [f"{short} for {name}" for name, short in shown.items() if short != name]
    return f"No font here has all letters of some names; pictures have {', '.join(others)}." if others else ""


@functools.cache
def _file(letters: frozenset[str]) -> str | None:
    """The file of a font that has these letters, "" for Pillow's own font; None where there is none."""
    if _has(ImageFont.load_default(16), letters):
        return ""
    for name in SYSTEM:
        try:
            font = ImageFont.truetype(name, 16)
        except OSError:
            continue
        if _has(font, letters):
            return name
    return None


def _has(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letters: frozenset[str]) -> bool:
    lacking = _drawn(font, NOBODY)
    return all(letter.isspace() or _drawn(font, letter) != lacking for letter in letters)


def _drawn(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bytes:
    picture = Image.new("L", (32, 32))
    ImageDraw.Draw(picture).text((4, 4), letter, fill=255, font=font)
    return picture.tobytes()

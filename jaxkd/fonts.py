"""Fonts for text on pictures, and substitutes for text that no font can show."""

import functools
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# System fonts for text that Pillow's own font cannot show; the first that has all letters is taken.
SYSTEM = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "malgun.ttf"),
    *("YuGothM.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
)
NO_CHARACTER = "\uffff"  # its glyph is the one that a font draws for every letter that it lacks


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """A font that has every letter of the text, Pillow's or one of the system; None where there is none."""
    file = _font_file(frozenset(text))
    if file is None:
        return None
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


def class_text(name: str, *, label: int) -> str:
    """A class name that a font can show: the name, else the name without accents, else "#" and the category id.

    The category id is that of predictions: the index `label` in the list of classes, plus 1.
    """
    if _font_file(frozenset(name)) is not None:
        return name
    parts = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return plain if _font_file(frozenset(plain)) is not None else f"#{label + 1}"


def drawable(text: str) -> str:
    """The text; where no font has all its letters, those that Pillow's font lacks become question marks."""
    if _font_file(frozenset(text)) is not None:
        return text
    return "".join(letter if _font_file(frozenset(letter)) == "" else "?" for letter in text)


def legend(classes: Sequence[str]) -> str:
    """A sentence on the class names that are replaced on pictures; empty where there are none."""
    texts = {name: class_text(name, label=label) for label, name in enumerate(classes)}
    replaced = [f"{short} for {name}" for name, short in texts.items() if short != name]
    return f"No font here has all letters of some names; pictures have {', '.join(replaced)}." if replaced else ""


@functools.cache
def _font_file(letters: frozenset[str]) -> str | None:
    """The file of a font that has these letters, "" for Pillow's own; None where there is none."""
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
    missing_glyph = _glyph(font, NO_CHARACTER)
    return all(letter.isspace() or _glyph(font, letter) != missing_glyph for letter in letters)


def _glyph(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, letter: str) -> bytes:
    picture = Image.new("L", (32, 32))
    ImageDraw.Draw(picture).text((4, 4), letter, fill=255, font=font)
    return picture.tobytes()

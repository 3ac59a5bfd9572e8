"""Augmentation by a name, chosen for the number of pictures, the student's size and the names of the classes."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jaxkd import phrases
from jaxkd.data.augment import Config

Name = Literal["none", "light", "auto", "strong"]

FLIP = 0.5  # share of pictures that are mirrored
COLOUR = 0.8  # share of pictures of which each property of colour is changed
HUE = 6.0  # degrees
SCALE, STRONG_SCALE, LIGHT_SCALE = (0.5, 1.5), (0.3, 2.0), (0.8, 1.2)
SMALL_STUDENT = 1_000_000  # parameters; a student below it cannot use as much
SIDES = {"left", "right"}
COLOURS = {
    *("black", "white", "grey", "gray", "silver", "red", "orange", "yellow", "gold", "green", "blue", "cyan"),
    *("purple", "violet", "pink", "brown", "beige"),
}


class Row(NamedTuple):
    """A row of the table by which pictures decide: the shares of the transforms for so many pictures."""

    pictures: float  # the row is for fewer than these
    mosaic: float
    crop: float
    paste: float  # where pictures of rare classes are repeated
    cutout: float
    colour: float


TABLE = (
    Row(300, mosaic=0.5, crop=0.3, paste=0.3, cutout=0.2, colour=COLOUR),
    Row(3_000, mosaic=0.5, crop=0.3, paste=0.3, cutout=0.0, colour=COLOUR),
    Row(30_000, mosaic=0.2, crop=0.2, paste=0.0, cutout=0.0, colour=COLOUR),
    Row(float("inf"), mosaic=0.0, crop=0.0, paste=0.0, cutout=0.0, colour=0.0),
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of the loader, and why they are so."""

    augment: Config  # the loader's `augment`
    flip: float  # the loader's `flip`
    reasons: tuple[str, ...]  # sentences


def preset(name: Name, *, pictures: int, parameters: int, classes: Sequence[str], repeated: bool = False) -> Preset:
    """The augmentation of this name.

    "none" changes nothing, and mirrors nothing. "light" changes scale and colours a little. "strong" is what "auto"
    takes for the fewest pictures. "auto" goes by the number of pictures and halves everything but the flip for a
    student below a million parameters. The names of the classes decide on flip and hue.

    Args:
      name: of the preset.
      pictures: training pictures.
      parameters: parameters of the student.
      classes: names of the classes.
      repeated: whether pictures of rare classes are repeated (the loader's `repeat_threshold`), as pasting asks for.
    """
    if name == "none":
        return Preset(Config(), 0.0, ("Nothing is augmented, as asked.",))
    config, reasons = CHOICES[name](pictures, parameters, repeated)
    flip = FLIP
    if unmirrored := oriented(classes):
        flip = 0.0
        reasons.append(f"No picture is mirrored: {phrases.some(unmirrored)} would mean something else in a mirror.")
    if config.hue and (pairs := coloured(classes)):
        config = dataclasses.replace(config, hue=0.0)
        reasons.append(f"Hues stay: {phrases.some(pairs)} differ by their colour.")
    return Preset(config, flip, tuple(reasons))


def _light(pictures: int, parameters: int, repeated: bool) -> tuple[Config, list[str]]:
    del pictures, parameters, repeated
    return Config(scale=LIGHT_SCALE, colour=COLOUR / 2), ["Scale and colours change a little, as asked."]


def _strong(pictures: int, parameters: int, repeated: bool) -> tuple[Config, list[str]]:
    del pictures
    reasons = ["Everything is on, as asked."]
    if parameters < SMALL_STUDENT:
        reasons.append(f"A student of {parameters:,} parameters may lose by that; 'auto' would halve it.")
    return _of(TABLE[0], repeated=repeated, strong=True), reasons


def _auto(pictures: int, parameters: int, repeated: bool) -> tuple[Config, list[str]]:
    row = next(row for row in TABLE if pictures < row.pictures)
    small = parameters < SMALL_STUDENT
    config = _of(row, repeated=repeated, strong=row is TABLE[0] and not small)
    config = halved(config) if small else config
    reasons = [f"There are {phrases.counted(pictures, 'training picture')}, of which {_made(config)}."]
    if row.paste and not repeated:
        reasons.append("No object is pasted, for no class is rare.")
    if small:
        reasons.append(f"That is half of what a student of a million parameters has; this one has {parameters:,}.")
    return config, reasons


CHOICES: dict[str, Callable[[int, int, bool], tuple[Config, list[str]]]] = {
    "light": _light,
    "strong": _strong,
    "auto": _auto,
}


def _of(row: Row, *, repeated: bool, strong: bool) -> Config:
    return Config(
        scale=STRONG_SCALE if strong else SCALE,
        log_scale=strong,
        crop=row.crop,
        mosaic=row.mosaic,
        paste=row.paste if repeated else 0.0,
        colour=row.colour,
        hue=HUE if strong else 0.0,
        cutout=row.cutout,
    )


def _made(config: Config) -> str:
    """What is made of the pictures, as the end of a sentence."""
    low, high = config.scale
    shares = {name: getattr(config, name) for name in ("mosaic", "crop", "paste", "cutout")}
    used = [f"{share:.0%} by {name}" for name, share in shares.items() if share]
    scaled = f"all are scaled by {low:g} to {high:g}"
    return f"{scaled}, and more is made {phrases.listed(used)}" if used else f"{scaled} and no more, for they are many"


def halved(config: Config) -> Config:
    """The settings with all shares halved, and scales half as far from 1."""
    low, high = config.scale
    shares = {name: getattr(config, name) / 2 for name in ("crop", "mosaic", "paste", "colour", "cutout")}
    return dataclasses.replace(config, scale=((1 + low) / 2, (1 + high) / 2), **shares)


def oriented(classes: Sequence[str]) -> list[str]:
    """The classes that a mirror changes: those with the word left or right, and single letters and numbers."""
    return [name for name in classes if SIDES & set(words(name)) or re.fullmatch(r"\d+|[^\W\d_]", name.strip())]


def coloured(classes: Sequence[str]) -> list[str]:
    """The classes that are named as another one but for words of colours."""
    plain = [tuple(word for word in words(name) if word not in COLOURS) for name in classes]
    has_colour = [bool(COLOURS & set(words(name))) for name in classes]
    return [name for name, rest, has in zip(classes, plain, has_colour, strict=True) if has and plain.count(rest) > 1]


def words(name: str) -> list[str]:
    """The words of a class's name in small letters: "TurnLeft", "turn-left" and "turn_left" have the same."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W\d_]+", parted) if word]

"""The layout of `jaxkd explain`'s sheet: panels under titles and captions, a part for each method."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from jaxkd import fonts

COLUMNS, WIDTH, GAP = 5, 304, 16  # panels in a row; pixels of a panel's width, and between two
TEXT, HEADING, LEADING = 15, 20, 6  # font sizes, and pixels between two lines
LETTERS = 40  # most letters of a line of a caption
MAX_HEIGHT = 1300  # pixels of a panel; of a higher one the sheet has the upper part, with a note
INK, SOFT = "#1b1b1b", "#626262"


@dataclass(frozen=True)
class Panel:
    """A drawing with its title and caption; `empty` gives the reason where nothing is drawn on it."""

    name: str  # of its file, without the suffix
    title: str
    caption: str
    picture: Image.Image
    empty: str = ""
    wide: bool = False  # takes a whole row, at its own size


@dataclass(frozen=True)
class Part:
    """A heading, the panels below it, and notes below these."""

    heading: str
    panels: Sequence[Panel]
    notes: Sequence[str] = ()


def compose(title: str, parts: Sequence[Part]) -> Image.Image:
    """All parts below each other on white, without the empty panels."""
    blocks = [_line(title, size=HEADING)]
    for part in parts:
        blocks.append(_line(part.heading, size=HEADING))
        drawn = [panel for panel in part.panels if not panel.empty]
        blocks += [_row(row) for row in _rows(drawn)]
        blocks += [_line(f"{panel.name}.png has more.", size=TEXT) for panel in drawn if _size(panel)[1] > MAX_HEIGHT]
        blocks += [_line(note, size=TEXT, colour=SOFT) for note in part.notes]
    return _stacked(blocks, width=COLUMNS * (WIDTH + GAP) + GAP)


def single(panel: Panel) -> Image.Image:
    """The drawing alone, in its own size; of an empty one below its reason."""
    if not panel.empty:
        return panel.picture
    line = _line(f"empty: {panel.empty}", size=TEXT)
    return _stacked([line, panel.picture], width=max(line.width, panel.picture.width) + 2 * GAP)


def _stacked(blocks: Sequence[Image.Image], *, width: int) -> Image.Image:
    canvas = Image.new("RGB", (width, sum(block.height + GAP for block in blocks) + GAP), "white")
    y = GAP
    for block in blocks:
        canvas.paste(block, (GAP, y))
        y += block.height + GAP
    return canvas


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    rows: list[list[Panel]] = []
    for panel in panels:
        if panel.wide or not rows or rows[-1][0].wide or len(rows[-1]) == COLUMNS:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _row(panels: Sequence[Panel]) -> Image.Image:
    heads, pictures = [_head(panel) for panel in panels], [_fitted(panel) for panel in panels]
    top = max(head.height for head in heads) + LEADING
    row = Image.new("RGB", (COLUMNS * (WIDTH + GAP), top + max(picture.height for picture in pictures)), "white")
    for column, (head, picture) in enumerate(zip(heads, pictures, strict=True)):
        row.paste(head, (column * (WIDTH + GAP), 0))
        row.paste(picture, (column * (WIDTH + GAP), top))
    return row


def _head(panel: Panel) -> Image.Image:
    """The title of a panel and its wrapped caption."""
    lines = textwrap.wrap(panel.caption, LETTERS * (COLUMNS if panel.wide else 1))
    parts = [_line(panel.title, size=TEXT), *(_line(line, size=TEXT, colour=SOFT) for line in lines)]
    head = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    for index, part in enumerate(parts):
        head.paste(part, (0, index * part.height))
    return head


def _fitted(panel: Panel) -> Image.Image:
    width, height = _size(panel)
    picture = panel.picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture.crop((0, 0, width, min(height, MAX_HEIGHT)))


def _size(panel: Panel) -> tuple[int, int]:
    """Width and height of a panel on the sheet; a wide one is at most as wide as the sheet."""
    picture = panel.picture
    width = min(picture.width, COLUMNS * (WIDTH + GAP) - GAP) if panel.wide else WIDTH
    return width, max(1, round(picture.height * width / picture.width))


def _line(text: str, *, size: int, colour: str = INK) -> Image.Image:
    text = fonts.drawable(text)
    font = fonts.font_of(text, size)
    width = round(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text, font=font))
    line = Image.new("RGB", (width + 2, size + LEADING), "white")
    ImageDraw.Draw(line).text((0, 0), text, fill=colour, font=font)
    return line

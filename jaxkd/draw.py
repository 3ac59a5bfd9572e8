"""Draws boxes and heat maps on pictures, and pictures side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxkd import fonts

COLOURS = ("#e6194b", "#4363d8", "#f5a500", "#3cb44b", "#911eb4", "#00a8b5", "#f032e6", "#9a6324")


@dataclass(frozen=True)
class Box:
    """A box to draw: corners in pixels, index and name of its class, and the score if it is a detection.

    A dashed frame marks a crowd, or an ignored object.
    """

    corners: tuple[float, float, float, float]
    label: int
    name: str
    score: float | None = None
    dashed: bool = False


def boxes_on(image: np.ndarray, boxes: Sequence[Box], *, scale: float = 1.0, names: bool = True) -> Image.Image:
    """The RGB picture [h w 3] uint8, resized by `scale`, with a frame in the colour of its class around each box.

    Where names are drawn, a name that no font can show is replaced as in `fonts.class_text`.
    """
    picture = Image.fromarray(image)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    size = max(10, picture.width // 45)
    texts = {box.name: fonts.class_text(box.name, label=box.label) for box in boxes}
    name_fonts = {name: fonts.font_of(text, size) for name, text in texts.items()} if names else {}
    for box in sorted(boxes, key=lambda box: box.score if box.score is not None else 1.0):
        colour = COLOURS[box.label % len(COLOURS)]
        corners = [scale * side for side in box.corners]
        width = max(2, picture.width // 300)
        if box.dashed:
            _draw_dashes(pen, corners, colour=colour, width=width)
        else:
            pen.rectangle(corners, outline=colour, width=width)
        if names:
            place = (corners[0] + 2, max(corners[1] - size - 2, 0.0))
            _draw_name(pen, box, name=texts[box.name], font=name_fonts[box.name], place=place, limit=picture.width)
    return picture


def heat_on(image: np.ndarray, cells: np.ndarray, *, stride: float) -> Image.Image:
    """The RGB picture [h w 3] uint8 in grey, with a map [i j] in [0, 1], of cells of `stride` pixels, as a heat map."""
    rows, columns = (
        np.minimum((np.arange(side) / stride).astype(int), limit - 1)
        for side, limit in zip(image.shape[:2], cells.shape, strict=True)
    )
    heat = np.clip(cells, 0.0, 1.0)[rows[:, None], columns][..., None]
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    glow = np.array([255.0, 90.0, 0.0])
    return Image.fromarray((grey * (1 - 0.7 * heat) + glow * 0.7 * heat).astype(np.uint8))


def from_results(results: Sequence[dict], categories: Sequence[dict], *, least: float = 0.5) -> dict[int, list[Box]]:
    """COCO results, or annotations, as boxes by image id; detections below the score `least` are left out.

    The frames of crowds and of ignored objects, such as VOC's difficult ones, are dashed.
    """
    classes = {category["id"]: (index, category["name"]) for index, category in enumerate(categories)}
    out: dict[int, list[Box]] = {}
    for result in results:
        score = result.get("score")
        if score is not None and score < least:
            continue
        x, y, w, h = map(float, result["bbox"])  # files often hold integers
        label, name = classes[result["category_id"]]
        dashed = bool(result.get("iscrowd") or result.get("ignore"))
        out.setdefault(result["image_id"], []).append(Box((x, y, x + w, y + h), label, name, score, dashed))
    return out


def table(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], *, gap: int = 6) -> Image.Image:
    """Pictures in rows and columns on white, each column under its title; pictures of a row have one height."""
    font = ImageFont.load_default(16)
    head = 26
    widths = [max(row[column].width for row in rows) for column in range(len(titles))]
    heights = [max(picture.height for picture in row) for row in rows]
    canvas = Image.new(
        "RGB", (sum(widths) + gap * (len(widths) + 1), head + sum(heights) + gap * len(heights)), "white"
    )
    pen = ImageDraw.Draw(canvas)
    x = gap
    for column, title in enumerate(titles):
        pen.text((x + widths[column] / 2, head / 2), title, fill="black", font=font, anchor="mm")
        y = head
        for row, height in zip(rows, heights, strict=True):
            canvas.paste(row[column], (x, y))
            y += height + gap
        x += widths[column] + gap
    return canvas


def _draw_name(
    pen: ImageDraw.ImageDraw, box: Box, *, name: str, font: Any, place: tuple[float, float], limit: int
) -> None:
    """Draws name and score at a place, further left where they would leave the picture, which is `limit` wide."""
    score = "" if box.score is None else f" {box.score:.2f}"
    ends = (f"{name[:end]}{'...' * (end < len(name))}{score}" for end in range(len(name), -1, -1))
    text = next((text for text in ends if pen.textlength(text, font=font) <= limit - 4), "")
    place = (max(min(place[0], limit - 2 - pen.textlength(text, font=font)), 2), place[1])
    pen.rectangle(pen.textbbox(place, text, font=font), fill=COLOURS[box.label % len(COLOURS)])
    pen.text(place, text, fill="white", font=font)


def _draw_dashes(pen: ImageDraw.ImageDraw, corners: Sequence[float], *, colour: str, width: int) -> None:
    x0, y0, x1, y1 = corners
    step = 5 * width
    for y in (y0, y1 - width + 1):
        for x in np.arange(x0, x1, 2 * step):
            pen.rectangle([x, y, min(x + step, x1), y + width - 1], fill=colour)
    for x in (x0, x1 - width + 1):
        for y in np.arange(y0, y1, 2 * step):
            pen.rectangle([x, y, x + width - 1, min(y + step, y1)], fill=colour)

"""Detections of any program in a file, matched to the pictures of a source."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int, Int64

from jaxkd import phrases
from jaxkd.data.base import NO_BOXES, UNSAID, Record, Source, Subset, TeacherBoxes
from jaxkd.data.detections_file import Detections
from jaxkd.data.labelled import joined
from jaxkd.errors import WeightsError


@dataclasses.dataclass(frozen=True)
class Matched:
    """A source whose records have the detections of a file, where there are any of their picture."""

    source: Source
    images: frozenset[int]  # ids in the file of the pictures that were matched
    sentences: tuple[str, ...]  # what was left out


def classes_of(detections: Detections, source: Source) -> dict[int, str]:
    """The names of the classes that are detected, by their ids: those of the file, or of the source without them.

    With scores of all classes these are all of the file's. Raises WeightsError where no id is known, or a file without
    categories has scores of another number of classes than the source has.
    """
    names = detections.categories or dict(zip(source.category_ids, source.classes, strict=True))
    detected = set(np.unique(detections.category_ids).tolist())
    if detections.class_scores is not None and (width := detections.class_scores.shape[1]) != len(names):
        raise WeightsError(
            f"{detections.file} has scores of {width} classes for a detection, and the data has {len(names)}; give a "
            "file with categories."
        )
    scored = detections.class_scores is not None
    known = {number: names[number] for number in sorted(names) if scored or number in detected}
    if not detected & set(names):
        raise WeightsError(
            f"{detections.file} detects categories {', '.join(map(str, sorted(detected)[:5]))}, and known are "
            f"{', '.join(map(str, list(names)[:5]))}; give a file with categories."
        )
    return known


def match(
    detections: Detections,
    source: Source,
    *,
    classes: Sequence[str],
    limit: int,
    whole: bool = True,
    ambiguous: Collection[str] = (),
) -> Matched:
    """The source with the detections on its pictures, which are matched by file name, or else by id.

    Those that the source has already, of another file, stay.

    Args:
      detections: of a file.
      source: any.
      classes: the teacher's, with those that the file detects.
      limit: most detections of a picture, of which those with the highest scores are kept.
      whole: whether the file has to have a picture of the source.
      ambiguous: file names without folders that several sources have, by which nothing is matched.

    Raises WeightsError where it has none and is to have one.
    """
    labels = {number: list(classes).index(name) for number, name in classes_of(detections, source).items()}
    known = np.isin(detections.category_ids, list(labels))
    index_of = _indices(detections, source.records, ambiguous)
    rows_of = _rows_by_image(detections.image_ids, np.flatnonzero(known))
    left_out = Counter({"of unknown categories": int((~known).sum())})
    class_scores = _in_classes(detections, source.classes)
    boxes: dict[int, TeacherBoxes] = {}
    scaled = 0
    for number in rows_of.keys() & index_of.keys():
        record = source.records[index_of[number]]
        size = (record.width, record.height)
        rows, clipped = _on_picture(detections, rows_of[number], size, detections.sizes.get(number, size), left_out)
        scaled += detections.sizes.get(number, size) != size
        left_out[f"beyond the {limit} best of a picture"] += max(len(rows) - limit, 0)
        of_rows = np.array([labels[category] for category in detections.category_ids[rows].tolist()], np.int32)
        best = rows[:limit]
        boxes[record.index] = TeacherBoxes(
            boxes=clipped[:limit],
            labels=of_rows[:limit],
            scores=detections.scores[best],
            class_scores=None if class_scores is None else class_scores[best],
        )
    if not boxes and whole:
        number = int(detections.image_ids[0])
        shared = " Names that two splits have tell nothing: a file without names is matched by id." if ambiguous else ""
        raise WeightsError(
            f"{detections.file} has no picture of the data: it has {detections.names.get(number, number)}, and the "
            f"data {source.records[0].file}; they are matched by file name, or by id where the file has no names."
            f"{shared}"
        )
    file = detections.file.name
    sentences = [f"{file}: detections {words}, left out: {count}." for words, count in left_out.items() if count]
    if scaled:
        pictures = phrases.counted(scaled, "picture")
        sentences.append(f"{file}: {pictures} of another size than the data's, whose boxes were scaled.")
    return Matched(_WithTeacherBoxes(source, boxes), frozenset(rows_of) & frozenset(index_of), tuple(sentences))


def unmatched(source: Source) -> Source:
    """The source with no detections beside those that it has, of a file that says nothing of its pictures."""
    return _WithTeacherBoxes(source, {})


def _in_classes(detections: Detections, classes: Sequence[str]) -> Float32[np.ndarray, "n k"] | None:
    """The scores of these classes, matched by name; UNSAID of a class that the file does not have."""
    if detections.class_scores is None:
        return None
    names = tuple(detections.categories.values()) or tuple(classes)
    if names == tuple(classes):
        return detections.class_scores
    out = np.full((len(detections.scores), len(classes)), UNSAID, np.float32)
    for label, name in enumerate(classes):
        columns = [column for column, other in enumerate(names) if other == name]
        if columns:  # several where the file has a name twice
            out[:, label] = detections.class_scores[:, columns].max(-1)
    return out


def _on_picture(
    detections: Detections,
    rows: Int[np.ndarray, "n"],
    size: tuple[int, int],
    own_size: tuple[int, int],
    left_out: Counter,
) -> tuple[Int[np.ndarray, "m"], Float32[np.ndarray, "m 4"]]:
    """The rows of one picture whose boxes are inside of it, best first, and these boxes.

    `size` is the width and height of the picture, `own_size` that which the program saw.
    """
    edges = np.array(size * 2, np.float32)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    clipped = np.clip(detections.boxes[rows] * (edges / np.array(own_size * 2, np.float32)), 0, edges)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(-1)
    left_out["outside of their picture"] += int((~inside).sum())
    return rows[inside], clipped[inside]


class _WithTeacherBoxes(Subset):
    """All pictures of a source, with the detections of some beside those that it has."""

    def __init__(self, source: Source, boxes: Mapping[int, TeacherBoxes]):
        super().__init__(source, range(len(source.records)))
        self.records: Sequence[Record] = tuple(
            dataclasses.replace(record, teacher_boxes=_joined(record.teacher_boxes, boxes.get(record.index, NO_BOXES)))
            for record in self.records
        )


def _joined(before: TeacherBoxes | None, more: TeacherBoxes) -> TeacherBoxes:
    """The detections of two files, best first."""
    if before is None:
        return more
    both = joined([before, more])
    return both.selected(np.argsort(-both.scores, kind="stable"))


def _indices(detections: Detections, records: Sequence[Record], ambiguous: Collection[str]) -> dict[int, int]:
    """The position of the record of each picture of the file that is one, by the picture's id in the file."""
    if not detections.names:
        return {record.image_id: record.index for record in records}
    by_file = {record.file: record.index for record in records if record.file not in ambiguous}
    counts = Counter(last_part(record.file) for record in records)
    by_last = {
        name: record.index
        for record in records
        if counts[name := last_part(record.file)] == 1 and name not in ambiguous
    }
    found = {number: by_file.get(name, by_last.get(last_part(name))) for number, name in detections.names.items()}
    return {number: index for number, index in found.items() if index is not None}


def last_part(file: str) -> str:
    """The last part of a path with either kind of slash."""
    return re.split(r"[/\\]", file)[-1]


def _rows_by_image(image_ids: Int64[np.ndarray, "n"], rows: Int[np.ndarray, "m"]) -> dict[int, Int[np.ndarray, "k"]]:
    """Those of the rows that belong to each picture, by its id."""
    if not len(rows):
        return {}
    rows = rows[np.argsort(image_ids[rows], kind="stable")]
    numbers, starts = np.unique(image_ids[rows], return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True))

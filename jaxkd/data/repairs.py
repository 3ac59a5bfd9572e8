"""Counts of what a source left out, repaired or guessed, each with a sentence and the first example."""

from collections.abc import Callable, Mapping

import numpy as np

from jaxkd.errors import DataError

# The text of each count, as in "boxes without an area, left out: 3".
MEANING = {
    "annotation_ids_repeated_or_zero": "annotation ids that occur again or are 0, numbered anew",
    "annotations_of_absent_pictures": "annotations of pictures that are not in the folder, left out",
    "annotations_of_unknown_pictures": "annotations of pictures that are not listed, left out",
    "boxes_beyond_max_objects": "boxes beyond max_objects on their picture, left out of training, the largest kept",
    "boxes_beyond_shares": "boxes with a number beyond 0 to 1, where shares of the picture belong, left out",
    "boxes_clipped": "boxes that leave their picture, clipped to it",
    "boxes_in_another_form": "boxes in another form than [x, y, width, height] in pixels, taken as what fits",
    "boxes_not_finite": "boxes with a number that is not finite, left out",
    "boxes_outside": "boxes outside their picture, left out",
    "boxes_repeated": "boxes that occur again on their picture, kept",
    "boxes_without_area": "boxes without an area, left out",
    "categories_that_only_group": "categories that are above others and have no object, taken for no class",
    "classes_not_wanted": "classes that are not listed in classes, left out",
    "classes_without_names": "classes that nothing names, called by their numbers",
    "exif_undecided": "pictures with an EXIF orientation that their size cannot confirm",
    "files_listed_again": "pictures listed again",
    "ids_as_numbers": "ids that are text, taken for the numbers that they are",
    "ids_numbered_anew": "picture ids that are no numbers, numbered by their place",
    "labels_missing": "pictures without a label file, taken for background",
    "labels_not_wanted": "objects of classes that are not listed in classes, left out",
    "labels_shared": "pictures whose label file is that of another picture too, which both take",
    "labels_unknown": "objects with a label that the data set does not name, left out",
    "labels_without_pictures": "label files without a picture, left out",
    "names_below_a_shared_folder": "file names whose first folder is the picture folder itself, taken without it",
    "names_in_another_form": "file names in another form of Unicode than on the disk, taken for those",
    "names_with_another_suffix": "pictures with another suffix than .jpg, taken",
    "names_with_backslashes": "file names with \\ between folders, taken for /",
    "objects_denied": "annotations with the confidence 0, which say that there is no such object, left out",
    "paths_elsewhere": "paths that are not there as they are written, found in a folder near by",
    "pictures_named_inside": "annotations whose picture has another name, taken by their <filename>",
    "pictures_unreadable": "pictures that cannot be read, left out",
    "pictures_unsupported": "pictures in a format that is not read, left out",
    "pictures_without_annotations": "pictures without an annotation file, left out",
    "pictures_without_rows": "pictures without a row in the annotations, left out",
    "polygons_to_boxes": "polygons and rotated boxes, taken as the upright boxes around them",
    "rows_repeated": "rows that occur again in their label file, left out",
    "sizes_exchanged": "pictures whose annotated width and height are exchanged, taken as they are",
    "sizes_missing": "pictures without an annotated size, taken from their files",
    "sizes_other": "pictures of another size than annotated, whose boxes are clipped to them",
    "sizes_scaled": "pictures scaled since they were annotated, whose boxes are scaled with them",
    "sizes_wrong": "pictures of another size than annotated that their boxes fit, taken as they are",
}


class Repairs(dict[str, int]):
    """Counts by the names in MEANING, without zeros, and an example of each; `title` names the source."""

    def __init__(self, title: str):
        super().__init__()
        self.title = title
        self.examples: dict[str, str] = {}

    @classmethod
    def like(cls, counts: Mapping[str, int], *, title: str) -> "Repairs":
        """`counts` itself where it is a Repairs; else a Repairs with these plain counts."""
        if isinstance(counts, cls):
            return counts
        repairs = cls(title)
        repairs.update(counts)
        return repairs

    def add(self, name: str, count: int = 1, *, example: str = "") -> None:
        """Adds to a count; the first example that is given is kept."""
        if count:
            self[name] = self.get(name, 0) + count
            if example:
                self.examples.setdefault(name, example)

    def add_faults(
        self, faults: dict[str, np.ndarray], *, file: object, strict: bool, example: Callable[[int], str]
    ) -> None:
        """Counts the True entries of every fault; `example` describes the entry at an index.

        Raises:
          DataError: in strict mode, for the first fault of `file` that is not zero.
        """
        for name, mask in faults.items():
            indices = np.flatnonzero(mask)
            if len(indices) and strict:
                raise DataError(
                    f"{file}: {MEANING[name].partition(',')[0]}: {len(indices)}, the first {example(int(indices[0]))}; "
                    "correct the file, or leave out strict."
                )
            if len(indices):
                self.add(name, len(indices), example=example(int(indices[0])))

    def sentences(self) -> list[str]:
        """A sentence for each count: "boxes without an area, left out: 3, the first annotation 17."."""
        return [self.sentence(name) for name in self]

    def left_out(self) -> str:
        """What was left out, in parentheses, for a message that nothing remains; "" where nothing was left out."""
        phrases = [self.sentence(name).removesuffix(".") for name in self if "left out" in MEANING.get(name, "")]
        return f" ({'; '.join(phrases)})" if phrases else ""

    def sentence(self, name: str) -> str:
        """The sentence of one count."""
        example = self.examples.get(name, "")
        return f"{MEANING.get(name, name)}: {self[name]}{example and f', the first {example}'}."

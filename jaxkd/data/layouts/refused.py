"""Layouts that are recognised and not read: each with the way out, as the end of a sentence."""

import re
from collections.abc import Callable, Sequence

from jaxkd.data.layouts.base import Tree, base, parent, split_of

SAMPLE = 20  # files of a suffix that are looked into
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
EXPORT = "export it as COCO or YOLO, and give that folder"


def reason(tree: Tree) -> str:
    """Why the content of a tree is not read, and what to do, as the end of a sentence; "" where nothing is known."""
    tests: Sequence[tuple[Callable[[Tree], bool], str]] = (
        (_is_labelme, f"holds LabelMe's annotations; {EXPORT}"),
        (_is_cvat, f"holds annotations of CVAT's own XML; in CVAT {EXPORT}"),
        (_is_label_studio, f"holds a task list of Label Studio; in Label Studio {EXPORT}"),
        (_is_segmentation, f"holds masks of Pascal VOC's segmentation and no boxes; {EXPORT}"),
        (_is_archive, "holds an archive and no annotated pictures; unpack it, and give the folder"),
        (
            _is_classification,
            "holds a folder of pictures for each class and no boxes; a detector needs boxes, so draw them, and export "
            "them as COCO or YOLO",
        ),
    )
    return next((words for test, words in tests if test(tree)), "")


def _heads(tree: Tree, suffix: str) -> list[bytes]:
    """The first bytes of some files with a suffix, or of the given file alone."""
    found = [tree.given] if tree.given else tree.with_suffix(suffix)
    return [tree.head(name).lstrip(b"\xef\xbb\xbf \t\r\n") for name in found[:SAMPLE] if name.lower().endswith(suffix)]


def _is_labelme(tree: Tree) -> bool:
    return any(b'"shapes"' in head and b'"imagePath"' in head for head in _heads(tree, ".json"))


def _is_cvat(tree: Tree) -> bool:
    return any(re.search(rb"<annotations>\s*<version>", head) for head in _heads(tree, ".xml"))


def _is_label_studio(tree: Tree) -> bool:
    return any(head[:1] == b"[" and b'"annotations"' in head and b'"result"' in head for head in _heads(tree, ".json"))


def _is_segmentation(tree: Tree) -> bool:
    return bool(tree.named("segmentationclass", "segmentationobject"))


def _is_archive(tree: Tree) -> bool:
    if tree.given:
        return tree.given.lower().endswith(ARCHIVES)
    return bool(tree.with_suffix(*ARCHIVES)) and not any(tree.pictures_in(folder) for folder in tree.folders)


def _is_classification(tree: Tree) -> bool:
    """Whether pictures lie in two or more sibling folders that are no splits, and nothing beside them annotates."""
    if tree.given or tree.with_suffix(".json", ".xml", ".csv", ".jsonl", ".parquet"):
        return False
    holders = [folder for folder in tree.folders if tree.pictures_in(folder)]
    classes = {base(folder) for folder in holders if folder and not split_of(base(folder)) and base(folder) != "images"}
    return len(classes) > 1 and len({parent(folder) for folder in holders if folder}) <= len(classes)

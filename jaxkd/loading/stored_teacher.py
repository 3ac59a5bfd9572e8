"""A teacher that is a file of detections, or several: it computes nothing, and says what the file says of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd import phrases
from jaxkd.data import detections_file, teacher_boxes
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.loading import build
from jaxkd.types import Batch, Detections, Traits

SUFFIX = ".json"


@dataclass(frozen=True)
class StoredDetections:
    """A `detectors.base.Teacher` whose detections are in the batch."""

    classes: tuple[str, ...]

    @property
    def traits(self) -> Traits:
        """It gives detections, and nothing else."""
        return Traits(self.classes, frozenset({"detections"}))

    def init(self, key: Any) -> Params:
        """It has no parameters."""
        del key
        return {}

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The detections of the file on the pictures of a batch."""
        del params
        assert batch.detections is not None, "the source has no detections"
        return batch.detections


def is_stored(loaded: build.Loaded) -> bool:
    """Whether a teacher is of this kind."""
    return isinstance(loaded.detector, StoredDetections)


def is_one(path: Path) -> bool:
    """Whether a path is that of a file of detections, which may be missing, or of a folder of such files alone."""
    return path.suffix.lower() == SUFFIX if not path.is_dir() else bool(files_of(path)) and not _holds_a_detector(path)


def files_of(path: Path) -> list[Path]:
    """The file, or those of a folder, sorted."""
    return sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]


def _holds_a_detector(folder: Path) -> bool:
    return any(build.file_of(folder, name).exists() for name in (build.ABOUT, build.WEIGHTS, build.RECIPE))


def load(path: Path, source: Source) -> build.Loaded:
    """The teacher of a file, or of several in a folder; classes that a file does not name are those of the source.

    Raises WeightsError where a file has no detections, or none of a known class.
    """
    stored = tuple(map(detections_file.read, files_of(path)))
    names = [name for one in stored for name in teacher_boxes.classes_of(one, source).values()]
    return build.Loaded(StoredDetections(tuple(dict.fromkeys(names))), {}, ConfigDict(), {}, {}, stored=stored)


def with_detections(
    loaded: build.Loaded, sources: dict[str, Source], *, limit: int
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The sources with the teacher's detections on their pictures, and sentences on what was matched.

    A file without names of pictures is about those of "train": ids may occur again in another split. Without a file of
    detections the sources stay as they are. Raises WeightsError where no training picture is in a file.
    """
    said: list[str] = []
    for stored in loaded.stored:
        sources = _with_file(stored, sources, classes=loaded.detector.classes, limit=limit, said=said)
    return sources, tuple(dict.fromkeys(said))


def _with_file(
    stored: detections_file.Detections,
    sources: dict[str, Source],
    *,
    classes: Sequence[str],
    limit: int,
    said: list[str],
) -> dict[str, Source]:
    """The sources with the detections of one file; sentences on what was matched are added to `said`."""
    last_parts = [{teacher_boxes.last_part(record.file) for record in source.records} for source in sources.values()]
    shared = set.intersection(*last_parts) if len(last_parts) > 1 and stored.names else set()
    matched = {
        name: teacher_boxes.match(stored, source, classes=classes, limit=limit, whole=name == "train", ambiguous=shared)
        for name, source in sources.items()
        if name == "train" or stored.names
    }
    file, images = stored.file.name, set(stored.image_ids.tolist())
    said += [*stored.sentences, *(sentence for one in matched.values() for sentence in one.sentences)]
    if shared:
        said.append(f"{file}: {phrases.counted(len(shared), 'name')} in two splits, passed over.")
    if strange := images.difference(*(one.images for one in matched.values())):
        said.append(f"{file}: {phrases.counted(len(strange), 'picture')} that the data does not have, passed over.")
    for name, one in matched.items():
        if without := len(one.source.records) - len(one.images):
            said.append(f"{file}: no detection on {phrases.counted(without, 'picture')} to {name}.")
    passed_over = {name: teacher_boxes.unmatched(source) for name, source in sources.items() if name not in matched}
    return passed_over | {name: one.source for name, one in matched.items()}


def covers(source: Source) -> bool:
    """Whether the file has detections on most pictures of a source, so that the teacher can be scored there."""
    known = [record.teacher_boxes is not None and len(record.teacher_boxes.boxes) > 0 for record in source.records]
    return 2 * sum(known) > len(known)

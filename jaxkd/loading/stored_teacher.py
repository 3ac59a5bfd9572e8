"""A teacher that is a file of detections: it computes nothing, and says what the file says of each picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd import phrases
from jaxkd.data import teacher_boxes
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.loading.build import Loaded
from jaxkd.types import Batch, Detections, Traits

SUFFIX = ".json"


@dataclass(frozen=True)
class StoredDetections:
    """A `detectors.base.Teacher` whose detections are in the batch."""

    classes: tuple[str, ...]

    @property
    def traits(self) -> Traits:
        """It gives detections, and nothing else."""
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"detections"}),
            strides=(),
            channels=(),
            backbone_strides=(),
            backbone_channels=(),
            box_weights=(),
            background=None,
        )

    def init(self, key: Any) -> Params:
        """It has no parameters."""
        del key
        return {}

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The detections of the file on the pictures of a batch."""
        del params
        assert batch.detections is not None, "the source has no detections"
        return batch.detections


def is_one(path: Path) -> bool:
    """Whether a path is that of a file of detections, which may be missing."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def load(path: Path, source: Source) -> Loaded:
    """The teacher of a file; classes that the file does not name are those of the source.

    Raises WeightsError where the file has no detections, or none of a known class.
    """
    stored = teacher_boxes.read(path)
    classes = tuple(teacher_boxes.classes_of(stored, source).values())
    return Loaded(StoredDetections(classes), {}, ConfigDict(), {}, {}, stored=stored)


def with_detections(
    loaded: Loaded, sources: dict[str, Source], *, limit: int
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """The sources with the teacher's detections on their pictures, and sentences on what was matched.

    A file without names of pictures is about those of "train": ids may occur again in another split. Without a file of
    detections the sources stay as they are. Raises WeightsError where no training picture is in the file.
    """
    if loaded.stored is None:
        return sources, ()
    last_parts = [{teacher_boxes.last_part(record.file) for record in source.records} for source in sources.values()]
    shared = set.intersection(*last_parts) if len(last_parts) > 1 and loaded.stored.names else set()
    matched = {
        name: teacher_boxes.match(loaded.stored, source, limit=limit, whole=name == "train", ambiguous=shared)
        for name, source in sources.items()
        if name == "train" or loaded.stored.names
    }
    said = [*loaded.stored.sentences, *(sentence for one in matched.values() for sentence in one.sentences)]
    if shared:
        said.append(f"{loaded.stored.file.name}: {phrases.counted(len(shared), 'name')} in two splits, passed over.")
    file, images = loaded.stored.file.name, set(loaded.stored.image_ids.tolist())
    if strange := images.difference(*(one.images for one in matched.values())):
        said.append(f"{file}: {phrases.counted(len(strange), 'picture')} that the data does not have, passed over.")
    for name, one in matched.items():
        if without := len(one.source.records) - len(one.images):
            said.append(f"{file}: no detection on {phrases.counted(without, 'picture')} to {name}.")
    return sources | {name: one.source for name, one in matched.items()}, tuple(dict.fromkeys(said))


def covers(source: Source) -> bool:
    """Whether the file has detections on most pictures of a source, so that the teacher can be scored there."""
    known = [record.teacher_boxes is not None and len(record.teacher_boxes.boxes) > 0 for record in source.records]
    return 2 * sum(known) > len(known)

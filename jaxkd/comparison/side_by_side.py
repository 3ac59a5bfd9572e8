"""Ground truth and the detections of several detectors on the same pictures, side by side in one picture file."""

from pathlib import Path

import numpy as np

from jaxkd import draw
from jaxkd.comparison.records import SCORE, Comparison
from jaxkd.data.base import Source

PICTURES = 4  # spread over the split


def write(file: Path, comparison: Comparison, source: Source) -> None:
    """Draws the ground truth and the detections with a score of at least SCORE of each detector of a comparison."""
    truth = source.annotations()
    columns = {"truth": draw.from_results(truth["annotations"], truth["categories"])}
    columns |= {
        detector.name: draw.from_results(detector.results, truth["categories"], least=SCORE)
        for detector in comparison.detectors
    }
    rows = []
    index_of = {record.image_id: record.index for record in source.records}  # pictures that were read have results
    indices = [index_of[image_id] for image_id in comparison.images]
    for position in np.linspace(0, len(indices) - 1, PICTURES + 2, dtype=int)[1:-1]:
        record, image = source.records[indices[position]], source.read(indices[position])
        rows.append([draw.boxes_on(image, boxes.get(record.image_id, []), names=False) for boxes in columns.values()])
    draw.table(rows, list(columns)).save(file)

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
    for index in np.linspace(0, len(source.records) - 1, PICTURES + 2, dtype=int)[1:-1]:
        record, image = source.records[index], source.read(int(index))
        rows.append([draw.boxes_on(image, boxes.get(record.image_id, []), names=False) for boxes in columns.values()])
    draw.table(rows, list(columns)).save(file)

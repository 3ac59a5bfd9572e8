"""`jaxkd explain --workdir=DIR IMAGE --out=DIR`: draws what a run's methods do on one picture of its data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError

COLUMNS = 8  # prototypes of a class that are drawn
TAUGHT, LEFT_ALONE = 3, 0  # colours of regions: green and red


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_path("workdir", "", "Folder of the taught run.", values=values)
    define_path("out", "explained", "Folder for the pictures.", values=values)


def run(argv: Sequence[str]) -> int:
    """A picture for each mask, map and gate of each method, and one of its prototypes."""
    values, names = parse("explain", argv, define, positional="IMAGE")
    if len(names) != 1:
        raise ConfigError("Name one picture of the run's data: jaxkd explain --workdir=DIR IMAGE --out=DIR.")
    from jaxkd.cli.workdir import open_run
    from jaxkd.train.reopen import reopen

    run_of = open_run(values.workdir)
    if run_of.recipe is None:
        raise ConfigError(f"{values.workdir} holds weights and no run; give the workdir of a taught run.")
    found = reopen(run_of.recipe, run_of.folder)
    split, index = _place(found.sources, names[0])
    source, out = found.sources[split], Path(values.out)
    image = source.read(index)
    regions, shown, scale = found.explain(split, index)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for method, parts in shown.items():
        for name, cells in parts.cells.items():
            stride = int(name.rpartition("_")[2]) / scale
            written.append((f"{method}_{name}", _heat(image, cells[0], stride)))
        for name, open_ in parts.regions.items():
            written.append((f"{method}_{name}", _gates(image, regions, open_[0], scale)))
    for name, memory in found.state.memory.items():
        written.append((f"{name}_prototypes", _prototypes(found.sources["train"], found.objects(name), memory)))
    for name, picture in written:
        picture.save(out / f"{name}.png")
    print(f"{', '.join(name for name, _ in written)} are drawn in {out}.")
    return 0


def _place(sources, name: str) -> tuple[str, int]:
    """The split and the index of a picture, by its file's name."""
    wanted = Path(name).name
    for split in ("val", "train"):
        for record in sources[split].records:
            if Path(record.file).name == wanted:
                return split, record.index
    raise ConfigError(f"No picture of the run's data is called {wanted}; masks and gates need its truth.")


def _heat(image: np.ndarray, cells: np.ndarray, stride: float):
    from jaxkd import draw

    return draw.heat_on(image, cells, stride=stride)


def _gates(image: np.ndarray, regions, open_: np.ndarray, scale: float):
    """Positive regions: green where the teacher teaches, red where it is not let to."""
    from jaxkd import draw

    boxes = []
    for place in np.flatnonzero(regions.positive[0]):
        x0, y0, x1, y1 = (float(side) / scale for side in regions.boxes[0, place])
        boxes.append(draw.Box((x0, y0, x1, y1), TAUGHT if open_[place] else LEFT_ALONE, ""))
    return draw.boxes_on(image, boxes, names=False)


def _prototypes(source, objects, memory):
    """A row of crops for each class, from the finest level."""
    from PIL import Image

    from jaxkd import draw

    numbers = np.asarray(memory.objects[0]).reshape(len(source.classes), -1)[:, :COLUMNS]
    rows = []
    for row in numbers:
        crops = []
        for number in row:
            crop = Image.new("RGB", (96, 96), "white")
            if number >= 0:
                x0, y0, x1, y1 = (round(float(side)) for side in objects.boxes[number])
                part = source.read(int(objects.pictures[number]))[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
                crop = Image.fromarray(part).resize((96, 96))
            crops.append(crop)
        rows.append(crops)
    return draw.table(rows, [""] * len(rows[0]))

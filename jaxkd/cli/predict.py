"""`jaxkd predict --workdir=DIR IMAGE... --out=DIR`: draws what a run's student finds, and writes it as COCO json."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd.cli.flags import parse
from jaxkd.errors import ConfigError, DataError


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=values)
    flags.DEFINE_string("out", "predictions", "Folder for the pictures and predictions.json.", flag_values=values)
    flags.DEFINE_float("score", 0.5, "Least score of a box that is drawn.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Pictures that cannot be read are named and left out; DataError only where none can."""
    values, names = parse("predict", argv, define, positional="IMAGE...")
    if not names:
        raise ConfigError("Name the pictures to look at: jaxkd predict --workdir=DIR IMAGE... --out=DIR.")
    from jaxkd import config as configs
    from jaxkd import draw
    from jaxkd.cli.workdir import open_run
    from jaxkd.data.files import FilesSource
    from jaxkd.train import look, mesh

    found = open_run(values.workdir)
    source = FilesSource([Path(name) for name in names], classes=found.student.detector.classes)
    for reason in source.failed.values():
        print(f"Left out: {reason}", file=sys.stderr)
    if not source.records:
        raise DataError(f"None of the {len(names)} pictures can be read.")
    feeding = configs.build(found.recipe.data.loader)
    results = look.results_on(found.student.detector, found.student.params, source, feeding, mesh.make_mesh(), batch=1)
    out = Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    truth = source.annotations()
    content = {"images": truth["images"], "categories": truth["categories"], "annotations": results}
    (out / "predictions.json").write_text(json.dumps(content) + "\n")
    boxes = draw.from_results(results, truth["categories"], least=values.score)
    for record in source.records:
        picture = draw.boxes_on(source.read(record.index), boxes.get(record.image_id, []))
        picture.save(out / f"{record.image_id:04d}_{Path(record.file).stem}.png")
    drawn = sum(map(len, boxes.values()))
    print(f"{drawn} boxes with a score of at least {values.score} on {len(source.records)} pictures, drawn in {out}.")
    return 0

"""`jaxkd evaluate --workdir=DIR`: scores a run's best student on the whole validation split."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd.cli.flags import parse


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=values)
    flags.DEFINE_integer("batch", 8, "Pictures at once.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints the twelve numbers, VOC's where it has a say, and each class; writes them to evaluation.json too."""
    values, _ = parse("evaluate", argv, define)
    from jaxkd import config as configs
    from jaxkd.cli.workdir import open_run
    from jaxkd.train import look, mesh, prepare

    found = open_run(values.workdir)
    source = prepare.load_source(found.recipe.data.val)
    feeding = configs.build(found.recipe.data.loader)
    student = found.student
    evaluation = look.score_on(student.detector, student.params, source, feeding, mesh.make_mesh(), batch=values.batch)
    scores, voc = evaluation.scores, evaluation.voc
    for name, value in evaluation.summary.items():
        print(f"{name:<6}{100 * value:6.1f}")
    for name, numbers in scores.per_class.items():
        more = f"  VOC AP {100 * voc.per_class[name]:5.1f}" if voc else ""
        print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}{more}")
    content = {"pictures": evaluation.pictures, "scores": evaluation.summary, "per_class": scores.per_class}
    content |= {"voc": dataclasses.asdict(voc)} if voc else {}
    (Path(values.workdir) / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    return 0

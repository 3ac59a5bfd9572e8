"""`jaxkd evaluate --workdir=DIR`: scores a run's best student on the whole validation split."""

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
    """Prints the twelve numbers and each class, and writes them to evaluation.json in the workdir."""
    values, _ = parse("evaluate", argv, define)
    from jaxkd import config as configs
    from jaxkd.cli.workdir import open_run
    from jaxkd.train import look, mesh, prepare

    found = open_run(values.workdir)
    source = prepare.load_source(found.recipe.data.val)
    feeding = configs.build(found.recipe.data.loader)
    student = found.student
    evaluation = look.score_on(student.detector, student.params, source, feeding, mesh.make_mesh(), batch=values.batch)
    scores = evaluation.scores
    for name, value in scores.summary.items():
        print(f"{name:<6}{100 * value:6.1f}")
    for name, numbers in scores.per_class.items():
        print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}")
    content = {"pictures": evaluation.pictures, "scores": scores.summary, "per_class": scores.per_class}
    (Path(values.workdir) / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    return 0

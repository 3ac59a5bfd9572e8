"""`jaxkd evaluate --workdir=DIR`: scores a run's best student, or weights alone, on a whole validation split."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd.cli.flags import optional_recipe, parse
from jaxkd.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """The flags beside --config, which names a recipe whose validation data is taken."""
    flags.DEFINE_string("workdir", "", "Folder of the run, or weights alone.", flag_values=values)
    flags.DEFINE_string("out", "", "JSON file; by default evaluation.json in the run's folder.", flag_values=values)
    flags.DEFINE_integer("batch", 8, "Pictures at once.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints the twelve numbers, VOC's where it has a say, and each class; writes them as JSON too."""
    wants_help = "--help" in argv or "-h" in argv
    named, rest = (None, list(argv)) if wants_help else optional_recipe(argv)
    values, _ = parse("evaluate", rest, define, with_recipe=True)
    from jaxkd import config as configs
    from jaxkd import json_values
    from jaxkd.cli.workdir import check_file, open_run
    from jaxkd.train import look, mesh, prepare

    found = open_run(values.workdir)
    recipe = found.recipe if named is None else named
    if recipe is None:
        raise ConfigError(f"{found.folder} holds weights and no run; name the data to score on with --config=RECIPE.")
    file = Path(values.out) if values.out else None if found.recipe is None else found.folder / "evaluation.json"
    if file is not None:
        check_file(file)
    source, student = prepare.load_source(recipe.data.val), found.student
    prepare.check_classes(source.classes, student.detector.classes, whose="the detector")
    feeding = prepare.own_sizes(student, configs.build(recipe.data.loader))
    evaluation = look.score_on(student.detector, student.params, source, feeding, mesh.make_mesh(), batch=values.batch)
    scores, voc = evaluation.scores, evaluation.voc
    for name, value in evaluation.summary.items():
        print(f"{name:<6}{100 * value:6.1f}")
    for name, numbers in scores.per_class.items():
        more = f"  VOC AP {100 * voc.per_class[name]:5.1f}" if voc else ""
        print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}{more}")
    content = {"data": recipe.data.val.to_dict(), "pictures": evaluation.pictures}
    content |= {"scores": evaluation.summary, "per_class": scores.per_class}
    content |= {"voc": voc} if voc else {}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{json_values.dumps(content, indent=2)}\n", encoding="utf-8")
    return 0

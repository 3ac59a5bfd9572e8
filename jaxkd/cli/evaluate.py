"""`jaxkd evaluate --workdir=DIR`: scores a run's best student, or weights alone, on a validation split."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jaxkd import config as configs
from jaxkd import json_values, storage
from jaxkd.cli.flags import choice, define_path, parse
from jaxkd.errors import ConfigError, DataError


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config, which names a recipe with other validation data."""
    define_path("workdir", "", "Folder of the run, or weights alone.", values=values)
    define_path("out", "", "JSON file; by default evaluation.json in the run's folder.", values=values)
    flags.DEFINE_integer("batch", 8, "Pictures at once.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints COCO's twelve numbers, VOC's where they apply, and each class; writes them as JSON too."""
    choices, rest = choice(argv)
    values, _ = parse("evaluate", rest, define, with_recipe=True)
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli.workdir import check_file, is_other, open_run
    from jaxkd.loading import prepare
    from jaxkd.train import evaluate, mesh

    opened = open_run(values.workdir)
    recipe = choices.recipe(opened.recipe)
    if recipe is None:
        raise ConfigError(f"{opened.folder} holds weights and no run; name the data to score on with --config=RECIPE.")
    file = Path(values.out) if values.out else None if opened.recipe is None else opened.folder / "evaluation.json"
    if file is not None:
        check_file(file)
    student = opened.student
    source = prepare.load_source(recipe.data.val, classes=student.detector.classes)
    if is_other(opened, source):
        print(f"Scored on other data than the run's own validation data: {_named(recipe.data.val)}.")
    loader_config = prepare.with_training_sizes(student, configs.build(recipe.data.loader))
    evaluation = evaluate.evaluate_source(
        student.detector, student.params, source, loader_config, mesh.make_mesh(), batch=values.batch
    )
    if math.isnan(evaluation.summary["AP"]):
        raise DataError(f"There is no object on the {evaluation.pictures} pictures, so there is nothing to score.")
    scores, voc = evaluation.scores, evaluation.voc
    for name, value in evaluation.summary.items():
        print(f"{name:<6}{100 * value:6.1f}")
    for name, numbers in scores.per_class.items():
        voc_text = f"  VOC AP {100 * voc.per_class[name]:5.1f}" if voc else ""
        print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}{voc_text}")
    content = {"data": recipe.data.val.to_dict(), "pictures": evaluation.pictures}
    content |= {"scores": evaluation.summary, "per_class": scores.per_class}
    content |= {"voc": voc} if voc else {}
    if file is not None:
        storage.write(file, f"{json_values.dumps(content, indent=2)}\n")
    return 0


def _named(source: Any) -> str:
    """The component of a source and its paths, as text."""
    paths = ", ".join(f"{field}={source[field]}" for field in sorted(configs.path_fields(source.name)) if source[field])
    return f"{source.name} with {paths}" if paths else source.name

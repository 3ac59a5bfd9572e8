"""`jaxkd inspect data --config=FILE[:ARG] --out=DIR`: counts and shows the data of a recipe."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd import config as configs
from jaxkd.cli.flags import define_path, parse, recipe
from jaxkd.errors import ConfigError

WHAT = "data"  # the only thing to inspect so far


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config."""
    define_path("out", "inspected", "Folder for index.html and data_report.json.", values=values)
    flags.DEFINE_integer("pictures", 12, "Pictures of each source to open.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints the numbers and writes the page; returns 0 where training could begin, else raises training's error."""
    if "--help" in argv or "-h" in argv:
        parse("inspect", ["--help"], define, positional=WHAT, with_recipe=True)
    if argv and not argv[0].startswith("-") and argv[0] != WHAT:
        raise ConfigError(f"jaxkd inspect does not know '{argv[0]}'; say jaxkd inspect {WHAT} --config=FILE[:ARG].")
    if not argv or argv[0] != WHAT:
        raise ConfigError(f"Say what to inspect: jaxkd inspect {WHAT} --config=FILE[:ARG].")
    config, rest = recipe(argv[1:])
    values, _ = parse(f"inspect {WHAT}", rest, define)
    return _data(config, Path(values.out), limit=values.pictures)


def _data(config: configs.Recipe, out: Path, *, limit: int) -> int:
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli import data_page
    from jaxkd.data import loader, survey
    from jaxkd.derive import remarks as settings
    from jaxkd.loading import prepare

    sources = prepare.load_sources(config.data, warn=False)  # the remarks say it
    loader_config: loader.Config = configs.build(config.data.loader)
    # Raise what training would raise.
    loader.train_batches(sources["train"], loader_config, seed=0, steps=1, batch=1).close()
    loader.eval_batches(sources["val"], loader_config, batch=1).close()
    splits = {
        "train": survey.count(sources["train"], loader_config, short=max(loader_config.short)),
        "val": survey.count(sources["val"], loader_config, short=loader_config.short[0]),
    }
    shared = survey.overlap(sources["train"], sources["val"], limit=limit)
    samples = {name: survey.sample(source, limit=limit) for name, source in sources.items()}
    remarks = (
        *survey.remarks(splits, shared, samples, loader_config),
        *settings.remarks(sources["train"], config),
    )
    report = data_page.Report(splits=splits, shared=shared, samples=samples, remarks=remarks)
    data_page.show(report)
    data_page.write(out, report, sources)
    print(f"index.html and data_report.json are in {out}.")
    survey.refuse_unreadable(samples)
    return 0

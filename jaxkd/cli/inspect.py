"""`jaxkd inspect data FOLDER` or `--config=FILE[:ARG]`, with --out=DIR: counts and shows data before training on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.cli.flags import choice, define_path, parse
from jaxkd.errors import ConfigError

if TYPE_CHECKING:
    from jaxkd.data.base import Source
    from jaxkd.derive.recipes import Derived

WHAT = "data"  # the only thing to inspect so far
_OF_TEACHING = ("distill", "teacher")
USAGE = f"jaxkd inspect {WHAT} FOLDER, or jaxkd inspect {WHAT} --config=FILE[:ARG]"


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config."""
    define_path("out", "inspected", "Folder for index.html and data_report.json.", values=values)
    flags.DEFINE_integer("pictures", 12, "Pictures of each source to open.", flag_values=values, lower_bound=1)
    flags.DEFINE_string("format", "", "Format of the data, where there are several.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Prints the numbers and writes the page; returns 0 where training could begin, else raises training's error."""
    if "--help" in argv or "-h" in argv:
        parse("inspect", ["--help"], define, positional=f"{WHAT} [FOLDER]", with_recipe=True)
    if argv and not argv[0].startswith("-") and argv[0] != WHAT:
        raise ConfigError(f"jaxkd inspect does not know '{argv[0]}'; say {USAGE}.")
    if not argv or argv[0] != WHAT:
        raise ConfigError(f"Say what to inspect: {USAGE}.")
    choices, rest = choice(argv[1:])
    values, folders = parse(f"inspect {WHAT}", rest, define, positional="[FOLDER]")
    recipe = choices.recipe()
    if len(folders) + (recipe is not None) != 1:
        raise ConfigError(f"Name one folder or one recipe: {USAGE}.")
    if recipe is not None and values.format:
        raise ConfigError("--format is for a folder; a recipe says itself what its data is.")
    data = recipe.data if recipe is not None else _recognised(Path(folders[0]), values.format)
    return _data(data, recipe, Path(values.out), limit=values.pictures)


def _recognised(path: Path, format: str) -> configs.Recipe:
    """The data of a recipe with the recognised sources of a folder, after saying what they are."""
    # Imported late: --help and wrong flags do not need them.
    from ml_collections import ConfigDict

    from jaxkd.data import recognise

    dataset = recognise.recognise(path, format=format)
    print(f"{path} is {recognise.TITLES[dataset.format]} data with {phrases.listed(list(dataset.splits))}.")
    for sentence in dataset.assumptions:
        print(f"- {sentence}")
    return ConfigDict({name: source for name, source in dataset.splits.items() if name in ("train", "val")})


def _derived(data: configs.Recipe, sources: "Mapping[str, Source]") -> "Derived":
    """The recipes that `jaxkd distill` would derive from a folder's sources."""
    from jaxkd import distillation  # late, as below
    from jaxkd.derive import recipes

    val = "val" if "val" in sources else "train"
    components = {"train": data["train"], "val": data[val]}
    options = distillation.options("", {}).settings
    return recipes.derive(sources["train"], sources[val], data=components, options=options)


def _data(data: configs.Recipe, recipe: configs.Recipe | None, out: Path, *, limit: int) -> int:
    """Counts and shows the sources "train" and, where there is one, "val" of a recipe's data, or of a folder's."""
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli import data_page
    from jaxkd.data import loader, survey
    from jaxkd.derive import remarks as settings
    from jaxkd.derive import screen
    from jaxkd.loading import prepare

    sources = prepare.load_sources(data, warn=False)  # the remarks say it
    derived = _derived(data, sources) if recipe is None else None
    of_loader = derived.recipes["alone"].data.loader if derived else data.loader
    loader_config: loader.Config = configs.build(of_loader)
    # Raise what training would raise.
    loader.train_batches(sources["train"], loader_config, seed=0, steps=1, batch=1).close()
    splits = {"train": survey.count(sources["train"], loader_config, short=max(loader_config.short))}
    shared = survey.NO_OVERLAP
    if "val" in sources:
        loader.eval_batches(sources["val"], loader_config, batch=1).close()
        splits["val"] = survey.count(sources["val"], loader_config, short=loader_config.short[0])
        shared = survey.overlap(sources["train"], sources["val"], limit=limit)
    samples = {name: survey.sample(source, limit=limit) for name, source in sources.items()}
    remarks = survey.remarks(splits, shared, samples, loader_config)
    if recipe is not None:
        remarks = (*remarks, *settings.remarks(sources["train"], recipe))
    report = data_page.Report(splits=splits, shared=shared, samples=samples, remarks=remarks)
    data_page.show(report)
    if derived:
        print("jaxkd distill would take these settings; the table is for these sizes:")
        for line in screen.lines([reason for reason in derived.reasons if reason.setting not in _OF_TEACHING]):
            print(line)
    data_page.write(out, report, sources)
    print(f"index.html and data_report.json are in {out}.")
    survey.refuse_unreadable(samples)
    return 0

"""`jaxkd explain --workdir=DIR PICTURE --out=DIR`: draws what a run's methods do on one picture of its data."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import words
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError

if TYPE_CHECKING:
    from jaxkd.data.base import Source

SHEET = "explained.png"  # what shows everything
SPLITS = ("val", "train")  # in the order in which a picture is looked for
NEAR = 3  # names that are offered in place of one that does not exist


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_path("workdir", "", "Folder of the taught run.", values=values)
    define_path("out", "explained", "Folder for the pictures.", values=values)
    flags.DEFINE_enum("split", "", ["", *SPLITS], "Where the picture is; either if empty.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """One sheet with each mask, map and gate of each method and its prototypes, and a picture of each of them."""
    values, names = parse("explain", argv, define, positional="PICTURE")
    if len(names) != 1:
        raise ConfigError("Name one picture of the run's data: jaxkd explain --workdir=DIR PICTURE --out=DIR.")
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd import letters
    from jaxkd.cli import method_panels, sheet
    from jaxkd.cli.workdir import check_folder, open_run
    from jaxkd.train.finished_run import open_finished

    run_of, out = open_run(values.workdir), Path(values.out)
    if run_of.recipe is None:
        raise ConfigError(f"{values.workdir} holds weights and no run; give the workdir of a taught run.")
    found = open_finished(run_of.recipe, run_of.folder)
    splits = (values.split,) if values.split else SPLITS
    split, index = _place({split: found.sources[split] for split in splits}, names[0])
    check_folder(out)
    parts = method_panels.parts(found, split, index)
    out.mkdir(parents=True, exist_ok=True)
    file = found.sources[split].records[index].file
    title = f"What the methods of the run '{run_of.folder.name}' do on {file} ({split})"
    sheet.compose(title, parts).save(out / SHEET)
    panels = [panel for part in parts for panel in part.panels]
    for panel in panels:
        sheet.single(panel).save(out / f"{panel.name}.png")
    for part in parts:
        for note in part.notes:
            print(f"{part.heading}: {note}")
    if said := letters.legend(found.sources[split].classes):
        print(said)
    print(f"{out / SHEET} shows everything; single pictures beside it: {', '.join(panel.name for panel in panels)}.")
    return 0


def _place(sources: "Mapping[str, Source]", name: str) -> tuple[str, int]:
    """The split and the index of the picture whose file's path ends as `name` does, or whose file is called so.

    Says where several are, of which the first is taken. Raises ConfigError where there is none.
    """
    wanted = PurePath(name).parts
    found: list[tuple[int, str, int, str]] = []
    for split, source in sources.items():
        for record in source.records:
            if alike := _alike(PurePath(record.file).parts, wanted):
                found.append((alike, split, record.index, record.file))
    if not found:
        called = PurePath(name).name or repr(name)
        raise ConfigError(f"No picture of {words.listed(list(sources))} is called {called}{_near(sources, name)}.")
    best = max(alike for alike, *_ in found)
    found = [one for one in found if one[0] == best]
    _, split, index, file = found[0]
    if len(found) > 1:
        others = words.some([f"{other} of {where}" for _, where, _, other in found[1:]])
        remedy = "--split=" + found[1][1] if found[1][1] != split else "more of the path"
        print(f"{file} of {split} is drawn; the name fits {others} too (give {remedy} for another).")
    return split, index


def _alike(parts: Sequence[str], wanted: Sequence[str]) -> int:
    """In how many parts two paths are the same from their ends on."""
    pairs = zip(reversed(parts), reversed(wanted), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(wanted)))


def _near(sources: "Mapping[str, Source]", name: str) -> str:
    """The names that are nearest to one, or those of the first pictures, as the end of a sentence."""
    names = list(dict.fromkeys(PurePath(record.file).name for source in sources.values() for record in source.records))
    near = difflib.get_close_matches(PurePath(name).name, names, n=NEAR)
    return f"; near it are {words.listed(near)}" if near else f"; the first are {words.listed(names[:NEAR])}"

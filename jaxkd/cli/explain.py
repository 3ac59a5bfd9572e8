"""`jaxkd explain --workdir=DIR PICTURE --out=DIR`: draws what a run's methods do on one picture of its data."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import phrases
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError

if TYPE_CHECKING:
    from jaxkd.data.base import Source

SHEET = "explained.png"  # all panels
SPLITS = ("val", "train")  # in the order in which they are searched
NEAR = 3  # suggestions for a name that does not exist


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("workdir", "", "Folder of the taught run.", values=values)
    define_path("out", "explained", "Folder for the pictures.", values=values)
    flags.DEFINE_enum("split", "", ["", *SPLITS], "Where the picture is; either if empty.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Writes one sheet with the masks, gates and prototypes of each method, and a picture of each panel."""
    values, names = parse("explain", argv, define, positional="PICTURE")
    if len(names) != 1:
        raise ConfigError("Name one picture of the run's data: jaxkd explain --workdir=DIR PICTURE --out=DIR.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd import fonts
    from jaxkd.cli import explain_panels, explain_sheet
    from jaxkd.cli.workdir import check_folder, open_run
    from jaxkd.train.finished_run import open_finished

    opened, out = open_run(values.workdir), Path(values.out)
    if opened.recipe is None:
        raise ConfigError(f"{values.workdir} holds weights and no run; give the workdir of a taught run.")
    finished = open_finished(opened.recipe, opened.folder)
    splits = (values.split,) if values.split else SPLITS
    split, index = _find_picture({split: finished.sources[split] for split in splits}, names[0])
    check_folder(out)
    parts = explain_panels.parts(finished, split, index)
    out.mkdir(parents=True, exist_ok=True)
    file = finished.sources[split].records[index].file
    title = f"What the methods of the run '{opened.folder.name}' do on {file} ({split})"
    explain_sheet.compose(title, parts).save(out / SHEET)
    panels = [panel for part in parts for panel in part.panels]
    for panel in panels:
        explain_sheet.single(panel).save(out / f"{panel.name}.png")
    for part in parts:
        for note in part.notes:
            print(f"{part.heading}: {note}")
    if legend := fonts.legend(finished.sources[split].classes):
        print(legend)
    print(f"{out / SHEET} shows everything; single pictures beside it: {', '.join(panel.name for panel in panels)}.")
    return 0


def _find_picture(sources: "Mapping[str, Source]", name: str) -> tuple[str, int]:
    """The split and the index of the picture whose path ends with `name`, or else shares most of its last parts.

    Of several the first is taken, with a printed note. Raises ConfigError where there is none.
    """
    wanted = PurePath(name).parts
    matches: list[tuple[int, str, int, str]] = []
    for split, source in sources.items():
        for record in source.records:
            if length := _common_suffix(PurePath(record.file).parts, wanted):
                matches.append((length, split, record.index, record.file))
    if not matches:
        file_name = PurePath(name).name or repr(name)
        raise ConfigError(f"No picture of {phrases.listed(list(sources))} is called {file_name}{_near(sources, name)}.")
    best = max(length for length, *_ in matches)
    matches = [match for match in matches if match[0] == best]
    _, split, index, file = matches[0]
    if len(matches) > 1:
        other_names = phrases.some([f"{other} of {other_split}" for _, other_split, _, other in matches[1:]])
        remedy = "--split=" + matches[1][1] if matches[1][1] != split else "more of the path"
        print(f"{file} of {split} is drawn; the name fits {other_names} too (give {remedy} for another).")
    return split, index


def _common_suffix(parts: Sequence[str], wanted: Sequence[str]) -> int:
    """The number of equal parts of two paths, counted from their ends."""
    pairs = zip(reversed(parts), reversed(wanted), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(wanted)))


def _near(sources: "Mapping[str, Source]", name: str) -> str:
    """The nearest file names, or those of the first pictures, as the end of a sentence."""
    names = list(dict.fromkeys(PurePath(record.file).name for source in sources.values() for record in source.records))
    near = difflib.get_close_matches(PurePath(name).name, names, n=NEAR)
    return f"; near it are {phrases.listed(near)}" if near else f"; the first are {phrases.listed(names[:NEAR])}"

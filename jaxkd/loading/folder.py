"""The data of a folder of annotated pictures: recognised, divided where they have no validation split, and loaded."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.data import loader, near_duplicates, recognise, split, survey
from jaxkd.data.base import Source
from jaxkd.errors import DataError
from jaxkd.loading import prepare

SAMPLED = 8  # pictures of each split that are opened
FEW = 10  # objects of a class, below which it is hardly learned
COMPARED = 1000  # pictures up to which those to validate on are compared with those to learn from


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a folder, recognised and loaded."""

    format: str
    components: Mapping[str, configs.Recipe]  # "train" and "val", and "test" where there is one
    sources: Mapping[str, Source]  # "train" and "val", and "test" where there is one with objects
    sentences: tuple[str, ...]  # what was assumed, passed over or decided
    divided: bool  # whether the validation split was made here


def load(
    folder: str,
    *,
    format: str = "",
    val: str = "",
    classes: Sequence[str] = (),
    seed: int = 0,
    split_file: Path,
) -> Data:
    """The data of a folder; where it has no validation split, one is made with this seed and kept in `split_file`.

    Args:
      folder: of annotated pictures.
      format: one of `recognise.FORMATS`, or "" for the one that is found.
      val: another folder, whose validation pictures are taken, or else its only split.
      classes: names of those whose objects are taken, in the order of their labels; () for all.
      seed: decides a split that is made.
      split_file: where such a split is kept, and read from where it exists.

    Raises DataError where no layout is recognised, or the data cannot be trained on; ConfigError for a class that the
    data does not have.
    """
    found = recognise.recognise(Path(os.path.abspath(folder)), format=format)
    components, sentences = dict(found.splits), list(found.assumptions)
    if val:
        other = recognise.recognise(Path(os.path.abspath(val)), format=format)
        components["val"] = other.splits.get("val") or other.splits["train"]
        sentences += [f"{val}: {sentence}" for sentence in other.assumptions]
    if classes:
        components = {name: _chosen(one, classes, split=name) for name, one in components.items()}
    divided, loaded = "val" not in components, {}
    if divided:
        whole = loaded["all"] = prepare.load_source(components["train"], warn=False)
        division = split.load_or_plan(split_file, whole, seed=seed)
        sentences += division.sentences()
        sources: dict[str, Source] = {part: split.part_of(whole, division, part=part) for part in split.PARTS}
        where = {"source": components["train"], "file": str(split_file.absolute())}
        components |= {part: configs.component("data.split", **where, part=part) for part in split.PARTS}
    else:
        sources = prepare.load_sources({name: components[name] for name in ("train", "val")}, warn=False)
        loaded |= sources
    if "test" in components:
        test = prepare.load_source(
            components["test"], classes=sources["train"].classes, whose="the training data", split="test", warn=False
        )
        if _has_objects(test):
            sources["test"] = loaded["test"] = test
        else:
            sentences.append("The test split has no object, so nothing is compared on it.")
    if not _has_objects(sources["val"]):
        which = f" of the classes {phrases.some(classes)}" if classes else ""
        pictures = phrases.counted(len(sources["val"].records), "validation picture")
        raise DataError(f"None of {pictures} has an object{which}, so nothing can be scored; give others by --val.")
    for name, source in loaded.items():
        sentences += [f"{name}: {sentence}" for sentence in source.repairs.sentences()]
    survey.refuse_unreadable({name: survey.sample(source, limit=SAMPLED) for name, source in sources.items()})
    return Data(found.format, components, sources, tuple(sentences), divided)


def _chosen(component: configs.Recipe, classes: Sequence[str], *, split: str) -> configs.Recipe:
    """A source with these classes alone; all but the training split may lack some of them."""
    absent = "refuse" if split == "train" else "leave_out"
    return configs.component("data.only", source=component, classes=tuple(classes), absent=absent)


def _has_objects(source: Source) -> bool:
    return any((~record.crowd).any() for record in source.records)


def remarks(data: Data, loader_config: loader.Config) -> tuple[str, ...]:
    """What to consider before training with this loader, one sentence each."""
    train, val = (data.sources[name] for name in ("train", "val"))
    splits = {
        name: dataclasses.replace(survey.count(source, loader_config, short=loader_config.short[0]), repaired=())
        for name, source in (("train", train), ("val", val))
    }
    samples = {name: survey.sample(data.sources[name], limit=SAMPLED) for name in splits}
    found = list(survey.remarks(splits, survey.NO_OVERLAP, samples, loader_config))
    few = {name: counts.objects for name, counts in splits["train"].classes.items() if 0 < counts.objects < FEW}
    if few:
        listed = phrases.some([f"{name} ({number})" for name, number in few.items()])
        found.append(f"Classes with fewer than {FEW} objects to learn from: {listed}.")
    if not data.divided and len(train.records) + len(val.records) <= COMPARED:
        found += filter(None, [near_duplicates.remark(near_duplicates.near_copies(train, val))])
    return tuple(found)

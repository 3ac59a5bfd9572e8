"""Groups of pictures that belong in one part of a split: copies, near-duplicates, frames of one scene, sequences."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from jaxkd.data import near_duplicates
from jaxkd.data.near_duplicates import Thumbnails

SAME_SCENE = 0.6  # correlation of two neighbours' thumbnails from which on they are frames of one scene


def groups(files: Sequence[str], rows: Thumbnails) -> tuple[Int64[np.ndarray, "n"], dict[str, int]]:
    """The group of each picture, named by its smallest index, and how many pictures each reason ties to another.

    The reasons: a picture that is listed again; augmented copies by their names; near-duplicates; neighbouring frames
    of one scene; and folders that hold a sequence each.
    """
    reasons = {
        "listings of one file": _equal(files),
        "augmented copies": _equal(near_duplicates.original_name(file) for file in files),
        "near-duplicates": np.stack([near_duplicates.groups(rows), np.arange(len(rows))], -1),
        "frames of a scene": frames(files, rows),
        "pictures of a sequence": sequences(files, rows),
    }
    labels, tied = np.arange(len(files)), {}
    for reason, links in reasons.items():
        sizes = np.bincount(near_duplicates.connected(np.arange(len(files)), links))
        if count := int(sizes[sizes > 1].sum()):
            tied[reason] = count
        labels = near_duplicates.connected(labels, links)
    return labels, tied


def frames(files: Sequence[str], rows: Thumbnails) -> Int64[np.ndarray, "m 2"]:
    """Links between neighbours that look like one scene, where most neighbours of their numbered names do.

    Names alone do not tell: photographs are numbered too.
    """
    links = []
    for neighbours in _neighbours(files).values():
        correlations = _correlations(neighbours, rows)
        if np.median(correlations) >= SAME_SCENE:
            links += neighbours[correlations >= SAME_SCENE].tolist()
    return np.array(links, np.int64).reshape(-1, 2)


def sequences(files: Sequence[str], rows: Thumbnails) -> Int64[np.ndarray, "m 2"]:
    """Links between all pictures of each folder, where there are several and most of them hold frames of a scene."""
    folders = [file.rpartition("/")[0] for file in files]
    neighbours = defaultdict(list)
    for (folder, _), links in _neighbours(files).items():
        neighbours[folder].append(links)
    votes = [
        float(np.median(_correlations(np.concatenate(links), rows))) >= SAME_SCENE for links in neighbours.values()
    ]
    if len(set(folders)) < 2 or 2 * sum(votes) <= len(votes):
        return np.zeros((0, 2), np.int64)
    return _equal(f"{folder}/" for folder in folders)


def numbered(file: str) -> tuple[str, str, int]:
    """Folder, stem and number of a name such as "a/frame_012.jpg"; -1 for a name without a number at its end."""
    folder, _, stem = near_duplicates.plain_stem(file).rpartition("/")
    match = re.fullmatch("(.*?)([0-9]{1,18})", stem, re.DOTALL)
    return (folder, match[1], int(match[2])) if match else (folder, stem, -1)


def _neighbours(files: Sequence[str]) -> Mapping[tuple[str, str], np.ndarray]:
    """By folder and stem the indices [m 2] of pictures with successive numbers; of one number the first picture."""
    numbers: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for index, file in enumerate(files):
        folder, stem, number = numbered(file)
        if number >= 0:
            numbers[folder, stem].setdefault(number, index)
    in_order = {key: [index for _, index in sorted(of.items())] for key, of in numbers.items() if len(of) > 1}
    return {key: np.stack([indices[:-1], indices[1:]], -1) for key, indices in in_order.items()}


def _correlations(neighbours: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (rows[neighbours[:, 0]] * rows[neighbours[:, 1]]).sum(-1)


def _equal(keys: Iterable[Hashable]) -> np.ndarray:
    """Links [m 2] from the first picture with a key to the others; an empty key ties nothing."""

    def links() -> Iterator[tuple[int, int]]:
        first: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key:
                yield first.setdefault(key, index), index

    return np.array(list(links()), np.int64).reshape(-1, 2)

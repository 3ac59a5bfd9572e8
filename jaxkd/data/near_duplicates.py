"""Pictures that show the same: near-duplicates by their thumbnails, and augmented copies by their names."""

import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from jaxkd.data.base import PictureError, Source, Stored

SIDE = 16  # pixels of a thumbnail's sides
THRESHOLD = 0.98  # correlation of two thumbnails above which their pictures are near-duplicates
REDUCED_SIDE = 8 * SIDE  # pixels of a JPEG's short side from which on it is decoded at an eighth of its size
FLAT = 1.0  # of 255; a thumbnail with a smaller standard deviation shows nothing that could be compared
WAVES = 16  # amounts of them tell most thumbnails apart
ROUNDING = 1e-3  # of distances between thumbnails in float32
ROWS, COLUMNS = 1024, 8192  # thumbnails that are compared at once
JPEG = b"\xff\xd8"  # first bytes of such a file
Thumbnails = Float32[np.ndarray, "n 256"]


def thumbnail(image: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "256"]:
    """A picture, RGB or grey, as 16 x 16 grey values of mean 0 and length 1; zeros for a flat one.

    The inner product of two thumbnails is the correlation of their values.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / np.linalg.norm(small) if small.std() >= FLAT else np.zeros_like(small)


def thumbnails(source: Source, *, threads: int = 4) -> Thumbnails:
    """The thumbnails of all pictures of a source; zeros, which are like nothing, for those that cannot be read."""

    def of(index: int) -> np.ndarray:
        try:
            grey = _reduced(source.content(index)) if isinstance(source, Stored) else None
            return thumbnail(source.read(index) if grey is None else grey)
        except PictureError:
            return np.zeros(SIDE * SIDE, np.float32)

    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(of, range(len(source.records))))
    return np.array(rows, np.float32).reshape(-1, SIDE * SIDE)


def groups(rows: Thumbnails, *, threshold: float = THRESHOLD) -> Int64[np.ndarray, "n"]:
    """The group of each thumbnail, named by its smallest index: all that a chain of near-duplicates connects."""
    labels = np.arange(len(rows))
    for alike in _alike(rows, rows, threshold=threshold):
        labels = connected(labels, alike)
    return labels


def connected(labels: Int64[np.ndarray, "n"], links: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "n"]:
    """The groups with those united that a link connects; each is named by its smallest index."""
    while True:
        ends = labels[links]
        ends = ends[ends[:, 0] != ends[:, 1]]
        if not len(ends):
            return labels
        smallest = labels.copy()
        np.minimum.at(smallest, ends.max(-1), ends.min(-1))
        while np.any(smallest != smallest[smallest]):
            smallest = smallest[smallest]
        labels = smallest[labels]


def like_any(
    rows: Thumbnails, others: Float32[np.ndarray, "m 256"], *, threshold: float = THRESHOLD
) -> Bool[np.ndarray, "n"]:
    """Which thumbnails have a near-duplicate among the others."""
    found = np.zeros(len(rows), bool)
    for alike in _alike(rows, others, threshold=threshold):
        found[alike[:, 0]] = True
    return found


def original_name(file: str) -> str:
    """The name that Roboflow's augmented copies of one picture have in common; "" for any other file.

    "train/a_jpg.rf.0f3c.jpg" is a copy of "a_jpg"; copies may lie in different folders.
    """
    before, mark, _ = file.rpartition("/")[2].rpartition(".rf.")
    return before if mark else ""


def plain_stem(file: str) -> str:
    """A file without its suffix and what Roboflow adds: "a/frame_12" for "a/frame_12_jpg.rf.0f.jpg"."""
    folder, slash, name = file.rpartition("/")
    if original := original_name(file):
        stem = re.sub(r"_(jpe?g|png|bmp|webp|tiff?)$", "", original, flags=re.IGNORECASE)
    else:
        stem = name.rpartition(".")[0] or name
    return f"{folder}{slash}{stem}"


def near_copies(train: Source, val: Source) -> list[int]:
    """The indices of the pictures of `val` that are near-duplicates or augmented copies of one in `train`.

    All pictures of both are read, from JPEG files at an eighth of their size.
    """
    names = {original_name(record.file) for record in train.records} - {""}
    named = [original_name(record.file) in names for record in val.records]
    return np.flatnonzero(like_any(thumbnails(val), thumbnails(train)) | np.array(named, bool)).tolist()


def remark(copies: Sequence[int], *, name: str = "val") -> str:
    """The sentence on the near copies of training pictures in the split `name`; "" where there is none."""
    if not copies:
        return ""
    verb = "is a near copy" if len(copies) == 1 else "are near copies"
    return f"{len(copies)} of {name} {verb} of pictures of train; its scores will be too good."


def _reduced(content: bytes) -> np.ndarray | None:
    """The grey picture of a JPEG file at an eighth of its size; None for a small one and for any other file."""
    if not content.startswith(JPEG):
        return None
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    grey = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    return grey if grey is not None and 8 * min(grey.shape) >= REDUCED_SIDE else None


def _waves() -> np.ndarray:
    """The slowest waves of the cosine transform of a thumbnail, orthonormal: [256 16], the vertical one first."""
    order = sorted(itertools.product(range(5), repeat=2), key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair[1]))
    along = np.cos(np.pi * np.arange(5)[:, None] * (np.arange(SIDE) + 0.5) / SIDE)
    waves = [np.outer(along[down], along[across]).ravel() for down, across in order[1 : WAVES + 1]]
    return np.stack([wave / np.linalg.norm(wave) for wave in waves], -1).astype(np.float32)


def _alike(rows: np.ndarray, others: np.ndarray, *, threshold: float) -> Iterator[np.ndarray]:
    """The indices [m 2] of all rows and others that correlate above the threshold, in portions.

    Exact for any number of pictures: two thumbnails of correlation r are sqrt(2 - 2 r) apart, and no farther along any
    few directions. So the amounts of a few slow waves, in which pictures differ most, tell nearly all of them apart.
    """
    reach = float(np.sqrt(2 - 2 * threshold)) + ROUNDING
    amounts, other_amounts = rows @ _waves(), others @ _waves()
    order, other_order = (np.argsort(of[:, 0], kind="stable") for of in (amounts, other_amounts))
    # The inner product of these two is minus half the squared distance of the amounts.
    left = np.column_stack([amounts, -0.5 * (amounts**2).sum(-1), np.ones_like(amounts[:, 0])])
    right = np.column_stack([other_amounts, np.ones_like(other_amounts[:, 0]), -0.5 * (other_amounts**2).sum(-1)])
    for low in range(0, len(rows), ROWS):
        chosen = order[low : low + ROWS]
        within = amounts[chosen[[0, -1]], 0] + [-reach, reach]
        first, last = np.searchsorted(other_amounts[:, 0], within, sorter=other_order).tolist()
        for start in range(low if rows is others else first, last, COLUMNS):  # of equal pairs each once
            near = other_order[start : min(start + COLUMNS, last)]
            some = chosen[(left[chosen] @ right[near].T > -0.5 * reach**2).any(-1)]
            row, column = np.nonzero(rows[some] @ others[near].T > threshold)
            yield np.stack([some[row], near[column]], -1)

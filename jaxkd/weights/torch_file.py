"""Weights files of torch.save, read without torch: zip archives of a pickle and the raw numbers of each storage."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxkd.errors import WeightsError
from jaxkd.weights import contents, torch_legacy, unpickle
from jaxkd.weights.contents import Contents
from jaxkd.weights.pickled_torch import STORAGES, TORCH, Storage, kind_of
from jaxkd.weights.unpickle import Unread, printable

PICKLE_LIMIT = 64 << 20  # bytes of the pickle alone, which has names and shapes
ZIP = b"PK\x03\x04"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """The contents of a file of torch.save, while the file is open; nothing in it is executed.

    Raises WeightsError where it is of another kind, and the errors of the standard library where it is broken.
    """
    with path.open("rb") as file:
        head = file.read(512)
        if torch_legacy.is_legacy(head):
            file.seek(0)
            pickled = torch_legacy.load(file, size=path.stat().st_size)
            yield contents.of_pickle(pickled, path=path)
            return
    if torch_legacy.is_tar(head):
        raise WeightsError(
            f"{path} is a tar archive; if torch wrote it, as it did before version 0.1.10, save it with a newer torch."
        )
    if not head.startswith(ZIP):
        raise WeightsError(
            f"{path} is no torch file, for it begins neither as an archive nor as a pickle; fetch it again."
        )
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise WeightsError(f"{path} is a TorchScript program; save model.state_dict() by torch.save instead.")
        yield contents.of_pickle(_Archive(archive, size=path.stat().st_size).load(), path=path)


class _Archive:
    """The members of a torch file, which are checked before any is read."""

    def __init__(self, archive: zipfile.ZipFile, *, size: int):
        self.archive = archive
        self.members = _members(archive, size=size)
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive without the one data.pkl that torch writes")
        self.root = pickles[0].removesuffix("data.pkl")
        if self.members[pickles[0]].file_size > PICKLE_LIMIT:
            raise ValueError(f"its data.pkl is longer than {PICKLE_LIMIT} bytes")
        order = self.entry("byteorder") if f"{self.root}byteorder" in self.members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError("its byteorder is neither little nor big")
        self.swapped = order == b"big"
        self.cache: dict[str, bytes] = {}

    def load(self) -> unpickle.Pickled:
        data = self.entry("data.pkl")
        return unpickle.load(data, TORCH, size=len(data), persistent=self.storage)

    def entry(self, name: str) -> bytes:
        return self.archive.read(self.members[f"{self.root}{name}"])

    def storage(self, reference: Any) -> Storage | Unread:
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise ValueError("its pickle refers to data in an odd way")
        _, kind, key, _, count = reference
        if type(key) is not str or type(count) is not int:
            raise ValueError("its pickle refers to data in an odd way")
        dtype = STORAGES.get(kind_of(kind))
        if dtype is None:
            return Unread(kind.text)
        member = self.members.get(f"{self.root}data/{key}")
        if member is None:
            raise ValueError(f"it has no entry data/{printable(key)}, which its pickle refers to")
        if member.file_size != count * dtype.itemsize:
            raise ValueError(
                f"it declares {count} numbers of {dtype} for data/{printable(key)}, which has {member.file_size} bytes"
            )
        return Storage(self, key, dtype, member.file_size)

    def data(self, key: str) -> bytes:
        if key not in self.cache:
            self.cache[key] = self.entry(f"data/{key}")
        return self.cache[key]


def _members(archive: zipfile.ZipFile, *, size: int) -> dict[str, zipfile.ZipInfo]:
    out: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"it has an entry {printable(name)}, which leads out of the archive")
        if name in out:
            raise ValueError(f"it has the entry {printable(name)} twice")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"its entry {printable(name)} is compressed, which torch never does")
        out[name] = member
    if sum(member.file_size for member in out.values()) > size:
        raise ValueError("its entries are longer together than the file")
    return out

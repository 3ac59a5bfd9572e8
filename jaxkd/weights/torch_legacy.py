"""The form that torch wrote before version 1.6: pickles one after another, then the storages' raw numbers."""

import struct
from io import BufferedIOBase
from typing import Any

from jaxkd.weights import unpickle
from jaxkd.weights.pickled_torch import STORAGES, TORCH, WIDTHS, Storage, kind_of
from jaxkd.weights.unpickle import Name, Pickled, Unread, shown

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MARK = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."  # what the first pickle ends with, in any protocol from 2 on
PICKLES_LIMIT = 64 << 20  # bytes of all pickles, which hold names and shapes
COUNT = struct.Struct("<q")
FEW = 100  # instructions of the pickles beside the one that matters


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is of this form."""
    return head.startswith(b"\x80") and MARK in head[:32]


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is of the form before, a tar archive."""
    return head[257:262] == b"ustar"


def load(file: BufferedIOBase, *, size: int, most: int | None = None) -> Pickled:
    """What a file of this form and of `size` bytes holds; its numbers can be read as long as it is open.

    `most` is the number of instructions that are followed, as `unpickle.load` has it.

    Raises ValueError where it is broken, and as `unpickle.load` does.
    """
    storages = _Storages(file, size=size)
    source = _Clipped(file, limit=min(size, PICKLES_LIMIT))

    def plain(most: int = FEW) -> Any:
        return unpickle.load(source, {}, size=source.limit, most=most).value

    if plain() != MAGIC or plain() != PROTOCOL:
        raise ValueError("it does not begin with torch's magic number and protocol")
    about = plain()
    if type(about) is not dict or type(about.get("little_endian")) is not bool:
        raise ValueError("it does not say how its numbers are stored")
    found = unpickle.load(source, TORCH, size=source.limit, most=most, persistent=storages.storage)
    storages.place(plain(3 * len(storages.declared) + FEW), little=about["little_endian"])
    return found


class _Clipped:
    """The first `limit` bytes of a file, of which no more memory is taken than there are bytes."""

    def __init__(self, file: BufferedIOBase, *, limit: int):
        self.file, self.limit = file, limit

    def read(self, n: int, /) -> bytes:
        return self.file.read(max(min(n, self.limit - self.tell()), 0))

    def readline(self) -> bytes:
        return self.file.readline(max(self.limit - self.tell(), 0))

    def tell(self) -> int:
        return self.file.tell()


class _Storages:
    """The storages that a pickle refers to, and where in the file they lie."""

    def __init__(self, file: BufferedIOBase, *, size: int):
        self.file, self.size = file, size
        self.swapped = False
        self.declared: dict[str, tuple[str, int]] = {}  # the kind of each, and how many numbers it has
        self.places: dict[str, int] = {}
        self.kept: dict[str, bytes] = {}

    def storage(self, reference: Any) -> Name | Storage | Unread:
        """The value of a persistent id: a storage, a view of one, or the class of a module."""
        match reference:
            case ("module", Name() as kind, *_):
                return kind
            case ("storage", Name() as kind, str(key), _, int(count), *view) if count >= 0 and len(view) < 2:
                return self._declared(kind, key, count, view=view[0] if view else None)
        raise ValueError("its pickle refers to data in an odd way")

    def _declared(self, kind: Name, key: str, count: int, *, view: Any) -> Storage | Unread:
        name = kind_of(kind)
        if self.declared.setdefault(key, (name, count)) != (name, count):
            raise ValueError(f"it declares the storage {shown(key)} twice, and differently")
        dtype = STORAGES.get(name)
        if dtype is None:
            return Unread(kind.text)
        first, length = (0, count) if view is None else _of_view(view, count=count)
        return Storage(self, key, dtype, length * dtype.itemsize, first * dtype.itemsize)

    def place(self, keys: Any, *, little: bool) -> None:
        """Finds the storages, which follow each other in this order, each behind the number of its numbers.

        Torch writes these and the numbers little-endian on every machine; where they are not, and `little` is false,
        another writer took its machine's order for both.
        """
        if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
            raise ValueError("its list of storages is none")
        given = set(keys)
        if lacking := next((key for key in self.declared if key not in given), None):
            raise ValueError(f"it has no storage {shown(lacking)}, which its pickle refers to")
        orders = set()
        place = self.file.tell()
        for key in keys:
            if key not in self.declared:
                raise ValueError(f"it has a storage {shown(key)}, which its pickle does not refer to")
            kind, count = self.declared[key]
            width = STORAGES[kind].itemsize if kind in STORAGES else WIDTHS.get(kind)
            if width is None:
                raise ValueError(f"it has a storage of an unknown kind, {shown(kind)}")
            self.file.seek(place)
            head = self.file.read(COUNT.size)
            if len(head) < COUNT.size or place + COUNT.size + count * width > self.size:
                raise ValueError(f"it ends before its storage {shown(key)} does")
            if count:
                orders.add(_order(head, count, key=key, little=little))
            self.places[key] = place + COUNT.size
            place += COUNT.size + count * width
        if place < self.size:
            raise ValueError(f"it goes on for {self.size - place} bytes behind its last storage")
        if len(orders) > 1:
            raise ValueError("some of its numbers are little-endian and some big-endian")
        self.swapped = "big" in orders

    def data(self, key: str) -> bytes:
        if key not in self.kept:
            kind, count = self.declared[key]
            length = count * STORAGES[kind].itemsize
            self.file.seek(self.places[key])
            self.kept[key] = self.file.read(length)
            if len(self.kept[key]) < length:
                raise ValueError(f"it ends before its storage {shown(key)} does")
        return self.kept[key]


def _of_view(view: Any, *, count: int) -> tuple[int, int]:
    """First number and length of a view of a storage with `count` numbers."""
    if type(view) is not tuple or len(view) != 3:
        raise ValueError("its pickle refers to data in an odd way")
    _, first, length = view
    if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
        raise ValueError("it holds a view that reaches past the end of its storage")
    return first, length


def _order(head: bytes, count: int, *, key: str, little: bool) -> str:
    """The order of bytes in which these stand for `count`."""
    if COUNT.unpack(head)[0] == count:
        return "little"
    if not little and int.from_bytes(head, "big") == count:
        return "big"
    raise ValueError(f"it declares {count} numbers for the storage {shown(key)} and holds {COUNT.unpack(head)[0]}")

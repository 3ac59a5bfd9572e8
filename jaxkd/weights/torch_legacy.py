"""The legacy format of torch, before version 1.6: pickles one after another, then the raw numbers of the storages."""

import struct
from io import BufferedIOBase
from typing import Any

from jaxkd.weights import unpickle
from jaxkd.weights.pickled_torch import STORAGES, TORCH, WIDTHS, Storage, kind_of
from jaxkd.weights.unpickle import Name, Pickled, Unread, printable

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MARK = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."  # end of the first pickle, in any protocol from 2 on
PICKLES_LIMIT = 64 << 20  # bytes of all pickles, which have names and shapes
COUNT = struct.Struct("<q")
HEADER_INSTRUCTIONS = 100  # of each pickle around the main one


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins with `head` is in this format."""
    return head.startswith(b"\x80") and MARK in head[:32]


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is a tar archive, the format before this one."""
    return head[257:262] == b"ustar"


def load(file: BufferedIOBase, *, size: int, max_instructions: int | None = None) -> Pickled:
    """The content of a file of `size` bytes in this format; its numbers can be read as long as it is open.

    `max_instructions` is that of `unpickle.load`.

    Raises ValueError where it is broken, and the errors of `unpickle.load`.
    """
    storages = _Storages(file, size=size)
    source = _Clipped(file, limit=min(size, PICKLES_LIMIT))

    def read_header(max_instructions: int = HEADER_INSTRUCTIONS) -> Any:
        return unpickle.load(source, {}, size=source.limit, max_instructions=max_instructions).value

    if read_header() != MAGIC or read_header() != PROTOCOL:
        raise ValueError("it does not begin with torch's magic number and protocol")
    system = read_header()
    if type(system) is not dict or type(system.get("little_endian")) is not bool:
        raise ValueError("it does not say how its numbers are stored")
    pickled = unpickle.load(
        source, TORCH, size=source.limit, max_instructions=max_instructions, persistent=storages.storage
    )
    storages.locate(read_header(3 * len(storages.declared) + HEADER_INSTRUCTIONS), little=system["little_endian"])
    return pickled


class _Clipped:
    """The first `limit` bytes of a file; a read never allocates more than these."""

    def __init__(self, file: BufferedIOBase, *, limit: int):
        self.file, self.limit = file, limit

    def read(self, n: int, /) -> bytes:
        return self.file.read(max(min(n, self.limit - self.tell()), 0))

    def readline(self) -> bytes:
        return self.file.readline(max(self.limit - self.tell(), 0))

    def tell(self) -> int:
        return self.file.tell()


class _Storages:
    """The storages that a pickle refers to, and their positions in the file."""

    def __init__(self, file: BufferedIOBase, *, size: int):
        self.file, self.size = file, size
        self.swapped = False
        self.declared: dict[str, tuple[str, int]] = {}  # the kind and the number of elements of each
        self.starts: dict[str, int] = {}
        self.cache: dict[str, bytes] = {}

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
            raise ValueError(f"it declares the storage {printable(key)} twice, and differently")
        dtype = STORAGES.get(name)
        if dtype is None:
            return Unread(kind.text)
        first, length = (0, count) if view is None else _view_range(view, count=count)
        return Storage(self, key, dtype, length * dtype.itemsize, first * dtype.itemsize)

    def locate(self, keys: Any, *, little: bool) -> None:
        """Locates the storages, which follow each other in the order of `keys`, each after its number of elements.

        Torch writes counts and elements little-endian on every machine; where counts are big-endian and `little` is
        false, another writer used big-endian order for both.
        """
        if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
            raise ValueError("its list of storages is none")
        listed = set(keys)
        if missing := next((key for key in self.declared if key not in listed), None):
            raise ValueError(f"it has no storage {printable(missing)}, which its pickle refers to")
        orders = set()
        start = self.file.tell()
        for key in keys:
            if key not in self.declared:
                raise ValueError(f"it has a storage {printable(key)}, which its pickle does not refer to")
            kind, count = self.declared[key]
            width = STORAGES[kind].itemsize if kind in STORAGES else WIDTHS.get(kind)
            if width is None:
                raise ValueError(f"it has a storage of an unknown kind, {printable(kind)}")
            self.file.seek(start)
            head = self.file.read(COUNT.size)
            if len(head) < COUNT.size or start + COUNT.size + count * width > self.size:
                raise ValueError(f"it ends before its storage {printable(key)} does")
            if count:
                orders.add(_byte_order(head, count, key=key, little=little))
            self.starts[key] = start + COUNT.size
            start += COUNT.size + count * width
        if start < self.size:
            raise ValueError(f"it goes on for {self.size - start} bytes behind its last storage")
        if len(orders) > 1:
            raise ValueError("some of its numbers are little-endian and some big-endian")
        self.swapped = "big" in orders

    def data(self, key: str) -> bytes:
        if key not in self.cache:
            kind, count = self.declared[key]
            length = count * STORAGES[kind].itemsize
            self.file.seek(self.starts[key])
            self.cache[key] = self.file.read(length)
            if len(self.cache[key]) < length:
                raise ValueError(f"it ends before its storage {printable(key)} does")
        return self.cache[key]


def _view_range(view: Any, *, count: int) -> tuple[int, int]:
    """The first element and the length of a view of a storage with `count` elements."""
    if type(view) is not tuple or len(view) != 3:
        raise ValueError("its pickle refers to data in an odd way")
    _, first, length = view
    if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
        raise ValueError("it holds a view that reaches past the end of its storage")
    return first, length


def _byte_order(head: bytes, count: int, *, key: str, little: bool) -> str:
    """The byte order in which `head` is `count`."""
    if COUNT.unpack(head)[0] == count:
        return "little"
    if not little and int.from_bytes(head, "big") == count:
        return "big"
    raise ValueError(f"it declares {count} numbers for the storage {printable(key)} and holds {COUNT.unpack(head)[0]}")

"""Pickles read as plain data: numbers, text, containers and what a given list of makers builds.

The pickle module is not used to load, for even with a strict `find_class` a file can make it set attributes of what it
found, reach objects through its registry of extensions, ask for a memo of any size, or crash it by a deeply nested key.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

INSTRUCTIONS = 1_000_000  # a checkpoint with its optimizer's state needs some 100 for each array


class UnknownNameError(ValueError):
    """A pickle asks for something that is on no list; `name` says what."""

    def __init__(self, name: str):
        super().__init__(f"it asks for {shown(name)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Name:
    """Something of the list, by its module and name; never the Python object of that name."""

    text: str


@runtime_checkable
class Stateful(Protocol):
    """What a maker returns where the pickle gives a state later."""

    def set_state(self, state: Any) -> None:
        """Takes the state, or raises ValueError."""


def load(
    data: bytes, makers: Mapping[str, Callable[..., Any] | None], *, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The value that the pickle `data` describes.

    Args:
      data: a pickle of any protocol; text of Python 2 is read as Latin-1.
      makers: what the pickle may ask for, as "module.name"; a call of it is a call of the maker, and None allows
        the bare name only, which becomes a `Name`.
      persistent: makes the value of a persistent id.

    Pairs of a dict whose key is no text or number are left out. Raises UnknownNameError where the pickle asks for
    something else, and ValueError where it is broken, too long, or does what weights have no need for.
    """
    machine = _Machine(makers, persistent)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count >= INSTRUCTIONS:
                raise ValueError(f"its pickle has more than {INSTRUCTIONS} instructions")
            if instruction.name not in STEPS:
                raise ValueError(f"its pickle uses the instruction {instruction.name}, which weights have no need for")
            STEPS[instruction.name](machine, argument)
        return machine.stack.pop()
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes what was never put there") from error


def shown(text: str) -> str:
    """`text` of a file as one short printable piece, for an error."""
    return text if text.isprintable() and len(text) <= 80 else ascii(text[:60])


def reason(error: Exception) -> str:
    """What `error` says, as one short line; the standard library may quote pieces of the file of any length."""
    return " ".join(str(error)[:200].split())


class _Machine:
    def __init__(self, makers: Mapping[str, Callable[..., Any] | None], persistent: Callable[[Any], Any] | None):
        self.makers = makers
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def skip(self, _: Any) -> None:
        pass

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self, _: Any = None) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.push(self.memo[index])

    def group(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("its pickle appends to what is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise ValueError("its pickle sets items of what is no dict")
        self.stack[-1].update(plain_keys(zip(items[::2], items[1::2], strict=True)))

    def mapping(self, _: Any) -> None:
        items = self.since_mark()
        self.push({})
        self.update(items)

    def name(self, text: str) -> None:
        if text not in self.makers:
            raise UnknownNameError(text)
        self.push(Name(text))

    def name_of_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("its pickle asks for a name that is no text")
        self.name(f"{module}.{name}")

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        maker = self.makers[name.text] if type(name) is Name else None
        if maker is None or type(arguments) is not tuple:
            raise ValueError(f"its pickle calls {name.text if type(name) is Name else 'what cannot be called'}")
        try:
            self.push(maker(*arguments))
        except TypeError as error:
            raise ValueError(f"its pickle calls {name.text} with odd arguments") from error

    def build(self, _: Any) -> None:
        state, item = self.stack.pop(), self.stack[-1]
        if isinstance(item, Stateful):
            item.set_state(state)
        elif type(item) is not dict:  # a state dict carries _metadata, which nothing here needs
            raise ValueError("its pickle sets the state of what has none")

    def outside(self, _: Any) -> None:
        if self.persistent is None:
            raise ValueError("its pickle refers to data outside it")
        self.push(self.persistent(self.stack.pop()))


def plain_keys(pairs: Any) -> dict[Any, Any]:
    """The pairs whose key is a text or a number; a nested tuple would be hashed by recursion without a bound."""
    return {key: value for key, value in pairs if type(key) in (str, int, float, bool, type(None))}


VALUES = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(VALUES.split(), _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.group(1),
    "TUPLE2": lambda machine, _: machine.group(2),
    "TUPLE3": lambda machine, _: machine.group(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": _Machine.mapping,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.since_mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, argument: machine.name(argument.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.name_of_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.outside,
}

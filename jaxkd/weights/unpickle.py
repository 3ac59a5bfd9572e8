"""Pickles read as plain data: numbers, text, containers and objects that a given list of makers builds.

The pickle module is not used, for even with a strict `find_class` a file can make it set attributes of the objects that
it loads, reach objects through its extension registry, allocate a memo of any size, or crash by a deeply nested key.
"""

import abc
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

INSTRUCTIONS = 1_000_000  # a checkpoint with optimizer state has some 100 for each array
# Limits on the arguments of makers: bytes in units of the file's size, list items in units of the instructions.
COPIED, WALKED = 16, 2
NAME_LENGTH = 500
KEY_BITS = 64
# Functions that no checkpoint needs, by which an executed pickle would run a program or change files.
PROGRAMS = re.compile(
    r"(.*\.)?(os|posix|nt)\.(system|popen\w*|exec\w+|spawn\w+|posix_spawn\w*|fork\w*|startfile|kill\w*|remove\w*|"
    r"unlink|rmdir|rename\w*)|(subprocess|commands|pty|runpy|importlib|socket|ctypes|webbrowser)\..*|"
    r"(builtins|__builtin__|_?io)\.(eval|exec|execfile|compile|__import__|open|breakpoint|input)|shutil\.(rmtree|move)",
    re.DOTALL,
)


class ProgramError(ValueError):
    """A pickle refers to a function that runs a program; `name` is its name."""

    def __init__(self, name: str):
        super().__init__(f"it wants to run {printable(name)}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function by its module and name; never the Python object."""

    text: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A placeholder for an object that is not read, with the name of its class or function and no content."""

    text: str


class Stored(abc.ABC):
    """An array that a maker returns, whose numbers are still in the file."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def unread(self) -> str:
        """A description where it is no array of plain numbers; else empty."""

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """The memory of the array in bytes, known before it is allocated."""

    @abc.abstractmethod
    def array(self) -> np.ndarray:
        """The numbers; raises ValueError where the file does not hold them."""


class Stateful(abc.ABC):
    """An object that a maker returns, whose state follows later in the pickle."""

    __slots__ = ()

    @abc.abstractmethod
    def set_state(self, state: Any) -> None:
        """Sets the state, or raises ValueError."""


@runtime_checkable
class Source(Protocol):
    """A file that a pickle is read from."""

    def read(self, n: int, /) -> bytes:
        """As many bytes, or fewer where the file ends."""
        ...

    def readline(self) -> bytes:
        """The bytes up to a line's end."""
        ...

    def tell(self) -> int:
        """The number of bytes read."""
        ...


@dataclass(frozen=True)
class Pickled:
    """The content of a pickle.

    Attributes:
      value: numbers, text, lists, tuples, dicts, objects of the makers, and an `Unread` for each other object.
      arrays: number of different arrays of the makers, also those that are not in `value`.
      unread: names of the classes and functions whose objects are not read.
    """

    value: Any
    arrays: int
    unread: tuple[str, ...]


def load(
    data: bytes | Source,
    makers: Mapping[str, Callable[..., Any] | None],
    *,
    size: int,
    persistent: Callable[[Any], Any] | None = None,
    max_instructions: int | None = None,
) -> Pickled:
    """The content of the pickle `data`; nothing in it is executed.

    Args:
      data: a pickle of any protocol, or a file that may continue after it; text of Python 2 is read as Latin-1.
      makers: functions by "module.name" that stand in for those that the pickle calls; None allows the name only,
        which becomes a `Name`. The result of any other call is an `Unread`, and so is that of a maker with an `Unread`
        among its arguments.
      size: bytes of the file.
      persistent: makes the value of a persistent id.
      max_instructions: limit on the instructions; None for INSTRUCTIONS.

    Pairs of a dict whose key is no text or number are left out. Raises ProgramError where the pickle refers to a
    function that runs programs, and ValueError where it is broken, too long, or uses what no checkpoint needs.
    """
    max_instructions = INSTRUCTIONS if max_instructions is None else max_instructions
    machine = _Machine(makers, persistent, bytes_left=COPIED * size, items_left=WALKED * max_instructions)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]
            if count >= max_instructions:
                raise ValueError(f"its pickle has more than {max_instructions} instructions")
            if instruction.name not in STEPS:
                raise ValueError(f"its pickle uses the instruction {instruction.name}, which weights have no need for")
            STEPS[instruction.name](machine, argument)
        return Pickled(machine.stack.pop(), len(machine.arrays), tuple(machine.unread))
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes what was never put there") from error


def printable(text: str) -> str:
    """`text` of a file, shortened and printable, for an error."""
    return text if text.isprintable() and len(text) <= 80 else ascii(text[:60])


def reason(error: Exception) -> str:
    """The message of `error` in one short line; the standard library may quote the file at any length."""
    return " ".join(str(error)[:200].split())


class _Machine:
    def __init__(
        self,
        makers: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any], Any] | None,
        *,
        bytes_left: int,
        items_left: int,
    ):
        self.makers = makers
        self.persistent = persistent
        self.bytes_left, self.items_left = bytes_left, items_left
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.arrays: dict[int, Stored] = {}  # by `id`
        self.unread: dict[str, None] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def skip(self, _: Any) -> None:
        pass

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def mark(self, _: Any) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def since_mark(self, _: Any = None) -> list[Any]:
        items, self.stack = self.stack, self.outer_stacks.pop()
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
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)
        elif type(self.stack[-1]) is not Unread:
            raise ValueError("its pickle appends to what is no list")

    def update(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, Unread) or len(items) % 2:
            raise ValueError("its pickle sets items of what is no dict")
        if type(self.stack[-1]) is dict:
            self.stack[-1].update(plain_keys(zip(items[::2], items[1::2], strict=True)))

    def mapping(self, _: Any) -> None:
        items = self.since_mark()
        self.push({})
        self.update(items)

    def frozen(self, _: Any) -> None:
        self.since_mark()
        self.push(Unread("builtins.frozenset"))

    def add(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not Unread:
            raise ValueError("its pickle adds to what is no set")

    def name(self, text: str) -> None:
        if len(text) > NAME_LENGTH:
            raise ValueError("its pickle asks for a name that is longer than any")
        if PROGRAMS.fullmatch(text):
            raise ProgramError(text)
        self.push(Name(text))

    def name_of_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("its pickle asks for a name that is no text")
        self.name(f"{module[: NAME_LENGTH + 1]}.{name[: NAME_LENGTH + 1]}")

    def charge(self, values: Sequence[Any]) -> None:
        """Counts the size of a maker's arguments, so that a small file cannot use one long value without end."""
        self.bytes_left -= sum(len(value) for value in values if type(value) in (str, bytes, bytearray))
        self.items_left -= sum(len(value) for value in values if type(value) in (list, tuple))
        if min(self.bytes_left, self.items_left) < 0:
            raise ValueError("its pickle makes too much of the same values")

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self.result_of(function, arguments))

    def result_of(self, function: Any, arguments: Any) -> Any:
        if type(function) not in (Name, Unread) or type(arguments) not in (tuple, Unread):
            raise ValueError(f"its pickle calls {function.text if type(function) is Name else 'what cannot be called'}")
        maker = self.makers.get(function.text) if type(function) is Name else None
        if maker is None or type(arguments) is Unread:
            text = _class_of(function.text, arguments)
            self.unread[text] = None
            return Unread(text)
        if (unread := next((value for value in arguments if type(value) is Unread), None)) is not None:
            return unread
        self.charge(arguments)
        try:
            built = maker(*arguments)
        except TypeError as error:
            raise ValueError(f"its pickle calls {function.text} with odd arguments") from error
        if type(built) is Unread:
            self.unread[built.text] = None
        elif isinstance(built, Stored):
            self.arrays[id(built)] = built
        return built

    def call_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(None)

    def instance(self, argument: str) -> None:
        self.name(argument.replace(" ", ".", 1))
        function = self.stack.pop()
        items = self.since_mark()
        self.push(self.result_of(function, tuple(items)))

    def instance_of_stack(self, _: Any) -> None:
        function, *items = self.since_mark() or [None]
        self.push(self.result_of(function, tuple(items)))

    def build(self, _: Any) -> None:
        state, item = self.stack.pop(), self.stack[-1]
        if isinstance(item, Stateful):
            self.charge(state if type(state) is tuple else ())
            item.set_state(state)
        elif type(item) not in (dict, Unread):  # a state dict has _metadata, which is not needed
            raise ValueError("its pickle sets the state of what has none")

    def load_persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise ValueError("its pickle refers to data outside it")
        self.push(self.persistent(self.stack.pop()))


def _class_of(function: str, arguments: Any) -> str:
    """The class of the object that a call makes: in the oldest protocols the class is an argument."""
    if function.endswith("._reconstructor") and type(arguments) is tuple and arguments and type(arguments[0]) is Name:
        return arguments[0].text
    return function


def plain_keys(pairs: Any) -> dict[Any, Any]:
    """The pairs whose key is a text or a number; the hash of a nested tuple would recurse without a bound."""
    return {key: value for key, value in pairs if _is_plain(key)}


def _is_plain(key: Any) -> bool:
    if type(key) is int:
        return key.bit_length() <= KEY_BITS  # hashing takes time in proportion to the digits
    return type(key) in (str, float, bool, type(None))


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
    "EMPTY_SET": lambda machine, _: machine.push(Unread("builtins.set")),
    "TUPLE1": lambda machine, _: machine.group(1),
    "TUPLE2": lambda machine, _: machine.group(2),
    "TUPLE3": lambda machine, _: machine.group(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": _Machine.mapping,
    "FROZENSET": _Machine.frozen,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.since_mark()),
    "MARK": _Machine.mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "POP": _Machine.pop,
    "POP_MARK": _Machine.since_mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, argument: machine.name(argument.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.name_of_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.instance_of_stack,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}

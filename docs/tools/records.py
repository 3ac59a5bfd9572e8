"""A griffe extension: docstrings as Markdown, fields with their defaults, and shapes as they stand."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Raises):$")
ITEM = re.compile(r"^([\w*]+(?:, [\w*]+)*): ?(.*)$")
SHAPES = re.compile(r"\b(Bool|Float|Float32|Int|Int32|Key|Num|UInt8)\[")  # of jaxtyping
TITLES = {"Args": "Arguments:", "Attributes": "Fields:", "Raises": "Raises:"}
ITSELF = re.compile(r"`((?:jaxkd\.)?[a-z_]+(?:\.[a-z_]+)+)`")  # a module, by its name below jaxkd


class Records(griffe.Extension):
    """What the reference needs beyond griffe's own reading."""

    def on_function_instance(self, *, node: Any, func: griffe.Function, **_: Any) -> None:
        """Keeps shapes such as "b h w 3" from being read as code."""
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if argument.annotation and SHAPES.search(ast.unparse(argument.annotation)):
                func.parameters[argument.arg].annotation = _as_it_stands(argument.annotation, func)
        if node.returns and SHAPES.search(ast.unparse(node.returns)):
            func.returns = _as_it_stands(node.returns, func)

    def on_class_instance(self, *, node: Any, cls: griffe.Class, **_: Any) -> None:
        """Puts the fields of a record, their types and defaults into its docstring."""
        fields = list(_fields(node, cls))
        if cls.docstring and fields:
            cls.docstring.value = _with_fields(cls.docstring.value, fields)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Turns the sections of all docstrings into lists, and leaves a record's signature to its fields."""
        for found in _everything(pkg):
            made = found.members.get("__init__")
            if made and "dataclass" in found.labels and not made.lineno:  # not written, but made from the fields
                found.del_member("__init__")
            if found.docstring:
                found.docstring.value = _linked(_listed(found.docstring.value))


def _everything(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _everything(member)


def _as_it_stands(annotation: ast.expr, func: griffe.Function) -> griffe.Expr | None:
    return griffe.get_expression(annotation, parent=func.parent, parse_strings=False)


class _Field:
    """One annotated name of a class."""

    def __init__(self, node: ast.AnnAssign, following: ast.stmt | None, lines: list[str]):
        self.name = node.target.id
        kind = " ".join(ast.unparse(node.annotation).replace("'", '"').split())
        default = _default(node.value)
        self.code = f"`{self.name}: {kind}{f' = {default}' if default else ''}`"
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        _, hash_, said = rest.partition("#")
        self.said = _attribute_docstring(following) or (said.strip() if hash_ else "")


def _attribute_docstring(node: ast.stmt | None) -> str:
    """The text of a string that stands alone, as below a field; empty for any other statement."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return " ".join(text.split()) if isinstance(text, str) else ""


def _fields(node: ast.ClassDef, cls: griffe.Class) -> Iterator[_Field]:
    lines = cls.lines_collection[cls.filepath]
    for part, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id[0] != "_":
            yield _Field(part, following, lines)


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call) and getattr(value.func, "attr", getattr(value.func, "id", "")) == "field":
        factory = next((word.value for word in value.keywords if word.arg == "default_factory"), None)
        if factory is None:
            return ""
        return ast.unparse(factory.body if isinstance(factory, ast.Lambda) else factory) + (
            "" if isinstance(factory, ast.Lambda) else "()"
        )
    return ast.unparse(value).replace("'", '"')


def _with_fields(docstring: str, fields: list[_Field]) -> str:
    """The docstring whose section of attributes has types and defaults; fields that it lacks are told by comments."""
    blocks, left = [], {field.name: field for field in fields}
    lines = docstring.splitlines()
    start = lines.index("Attributes:") if "Attributes:" in lines else len(lines)
    for names, said in _items(lines[start + 1 :]):
        known = [left.pop(name).code for name in names if name in left]
        blocks.append(f"- {', '.join(known) or ', '.join(f'`{name}`' for name in names)}: {said}")
    after = [f"- {field.code}{f': {field.said}' if field.said else ''}" for field in left.values()]
    return "\n".join([*lines[:start], "", TITLES["Attributes"], "", *blocks, *after])


def _items(lines: list[str]) -> Iterator[tuple[list[str], str]]:
    """The items of a section, each with its words in one line."""
    names: list[str] = []
    said: list[str] = []
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    for line in lines:
        found = ITEM.match(line[least:])
        if found:
            if names:
                yield names, " ".join(said)
            names, said = found[1].split(", "), [found[2]]
        elif line.strip():
            said.append(line.strip())
    if names:
        yield names, " ".join(said)


def _listed(docstring: str) -> str:
    """The docstring with its sections as Markdown lists."""
    out: list[str] = []
    lines = docstring.splitlines()
    place = 0
    while place < len(lines):
        section = SECTION.match(lines[place])
        if not section:
            out.append(_apart(out, lines[place]))
            place += 1
            continue
        place += 1
        body = []
        while place < len(lines) and (not lines[place].strip() or lines[place].startswith(" ")):
            body.append(lines[place])
            place += 1
        items = [f"- {', '.join(f'`{name}`' for name in names)}: {said}" for names, said in _items(body)]
        out += ["", TITLES[section[1]], "", *items, ""]
    return "\n".join(out)


def _apart(before: list[str], line: str) -> str:
    """A line, with an empty one before a list that follows a sentence."""
    begins = re.match(r"^\s*[*-] ", line) and before and before[-1].strip() and not re.match(r"^\s*[*-] ", before[-1])
    return f"\n{line}" if begins and not before[-1].startswith(" ") else line


def _linked(docstring: str) -> str:
    """The docstring with the modules and functions that it names as links, where the reference has them."""

    def link(found: re.Match) -> str:
        path = f"jaxkd.{found[1].removeprefix('jaxkd.')}"
        return f'<autoref optional identifier="{path}">{found[0]}</autoref>'

    return ITSELF.sub(link, docstring)

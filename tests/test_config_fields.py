"""Every field of a Config and of its parts is described once, beside it."""

import ast
import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

import jaxkd
from jaxkd import config as configs

ROOT = Path(jaxkd.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
    for file in ROOT.rglob("*.py")
    if re.search(r"^class Config[:(]", file.read_text(), re.MULTILINE)
)


def with_parts(cls):
    """A Config or part, the parts in its fields, and the classes that it inherits fields from."""
    yield from (base for base in cls.__mro__ if dataclasses.is_dataclass(base))
    for hint in typing.get_type_hints(cls).values():
        if configs.is_part(hint):
            yield from with_parts(hint)


@pytest.mark.parametrize("name", MODULES)
def test_every_field_is_described_beside_it_and_nowhere_else(name):
    for cls in set(with_parts(importlib.import_module(name).Config)):
        (tree,) = ast.parse(inspect.getsource(cls)).body
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__qualname__} has no docstring"
        assert "Attributes:" not in cls.__doc__, f"{cls.__qualname__} describes fields in its docstring"
        for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                text = (
                    below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
                )
                assert isinstance(text, str), (
                    f"{name}: {cls.__qualname__}.{ast.unparse(node.target)} has no description"
                )


def test_parts_are_found():
    assert len(MODULES) > 15
    names = {cls.__qualname__ for cls in with_parts(importlib.import_module("jaxkd.detectors.faster_rcnn").Config)}
    assert {"Config", "RPN", "Postprocess", "Compat"} <= names

"""Every row of what can go wrong has tests, and the page says what the rows say."""

import ast
import runpy
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = tomllib.loads((TESTS / "robustness.toml").read_text(encoding="utf-8"))
ALL = [(kind, row) for kind in ("fault", "input") for row in ROWS[kind]]


def functions(file):
    """The names of a file's tests."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_row_is_missing():
    assert [row["number"] for row in ROWS["fault"]] == [f"F{number}" for number in range(1, 27)]
    assert [row["number"] for row in ROWS["input"]] == [str(number) for number in range(1, 65)]


@pytest.mark.parametrize(("kind", "row"), ALL, ids=lambda part: part if isinstance(part, str) else part["number"])
def test_a_row_is_whole_and_has_tests(kind, row):
    assert set(row) == {"number", "what", "done", "code", "tests"}
    assert row["tests"] and row["done"].endswith((".", ")"))
    for name in row["tests"]:
        file, _, function = name.partition("::")
        assert function in functions(TESTS / file), name


def test_the_page_is_that_of_the_rows():
    page = runpy.run_path(str(TESTS.parent / "docs" / "tools" / "robustness.py"))["page"]()
    assert (TESTS.parent / "docs" / "robustness.md").read_text(encoding="utf-8") == page

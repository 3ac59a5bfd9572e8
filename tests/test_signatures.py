"""Signatures of the package are short: few arguments by position, and no long list of them twice."""

import ast
from collections import defaultdict
from pathlib import Path

import jaxkd

ROOT = Path(jaxkd.__file__).parent
MOST = 5  # parameters that may be given by position
LONG = 8  # parameters from which on a signature stands once


def signatures():
    """Of each function of the package: (file:line and name, parameters by position, those by keyword alone).

    Methods without self or cls; fields of dataclasses are no signatures.
    """
    for file in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        methods = {
            node
            for scope in ast.walk(tree)
            if isinstance(scope, ast.ClassDef)
            for node in scope.body
            if isinstance(node, FUNCTIONS) and "staticmethod" not in map(ast.unparse, node.decorator_list)
        }
        for node in ast.walk(tree):
            if isinstance(node, (*FUNCTIONS, ast.Lambda)):
                given = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
                where = f"{file.relative_to(ROOT.parent)}:{node.lineno} {getattr(node, 'name', 'lambda')}"
                yield where, given[node in methods :], [argument.arg for argument in node.args.kwonlyargs]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SIGNATURES = list(signatures())


def test_functions_are_seen_with_their_parameters():
    assert len(SIGNATURES) > 1000
    (losses,) = (
        found[1:]
        for found in SIGNATURES
        if found[0].startswith("jaxkd/distill/task_adaptive.py") and "losses" in found[0]
    )
    assert losses == (["config", "params", "inputs"], [])


def test_at_most_five_arguments_by_position():
    """More of them are a record (see `types.Inputs` and `ops.roi_align.Pooling`), or keywords."""
    wrong = [f"{where}({', '.join(given)})" for where, given, _ in SIGNATURES if len(given) > MOST]
    assert not wrong, f"more than {MOST} parameters by position:\n" + "\n".join(wrong)


def test_a_long_signature_stands_once():
    """What two functions are given alike is a record, described once."""
    same = defaultdict(list)
    for where, given, keywords in SIGNATURES:
        if len(given) + len(keywords) >= LONG:
            same[tuple(sorted([*given, *keywords]))].append(where)
    wrong = [f"{', '.join(places)}: ({', '.join(names)})" for names, places in same.items() if len(places) > 1]
    assert not wrong, f"the same {LONG} or more parameters twice:\n" + "\n".join(wrong)

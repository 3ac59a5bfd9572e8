"""Rules that hold for all of the package, each by the one place that sees to it.

What is seen of a file is in `contracts/test_pixels.py`, and what ends a run in `train/test_stop.py`.
"""

import ast
import importlib
import json
import logging
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

import jaxkd
from jaxkd.cli.main import COMMANDS
from jaxkd.config import component, load_recipe
from jaxkd.data.voc import SIDES
from jaxkd.loading import prepare

ROOT = Path(jaxkd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def strings(file):
    """Every text of a module that is no docstring: (line, text), the parts of an f-string joined by {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, text
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


TEXTS = [(f"{file.relative_to(ROOT)}:{line}", text) for file in FILES for line, text in strings(file)]


PROSE = {"reads", "that", "detector"}  # what follows the name where no command is meant


def test_commands_in_messages_exist():
    found = [(where, name) for where, text in TEXTS for name in re.findall(r"\bjaxkd ([a-z]+)\b", text)]
    assert len(found) > 10
    assert [pair for pair in found if pair[1] not in {*COMMANDS, *PROSE}] == []


def known_flags():
    """The flags of all commands."""
    names = {"help", "version", "config", "config.FIELD", "logdir"}  # the last is tensorboard's
    for command in COMMANDS:
        module = importlib.import_module(f"jaxkd.cli.{command}")
        values = flags.FlagValues()
        module.define(values)
        names |= set(values)
    return names


def fields(config, path="config"):
    """The paths of all fields of a recipe."""
    for name, value in config.items():
        yield f"{path}.{name}"
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{path}.{name}")


ELSEWHERE = ("html.py", "comparison/", "export/standalone.py")  # names of colours, and a program of its own


def test_flags_and_fields_in_messages_exist():
    known, paths = known_flags(), set()
    for argument in ("tar+gkd", "mimic", "retinanet-tar+gkd"):
        paths |= set(fields(load_recipe("bccd", argument)))
    wrong, seen = [], 0
    for where, text in TEXTS:
        if where.startswith(ELSEWHERE):
            continue
        for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*[\w])", text):
            seen += 1
            if flag not in paths and flag not in known and flag.removeprefix("no") not in known:
                wrong.append((where, flag))
    assert seen > 30
    assert wrong == []


def test_data_is_loaded_in_one_place():
    """So that no command can leave unsaid what a source repaired."""
    loads = re.compile(r"module_of\([^)]*\)\.load\(|\b(?:coco|voc|yolo|tfds|shapes)\.load\(")
    places = [str(file.relative_to(ROOT)) for file in FILES if loads.search(file.read_text())]
    assert places == ["loading/prepare.py"]  # which has `data.split` and `data.only` load the source inside them
    alone = re.compile(r"prepare\.(?!load_source\b|load_sources\b)_loaded\b")
    assert not [file for file in FILES if alone.search(file.read_text())]


def voc(root, box):
    """A VOC folder of one picture with one object."""
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "JPEGImages").mkdir()
    (root / "ImageSets/Main/train.txt").write_text("one\n")
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, box, strict=True))
    item = f"<object><name>cat</name><bndbox>{sides}</bndbox></object>"
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    (root / "Annotations/one.xml").write_text(f"<annotation><filename>one.jpg</filename>{size}{item}</annotation>")
    Image.new("RGB", (40, 30), "red").save(root / "JPEGImages/one.jpg")
    return component("data.voc", root=str(root), splits=("train",), classes=())


def coco(root, box):
    """A COCO folder of one picture with one object."""
    root.mkdir()
    Image.new("RGB", (40, 30), "red").save(root / "one.jpg")
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
    images = [{"id": 1, "file_name": "one.jpg", "width": 40, "height": 30}]
    content = {"images": images, "annotations": [item], "categories": [{"id": 1, "name": "cat"}]}
    (root / "truth.json").write_text(json.dumps(content))
    return component("data.coco", images=str(root), annotations=str(root / "truth.json"))


@pytest.mark.parametrize("layout", [coco, voc])
def test_what_was_repaired_is_said_with_the_first_example(layout, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    prepare.load_source(layout(tmp_path / "set", (5, 5, 50, 20)))
    (said,) = (record.getMessage() for record in caplog.records)
    assert "boxes that leave their picture, clipped to it: 1" in said and "one" in said.partition("clipped")[2]


WRITERS = {  # what writes a file other than by jaxkd.storage, and why it may
    "cli/predictions.py": "a spare, which takes the place of the file at the end",
    "export/folder.py": "in a folder that takes its place when it is whole",
    "export/standalone.py": "a program of its own",
    "export/stablehlo.py": "as export/folder.py",
    "export/tflite.py": "as export/folder.py",
    "loading/build.py": "in a folder that takes its place when it is whole",
    "train/checkpoint.py": "to see whether the disk can be written",
    "train/log.py": "whole lines at the end",
    "train/manifest.py": "a spare, which takes the place of the file at the end",
    "train/sinks/wandb.py": "a name that is drawn once",
    "weights/read.py": "a spare, which takes the place of the file at the end",
    "storage.py": "the place",
}


def test_files_are_written_whole():
    writes = re.compile(r"\.write_text\(|\.write_bytes\(|open\([^)]*\"[wax]b?\"")
    assert {str(file.relative_to(ROOT)) for file in FILES if writes.search(file.read_text())} == set(WRITERS)


IMPORTS = (ast.Import, ast.ImportFrom)


def imports(file, modules):
    """The modules of the package that a file imports, also inside functions and for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_circle_of_files():
    places = (file.relative_to(ROOT.parent).with_suffix("") for file in FILES)
    modules = {".".join(place.parts).removesuffix(".__init__"): file for place, file in zip(places, FILES, strict=True)}
    graph = {name: {*imports(file, modules)} & modules.keys() - {name} for name, file in modules.items()}
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises CycleError, which names a circle


def inner_imports(file):
    """Every import inside a function without a comment on its line or above: (line, text).

    Imports that follow each other share the comment of the first.
    """
    text = file.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {node.lineno: node for one in functions for node in ast.walk(one) if isinstance(node, IMPORTS)}
    said = 0  # the last line of the imports that a comment covers
    for first, node in sorted(inner.items()):
        follows = bool(said) and not any(line.strip() for line in lines[said : first - 1])
        if follows or lines[first - 2].lstrip().startswith("#") or "#" in lines[first - 1]:
            said = node.end_lineno
        else:
            yield first, lines[first - 1].strip()


def test_an_import_inside_a_function_says_why():
    assert {str(file.relative_to(ROOT)): found for file in FILES if (found := [*inner_imports(file)])} == {}


def test_modules_of_tests_have_names_of_their_own():
    """For pytest imports them by these alone."""
    names = [file.name for file in Path(__file__).parent.rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))

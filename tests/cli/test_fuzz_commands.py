"""Recipes and flags that nobody meant: each ends in one sentence and an exit code, or is a recipe.

`pytest --hypothesis-profile=fuzz tests/cli/test_fuzz_commands.py` tries 500.
"""

import contextlib
import io

from fuzzing import bounded, quick
from hypothesis import given
from hypothesis import strategies as st

from jaxkd.cli import flags as command_line
from jaxkd.cli.main import COMMANDS, main
from jaxkd.config import build, load_recipe
from jaxkd.errors import JaxkdError

ARGUMENTS = ("alone", "tar", "gkd", "tar+gkd", "retinanet-tar", "mimic", "", "tarr", "x" * 50)


def fields(config, path="config"):
    """The paths of all fields of a recipe."""
    from ml_collections import ConfigDict

    for name, value in config.items():
        yield f"{path}.{name}"
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{path}.{name}")


FIELDS = sorted(set(fields(load_recipe("bccd", "tar+gkd"))))
VALUES = st.one_of(
    st.integers(-3, 10**6).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(
        [
            "True",
            "False",
            "None",
            "(1,)",
            "()",
            "((64,96),)",
            "(0.5,2.0)",
            "sgd",
            "'x'",
            "nan",
            "-inf",
            "1e400",
            "~",
            "(",
        ]
    ),
    st.text(max_size=6),
)
OVERRIDES = st.builds(
    lambda field, spoil, equals, value: f"--{field}{spoil}{equals}{value}",
    st.sampled_from(FIELDS),
    st.sampled_from(["", "", "", "", ".more", "x"]),
    st.sampled_from(["=", "=", "=", " "]),
    VALUES,
)


def parts(config):
    """Every component of a recipe, built."""
    from ml_collections import ConfigDict

    for value in config.values():
        if isinstance(value, ConfigDict):
            yield from parts(value) if "name" not in value else [build(value)]


@quick(80)
@given(argument=st.sampled_from(ARGUMENTS), overrides=st.lists(OVERRIDES, max_size=3))
def test_overrides_that_nobody_meant(argument, overrides):
    with bounded():
        try:
            config, rest = command_line.recipe([f"--config=bccd:{argument}", *overrides])
            list(parts(config))
        except JaxkdError as error:
            assert error.exit_code == 64
            assert "\n" not in str(error) and str(error).isprintable(), str(error)
            return
    assert not rest


FLAGS = """
--workdir=nowhere --workdir= --out=/dev/null/x --batch=0 --batch=x --help --config=bccd data --config=nowhere.py
--format=onnx --format=x --size=0x0 --every=0 -x -- gone.jpg --score=nan --steps=-1 --topology=v5e --plan --split=test
--classes=, --eps=-1 --config
"""
WORDS = st.sampled_from(FLAGS.split()) | st.text("-=a.~/:", max_size=6)
DANGEROUS = ("quickstart",)  # which begins to train for any flags that are right


@quick(80)
@given(command=st.sampled_from([name for name in COMMANDS if name not in DANGEROUS]), words=st.lists(WORDS, max_size=4))
def test_commands_that_nobody_meant(tmp_path_factory, command, words):
    out, err = io.StringIO(), io.StringIO()
    place = tmp_path_factory.mktemp("commands")
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), bounded():
        try:
            code = main([command, *words])
        except SystemExit as ended:  # --help
            code = ended.code
    said = err.getvalue()
    assert "Traceback" not in said
    if code != 0:
        (line,) = (line for line in said.splitlines() if line.startswith(f"jaxkd {command}: "))
        assert code in (64, 65, 66, 74) and line.isprintable(), (code, line)
    assert not [file for file in place.rglob("*") if "~" in file.name]

"""The notebooks: what each looks like in the repository, and that it runs from top to bottom.

They train for fewer steps than they say, and what they compile is little optimised; `make notebooks` runs them as they
are, and looks for the gain that they promise.
"""

import importlib.util
import os
import re
import resource
import shutil
import time
from pathlib import Path

import nbformat
import pytest
import quick_compile
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

COLABS = Path(__file__).parents[1] / "colabs"
NAMES = ("methods", "quickstart", "your_data")
ADDRESS = "https://colab.research.google.com/github/jaxkd/jaxkd/blob/main/colabs/"
PATIENCE = 960  # seconds of a cell, and of a core for a whole notebook; a quarter of that on a machine of today
WHOLE = bool(os.environ.get("JAXKD_WHOLE_NOTEBOOKS"))  # run them as they are
SHORTER = (  # what is written in a notebook, and what the tests run in its place
    (r'("steps": )400\b', r"\g<1>20"),
    (r"^STEPS = 400\b", "STEPS = 60"),  # enough to find a cell with
    (r"^( *)config\.train\.devices = 1\b", r"\g<1>config.train.evaluate_limit = 8\n\g<0>"),
    (r"^recipe\.train\.steps = 120$", "recipe.train.steps = 20"),
    (r"^config\.train\.steps = 40\b", "config.train.steps = 10"),
    (r'"val": 60\b', '"val": 24'),
)
LINES = {  # what is to be installed on a machine with each kind of chip
    "cpu": '"jaxkd-detection[onnx] @ git+https://github.com/jaxkd/jaxkd"',
    "gpu": '"jaxkd-detection[onnx] @ git+https://github.com/jaxkd/jaxkd" "jax[cuda12]"',
    "tpu": '"jaxkd-detection[onnx,tpu] @ git+https://github.com/jaxkd/jaxkd"',
}


def read(name):
    return nbformat.read(COLABS / f"{name}.ipynb", nbformat.NO_CONVERT)


def code(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def test_these_are_all_notebooks():
    assert sorted(file.stem for file in COLABS.glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestStored:
    def test_it_is_a_notebook_whose_cells_have_names_of_their_own(self, name):
        book = read(name)
        nbformat.validate(book)
        assert (book.nbformat, book.nbformat_minor) == (4, 5)
        names = [cell.id for cell in book.cells]
        assert len(set(names)) == len(names)

    def test_it_holds_nothing_of_a_run(self, name):
        for cell in code(name):
            assert (cell.outputs, cell.execution_count, cell.metadata) == ([], None, {}), cell.id

    def test_it_opens_in_colab(self, name):
        first = read(name).cells[0]
        assert first.cell_type == "markdown" and first.source.startswith("# ")
        assert f"]({ADDRESS}{name}.ipynb)" in first.source

    def test_what_it_links_to_exists(self, name):
        text = "\n".join(cell.source for cell in read(name).cells)
        for target in re.findall(rf"{ADDRESS}(\w+)\.ipynb", text):
            assert target in NAMES
        for target in re.findall(r"github\.com/jaxkd/jaxkd/(?:blob|tree)/main/([\w/.]+\w)", text.replace(ADDRESS, "")):
            assert (COLABS.parent / target).exists(), target

    def test_its_lines_are_short_and_its_cells_follow_their_words(self, name):
        kinds = [cell.cell_type for cell in read(name).cells]
        assert kinds[0] == kinds[-1] == "markdown"
        assert max(len(line) for cell in code(name) for line in cell.source.splitlines()) <= 120

    @pytest.mark.parametrize("chip", LINES)
    @pytest.mark.parametrize("there", (True, False))
    def test_its_first_cell_names_the_line_that_installs_and_installs_what_is_missing(
        self, name, chip, there, monkeypatch, capsys
    ):
        class Shell:
            lines = ()

            def run_line_magic(self, magic, line):
                self.lines = (*self.lines, (magic, line))

        monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
        monkeypatch.setattr(Path, "exists", lambda path: chip == "tpu" and str(path) == "/dev/accel0")
        monkeypatch.setattr(shutil, "which", lambda program: program if chip == "gpu" else None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda module: module if there else None)
        shell = Shell()
        values = {"get_ipython": lambda: shell}
        exec(TransformerManager().transform_cell(code(name)[0].source), values)
        assert f"pip install {LINES[chip]}\n" in capsys.readouterr().out
        assert values["wanted"] == LINES[chip]
        assert shell.lines == (() if there else (("pip", "install --quiet {wanted}"),))


def environment(folder):
    """That of the kernel: one device, the tests' compiled programs, and nothing of the user's own Jupyter."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    places = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR")
    flags = {"XLA_FLAGS": "" if WHOLE else quick_compile.FLAGS}
    return kept | dict.fromkeys(places, str(folder)) | flags | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def shorter(book):
    """The notebook with fewer training steps and fewer pictures to score on."""
    for cell in book.cells:
        if cell.cell_type == "code":
            for pattern, text in SHORTER:
                cell.source = re.sub(pattern, text, cell.source, flags=re.MULTILINE)
    return book


@pytest.fixture
def execute(tmp_path, monkeypatch, record_property):
    """Runs a notebook in a folder of its own and returns it with its outputs; its time is printed."""

    def run(name):
        quiet, work = tmp_path / "jupyter", tmp_path / "work"
        quiet.mkdir()
        work.mkdir()
        for key, value in environment(quiet).items():
            monkeypatch.setenv(key, value)
        book = read(name) if WHOLE else shorter(read(name))
        client = NotebookClient(
            book, kernel_name="python3", timeout=PATIENCE, resources={"metadata": {"path": str(work)}}
        )
        began, before = time.monotonic(), _used()
        book = client.execute(env=environment(quiet))
        seconds, used = time.monotonic() - began, _used() - before
        print(f"{name}: {seconds:.0f} s, {used:.0f} s of a core")
        record_property("seconds", seconds)
        assert used < PATIENCE  # on a machine with other work to do, it may take longer by the clock
        return book

    return run


def _used():
    """Seconds of a core that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outputs(book):
    return [(cell.id, output) for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def said(book):
    return "".join(output.text for _, output in outputs(book) if output.output_type == "stream")


def shown(book, kind):
    return [cell for cell, output in outputs(book) if kind in output.get("data", {})]


def check_quickstart(book):
    gain = re.search(r"The teacher gave the student ([+-]\d+\.\d) AP\.", said(book))
    assert gain and (float(gain[1]) > 0 or not WHOLE), said(book)
    assert shown(book, "image/png") == ["look", "pictures", "use"]
    assert shown(book, "text/html") == ["table", "curves", "gates"]


def check_your_data(book):
    assert "Nothing conspicuous was found." in said(book)
    assert re.search(r"taught has [+-]\d+\.\d AP against alone", said(book))
    counts = re.findall(r"(?:onnx|stablehlo): (\d+) objects", said(book))
    assert len(counts) == 2 and len(set(counts)) == 1 and int(counts[0]) > 0
    assert shown(book, "image/png") == ["look", "run"]
    assert {"page", "compare-page"} <= set(shown(book, "text/html"))


def check_methods(book):
    gates = re.findall(r"(\d+) of (\d+) positive regions are taught", said(book))
    assert len(gates) == 2 and all(0 < int(count) <= int(whole) for count, whole in gates)
    assert "the teacher says +1.5: the gate is open\nthe teacher says -0.5: the gate is shut" in said(book)
    drawn = {"picture", "mask", "level", "levels", "class", "box", "prototypes", "coordinates", "sigma", "local"}
    assert drawn == set(shown(book, "image/png"))
    assert shown(book, "text/html") == ["decay", "coordinates"]


CHECKS = {"methods": check_methods, "quickstart": check_quickstart, "your_data": check_your_data}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, execute):
    book = execute(name)
    warned = [(cell, output.text) for cell, output in outputs(book) if output.get("name") == "stderr"]
    assert not warned
    CHECKS[name](book)

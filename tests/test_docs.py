"""What the pages say: commands run or are marked, fields exist, and the site builds without a warning."""

import ast
import contextlib
import glob
import importlib
import importlib.util
import io
import json
import operator
import os
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import browser as browsers
import cv2
import distill_scene as scenes
import jax
import pytest
import test_recipes
from absl import flags
from PIL import Image

from jaxkd.cli import flags as command_line
from jaxkd.cli.main import COMMANDS, main
from jaxkd.config import build, component, is_part, load_recipe, module_of
from jaxkd.data import shapes
from jaxkd.data.base import Source
from jaxkd.detectors.base import Detector
from jaxkd.distill import decay, global_knowledge, task_adaptive

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^(?:\w+=\S+ )*(jaxkd|python|pip|make|source|sbatch|bash|launch/\S+|tensorboard|wandb)(?= |$)")
# What other tests run, so that here it is only looked at: commands, recipes that are trained, formats that are written.
ELSEWHERE = {"compare": "cli/test_compare", "explain": "cli/test_explain", "preflight": "cli/test_preflight_command"}
TRAINED = {*test_recipes.TRAINED, ("bccd", "tar")}
FORMATS = {"--format=stablehlo", "--format=tflite", "--format=savedmodel"}
# In place of a whole training: few steps on small pictures; the teacher is of its student's kind, so that no other
# program is compiled.
SMALL = {
    "teacher.py": "--config.student.backbone.depth=10 --config.student.backbone.groups=8 "
    "--config.student.head.hidden=64",
    "mine.py": "--config.teacher=runs/teacher/student",
}
STEPS = """
--config.train.steps=2 --config.train.batch=2 --config.train.devices=1 --config.train.report_every=1
--config.train.evaluate_batch=2 --config.train.evaluate_limit=2 --config.train.probe_every=0
--config.train.teacher_check=0 --config.data.loader.buckets=((64,96),) --config.data.loader.short=(64,)
--config.data.loader.long=96 --config.student.backbone.width=8 --config.student.neck.channels=16
"""
HOSTS = {  # that pages point to; whether they answer is not asked
    "apple.github.io",
    "arxiv.org",
    "blog.gitcode.com",
    "community.hailo.ai",
    "developer.axis.com",
    "github.com",
    "jobset.sigs.k8s.io",
}
WIDEST = 88  # letters of a line that a page shows without scrolling on a screen of 1280 pixels; see assets/pages.css
WIDTHS = (390, 1280)
ORDER = {page: place for place, page in enumerate(("your_data", "runs", "export", "extending"))}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    title: str
    text: str

    @property
    def marked(self) -> bool:
        return self.title.startswith("Needs ")

    @property
    def commands(self) -> list[str]:
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip()] if self.language == "console" else []


def blocks(page: Path) -> list[Block]:
    return [Block(page, *match.groups(default="")) for match in FENCE.finditer(page.read_text())]


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMAND_LINES = sorted({line for block in BLOCKS for line in block.commands})


def test_code_and_commands_fit_beside_the_lists_of_contents():
    for block in BLOCKS:
        if block.language in ("python", "console"):
            for line in block.text.splitlines():
                assert len(line) <= WIDEST, f"{block.page.name}: {line}"


def test_every_block_is_of_a_known_kind():
    for block in BLOCKS:
        where = f"{block.page.name}: {block.text[:60]}"
        assert block.language in ("console", "python", "text", "math", "json"), where
        for line in block.commands:
            assert PROGRAM.match(line), f"{block.page.name}: {line}"
        if block.language in ("text", "json"):
            assert not any(PROGRAM.match(line) for line in block.text.splitlines()), where
    for page in PAGES:
        rest = FENCE.sub("", page.read_text())
        loose = [line for line in rest.splitlines() if line.startswith("    ") and PROGRAM.match(line.strip())]
        assert not loose, f"{page.name}: {loose}"


# ---- commands, looked at ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with pictures and with the files that pages name."""
    place = tmp_path_factory.mktemp("pages")
    (place / "mine" / "images").mkdir(parents=True)
    for split, first, count in (("train", 1, 4), ("val", 5, 2)):
        source = shapes.load(shapes.Config(count=count, size=(64, 96), seed=first))
        content = source.annotations()
        for record, image in zip(source.records, content["images"], strict=True):
            image["file_name"] = f"{first + record.index:04d}.jpg"
            cv2.imwrite(str(place / "mine" / "images" / image["file_name"]), source.read(record.index)[..., ::-1])
        (place / "mine" / f"{split}.json").write_text(json.dumps(content))
    for block in BLOCKS:
        if block.language == "python" and block.title.endswith(".py"):
            assert not (place / block.title).exists(), f"two blocks are called {block.title}"
            (place / block.title).write_text(block.text)
    return place


@pytest.fixture
def inside(folder, monkeypatch):
    """The current folder, with modules of one's own on the path."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_names_what_exists(line, inside):
    words = shlex.split(line, comments=True)
    while re.match(r"\w+=|bash$", words[0]):
        words.pop(0)
    program, rest = words[0], words[1:]
    if program == "jaxkd":
        check_jaxkd(rest)
    elif program == "pip":
        check_extras(rest)
    elif program == "make":
        targets = re.findall(r"(?m)^(\w+):", (ROOT / "Makefile").read_text())
        assert set(rest) <= set(targets)
    elif program.startswith("launch/"):
        cut = rest.index("--") if "--" in rest else len(rest)
        shown(program, *rest[:cut], "--dry-run", *rest[cut:])
    elif program == "sbatch":
        cut = rest.index("launch/slurm.sbatch")
        assert all(re.fullmatch(r"--(nodes|gpus-per-node|time)=\S+", word) for word in rest[:cut])
        shown(rest[cut], "--dry-run", *rest[cut + 1 :])
    elif program == "python" and rest[0].startswith("benchmarks/"):
        text = (ROOT / rest[0]).read_text()
        named = {word.split("=")[0] for word in rest[1:] if word.startswith("--")}
        assert all(f'"{name.replace("--no-", "--")}"' in text for name in named), named


def check_jaxkd(words):
    """Loads the recipe with its overrides, and reads the flags."""
    name, rest = words[0], words[1:]
    assert name in COMMANDS
    module = importlib.import_module(f"jaxkd.cli.{name}")
    chosen, rest = command_line.choice(rest)
    chosen.recipe(load_recipe("bccd", "tar+gkd"))  # a field that stands alone is one of the run's recipe
    command_line.parse(name, rest, getattr(module, "define", lambda values: flags), positional="ANY")


def check_extras(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for names in re.findall(r"^(?:\.|jaxkd)\[(.*)\]", word):
            assert set(names.split(",")) <= set(extras), word


def shown(script, *words):
    done = subprocess.run(["bash", ROOT / script, *words], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_what_is_run_elsewhere_is():
    for name, file in ELSEWHERE.items():
        assert f'"{name}"' in (ROOT / "tests" / f"{file}.py").read_text()


def test_every_field_that_is_named_exists():
    """Also outside of blocks, in the recipe with the most parts."""
    recipe = load_recipe("bccd", "tar+gkd")
    for page in PAGES:
        for field in re.findall(r"--config\.([\w.]+)=", page.read_text()):
            place = recipe
            field = re.sub(r"^teachers\.\w+\.view(?=\.)", "data.loader.teacher_view", field)
            for name in re.sub(r"^teachers\.\w+\.(?=distill)", "", field).split("."):
                assert name in place, f"{page.name}: {field}"
                place = place[name]


# ---- commands, run ----


def run(line, folder):
    """A command as the shell would run it, made small; only looked at where another test runs the like."""
    words = shlex.split(line, comments=True)
    while re.match(r"\w+=", words[0]):
        words.pop(0)
    if words[0] == "python":
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=folder, timeout=600)
        assert done.returncode == 0, done.stderr
        return
    if words[0] == "bash":
        words = words[1:]
    if words[0].startswith("launch/"):
        cut = words.index("--") if "--" in words else len(words)
        assert "--dry-run" in words[:cut], f"{line} reaches out; give its block a title that begins with Needs"
        shown(*words)
        return
    assert words[0] == "jaxkd", f"nothing runs {line}; give its block a title that begins with Needs"
    if words[1] in ELSEWHERE or FORMATS & set(words):
        return
    words = [name for word in words[1:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    recipe = next((tuple(word[9:].split(":")) for word in words if word.startswith("--config=")), ())
    if words[0] == "train" and recipe in TRAINED:
        return
    if words[0] == "train":
        words += STEPS.split() + SMALL.get(recipe[0], "").split()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    assert code == 0, f"{line}\n{said.getvalue()}"


@pytest.mark.parametrize(
    "line", ["pip install pillow", "make test", "tensorboard --logdir=runs", "launch/tpu_pod.sh down"]
)
def test_a_command_that_nothing_runs_has_to_be_marked(line, tmp_path):
    with pytest.raises(AssertionError, match="Needs"):
        run(line, tmp_path)


@pytest.fixture
def quickly_compiled():
    """Programs that are compiled in a half of the time, and run for longer."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # what was compiled so rounds otherwise, and would be called again


def test_unmarked_commands_and_code_run(inside, quickly_compiled):
    """Each command once, in the order of the pages, of which the first ones make what others look at."""
    done = set()
    for block in sorted(BLOCKS, key=lambda block: ORDER.get(block.page.stem, len(ORDER))):
        if block.marked or block.title.endswith(".py"):
            continue
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, str(block.page), "exec"), {"__name__": block.page.stem})
        for line in block.commands:
            if line not in done:
                done.add(line)
                run(line, inside)
    assert len(done) > 20


def test_the_examples_keep_what_the_protocols_promise(inside):
    method = build(component("strength"))
    module, scene = module_of(method), scenes.scene()
    terms = scenes.ask(module, method, {}, scene).terms
    assert len(terms) == 2 and all(term.mean() > 0 for term in terms.values())
    spoilt = scenes.ask(module, method, {}, scenes.with_junk_in_padding(scene)).terms
    assert {name: term.mean() for name, term in spoilt.items()} == {name: term.mean() for name, term in terms.items()}
    same = scenes.scene(student=4, teacher=4)
    same = same._replace(student=same.teacher)
    assert all(term.total == 0 for term in scenes.ask(module, method, {}, same).terms.values())
    (inside / "images").mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(inside / "images" / "a.png")
    (inside / "boxes.csv").write_text("file,x0,y0,x1,y1,class\na.png,1,2,3,4,cat\na.png,5,5,5,6,dog\n")
    config = build(component("csv_boxes"))
    source = module_of(config).load(config)
    assert isinstance(source, Source) and source.classes == ("cat", "dog")
    assert source.repairs == {"sizes_missing": 1, "boxes_without_area": 1}
    detector = build(component("cells", backbone=component("plain", width=4)))
    assert isinstance(module_of(detector).build(detector, classes=("cat", "dog")), Detector)


# ---- fields ----

ROW = re.compile(r"^\|(?: .*)? \| `([\w.]+)` \| (?:`([^`]*)`)? *\| ", re.MULTILINE)


def fields(cls, part=""):
    """The fields of a config, those of its parts dotted."""
    for name, hint in typing.get_type_hints(cls).items():
        yield from fields(hint, f"{part}{name}.") if is_part(hint) else [f"{part}{name}"]


@pytest.mark.parametrize(
    ("heading", "config"),
    [
        ("Fields of TAR", task_adaptive.Config()),
        ("Fields of GKD", global_knowledge.Config()),
        ("Fields of the decay", decay.Config()),
    ],
)
def test_every_field_of_a_method_has_its_symbol_and_its_default(heading, config):
    text = (DOCS / "ideas.md").read_text()
    (section,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    told = dict(ROW.findall(section))
    assert list(told) == sorted(told, key=list(told).index)
    assert set(told) == set(fields(type(config)))
    for name, default in told.items():
        if name != "decay":
            assert ast.literal_eval(default) == operator.attrgetter(name)(config), name


# ---- the site ----


@pytest.fixture(scope="module")
def pages():
    """The hooks that make pages."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "tools" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_recipe_has_a_run_card(pages):
    text = pages.run_cards(ROOT / "configs")
    for name in test_recipes.RECIPES:
        assert f"### {name}\n" in text
    assert text.count("* **command**: `jaxkd train --config=") == len(test_recipes.RECIPES)


def test_the_command_of_a_run_card_names_what_exists(pages):
    for file in sorted((ROOT / "configs").glob("*.py")):
        _, card = pages.run_card(ast.get_docstring(ast.parse(file.read_text())))
        check_jaxkd(shlex.split(card["command"])[1:])


def test_a_table_that_is_shown_twice_is_found_or_missed(pages):
    text = "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n| c |\n"
    assert pages.table(text, begins="| a |") == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    with pytest.raises(ValueError, match="0 tables"):
        pages.table(text, begins="| d |")


class Links(HTMLParser):
    """What a page points to and loads, and the places in it."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.loaded, self.places = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.targets.add(found["href"])
        if found.get("src") or (tag == "link" and found.get("href")):
            self.loaded.add(found.get("src") or found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages by their place, after a build in which every warning is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("The site is built where the extra docs is installed.")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={out}"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {file.relative_to(out): Links(file.read_text()) for file in out.rglob("*.html")}, out


def test_the_site_builds_without_a_warning_and_has_every_page(site):
    found, _ = site
    assert {page.relative_to(DOCS).with_suffix(".html") for page in PAGES} <= set(found)


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    found, out = site
    for page, links in found.items():
        if page.name == "404.html":  # is served from anywhere, so its links are those of the server's root
            continue
        for target in links.targets | links.loaded:
            parts = urlsplit(target)
            if parts.scheme:
                assert target in links.targets and target not in links.loaded, f"{page} loads {target}"
                assert parts.scheme == "https" and parts.netloc in HOSTS and " " not in target, f"{page}: {target}"
                continue
            place = (out / page).parent / unquote(parts.path) if parts.path else out / page
            place = Path(os.path.normpath(place))
            assert place.is_file() or (place / "index.html").is_file(), f"{page}: {target}"
            if parts.fragment and place.suffix == ".html":
                assert unquote(parts.fragment) in found[place.relative_to(out)].places | {""}, f"{page}: {target}"


def test_no_code_block_is_cut_off_without_a_bar(site, tmp_path):
    found, out = site
    call = browsers.start(tmp_path)
    pages = sorted(out / page for page in found if page.name != "404.html")
    for shown in browsers.shown_at(call, pages, WIDTHS, of="article :is(pre, pre *, table, .md-typeset__scrollwrap)"):
        assert shown.needed <= shown.width and shown.faults == [], shown
    for shown in browsers.shown_at(call, pages, WIDTHS[-1:], of="article pre:not(details *) > code"):
        assert shown.scrolls == [], shown


def test_the_reference_has_every_method_detector_source_and_operation(site):
    found, _ = site
    for package, page in (("distill", "distill"), ("detectors", "detectors"), ("data", "data"), ("ops", "ops")):
        places = found[Path(f"api/{page}.html")].places
        for file in (ROOT / "jaxkd" / package).glob("[a-z]*.py"):
            assert f"jaxkd.{package}.{file.stem}" in places
    assert {"jaxkd.load", "jaxkd.config.component", "jaxkd.types.Batch"} <= found[Path("api/core.html")].places

"""What the README shows does what it says."""

import re
from pathlib import Path

import distill_scene as scenes

from jaxkd.config import build, component, load_recipe, module_of
from jaxkd.distill import base
from jaxkd.types import Term

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_method_of_ones_own_works(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (code,) = (block for block in blocks if "mymethods" in block)
    (tmp_path / "mymethods").mkdir()
    (tmp_path / "mymethods" / "logits.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = build(component("mymethods.logits", weight=0.5))
    scene = scenes.scene()
    scenes.check(config, scene.student.traits, scene.teacher.traits)
    assert module_of(config).region_sources(config) == (base.RegionSource(),)
    outcome = scenes.ask(module_of(config), config, {}, scene)
    assert isinstance(outcome.terms["logits"], Term)
    assert outcome.terms["logits"].mean() > 0
    same = scene._replace(teacher=scene.student)
    assert abs(scenes.ask(module_of(config), config, {}, same).terms["logits"].mean()) < 1e-6


def test_every_field_that_is_overridden_exists():
    recipe = load_recipe("bccd", "tar")
    fields = set(re.findall(r"--config\.([\w.]+)=", README))
    assert len(fields) > 3
    for field in fields:
        place = recipe
        for name in field.split("."):
            assert name in place, field
            place = place[name]


def test_every_file_that_it_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        name, _, heading = target.partition("#")
        file = Path(__file__).parents[1] / name
        assert file.exists(), target
        titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in [title.lower().replace(" ", "-") for title in titles], target

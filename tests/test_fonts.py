"""Names on pictures: a font that has their letters, or a substitute that is reported."""

import pytest

from jaxkd import fonts

CELL = "细胞"


@pytest.fixture
def bare(monkeypatch):
    """A system without fonts."""
    monkeypatch.setattr(fonts, "SYSTEM", ("there is no such font.ttf",))
    fonts._font_file.cache_clear()
    yield
    fonts._font_file.cache_clear()


def test_plain_names_need_no_font_of_the_system(bare):
    for name in ("cat", "<b>", "[red]", "10 of hearts", "a_b-c/d"):
        assert fonts.class_text(name, label=0) == name
        assert fonts.font_of(name, 12) is not None
    assert fonts.legend(("cat", "dog")) == ""


def test_letters_that_no_font_has_are_replaced_and_said(bare):
    assert fonts.class_text("Größe", label=1) == "Grosse"
    assert fonts.class_text(CELL, label=2) == "#3"
    assert fonts.font_of(CELL, 12) is None
    said = fonts.legend(("cat", "Café", CELL))
    assert said.endswith(f"pictures have Cafe for Café, #3 for {CELL}.")


def test_a_name_and_what_stands_for_it_can_be_drawn():
    for name in ("cat", "Café", CELL, "हिन्दी"):
        shown = fonts.class_text(name, label=0)
        assert fonts.font_of(shown, 12).getmask(shown).size[0] > 0

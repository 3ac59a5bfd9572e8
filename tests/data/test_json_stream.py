"""Long JSON files: equal to what json reads, however they are cut into pieces, and refused where they are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxkd.data import json_stream
from jaxkd.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def expected(content):
    if isinstance(content, list):
        return [("", item) for item in content]
    return [(key, item) for key, value in content.items() for item in (value if isinstance(value, list) else [value])]


@given(
    st.lists(VALUES, max_size=4) | st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
)
def test_items_are_those_that_json_reads(tmp_path_factory, content, chunk, indent):
    file = tmp_path_factory.mktemp("stream") / "file.json"
    file.write_text(json.dumps(content, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        assert list(json_stream.items(file)) == expected(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "neither a list nor an object"),
        ("3", "neither a list nor an object"),
        ("[1, 2", "comma"),
        ("[1 2]", "comma"),
        ("[1,]", "comma"),
        ('{"a" 1}', "key"),
        ("{1: 2}", "key"),
        ('{"a": [1, }', "character 10"),
        ("[1] 2", "follows"),
        ("[" * 100_000, "nested"),
        ("\x00", "neither"),
    ],
)
def test_what_is_no_json(tmp_path, text, words):
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(DataError, match=words):
        list(json_stream.items(file))


def test_memory_is_bounded(tmp_path, monkeypatch):
    file = tmp_path / "file.json"
    file.write_text(json.dumps(["x" * 100] * 10))
    monkeypatch.setattr(json_stream, "CHUNK", 16)
    monkeypatch.setattr(json_stream, "LONGEST", 64)
    with pytest.raises(DataError, match="longer than 64 characters"):
        list(json_stream.items(file))


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "file.json").write_bytes(b"[\xff]")
    for file in (tmp_path / "file.json", tmp_path / "none.json"):
        with pytest.raises(DataError, match="cannot be read"):
            list(json_stream.items(file))

"""Numbers and lists in sentences."""

import pytest

from jaxkd import phrases


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "object", "0 objects"),
        (1, "object", "1 object"),
        (2, "object", "2 objects"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (2, "true box", "2 true boxes"),
        (1, "validation picture", "1 validation picture"),
        (12, "validation picture", "12 validation pictures"),
    ],
)
def test_one_is_one_and_others_are_several(number, noun, said):
    assert phrases.counted(number, noun) == said


def test_names_in_a_row():
    rows = [[], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert [phrases.listed(names) for names in rows] == ["", "a", "a and b", "a, b and c"]
    assert phrases.some(["a", "b", "c"], most=3) == "a, b and c"
    assert phrases.some(["a", "b", "c", "d", "e"], most=3) == "a, b, c and 2 more"

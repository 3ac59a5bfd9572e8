import pytest

from jaxkd.data.ids import Ids, as_int
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), ("3", 3), ("-3", -3), ("007", 7), (-2.0, -2)]
    + [(value, None) for value in (True, 1.5, "1.5", "x", "", " 3", "³", None, [3], float("nan"), 1e300, "9" * 40)],
)
def test_whole_numbers(value, number):
    assert as_int(value) == number


def made(values, *, text=True):
    repairs = Repairs("a file")
    return Ids(values, repairs, of="images", file="f.json", text=text), repairs


def test_a_number_is_found_however_it_is_written():
    ids, repairs = made([1, 2.0, 30])
    assert ids.numbers == [1, 2, 30]
    assert [ids.find(value) for value in (1, 1.0, 2, 30.0)] == [1, 1, 2, 30]
    assert repairs == {}
    assert [ids.find(value) for value in ("1", "30", "4", 4, None, True, 1.5, [1])] == [1, 30] + [None] * 6
    assert repairs == {"ids_as_numbers": 2}
    assert repairs.examples["ids_as_numbers"] == "'1' for 1"


def test_text_that_agrees_needs_no_word():
    ids, repairs = made(["1", "2"])
    assert ids.numbers == [1, 2]
    assert [ids.find(value) for value in ("1", "2", "3")] == [1, 2, None]
    assert repairs == {}
    assert ids.find(1) == 1
    assert repairs == {"ids_as_numbers": 1}


def test_names_are_numbered_apart_from_the_numbers():
    ids, repairs = made(["b.jpg", 7, "a.jpg"])
    assert ids.numbers == [8, 7, 9]
    assert [ids.find(value) for value in ("a.jpg", "b.jpg", 7, "c.jpg")] == [9, 8, 7, None]
    assert repairs == {"ids_numbered_anew": 2}


@pytest.mark.parametrize(
    ("values", "text", "said"),
    [
        ([1, 2, 1], True, r"^f.json has 2 images with the id 1; make the ids different\.$"),
        ([1, "1"], True, "2 images with the id 1 and '1'"),
        (["a", "a"], True, "with the id 'a'"),
        (["a"], False, "entry 0 of images has id = 'a'; it has to be a whole number"),
        ([1, None], True, "entry 1 of images has id = None"),
        ([""], True, "entry 0 of images has id = ''"),
        ([True], True, "id = True"),
    ],
)
def test_what_is_no_id(values, text, said):
    with pytest.raises(DataError, match=said):
        made(values, text=text)

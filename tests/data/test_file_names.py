import unicodedata

import pytest

from jaxkd.data import names
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError


@pytest.fixture
def find(tmp_path):
    """Finds names among files of these names, and gives what was counted."""

    def found(wanted, *there, **options):
        for name in there:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        repairs = Repairs("a file")
        return names.find(wanted, tmp_path, repairs, where=lambda place: f"entry {place}", **options), repairs

    return found


def test_names_that_are_there_stay(find):
    assert find(["a.jpg", "b/c.jpg"], "a.jpg", "b/c.jpg") == (["a.jpg", "b/c.jpg"], {})
    assert find([]) == ([], {})


def test_what_is_not_there_stays_too(find):
    assert find(["a.jpg", "gone.jpg"], "a.jpg") == (["a.jpg", "gone.jpg"], {})


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_another_form_of_unicode_is_taken(find, form):
    there = unicodedata.normalize(form, "é ü/가.jpg")
    wanted = unicodedata.normalize("NFD" if form == "NFC" else "NFC", there)
    assert find([wanted, "a.jpg"], there, "a.jpg") == ([there, "a.jpg"], {"names_in_another_form": 1})


@pytest.mark.parametrize(
    "prefix",
    ["images/", "data/images/", "/home/somebody/images/", "../upload/", "C:/images/", "images\\", "D:\\a\\b\\"],
)
def test_a_folder_that_all_names_share_is_passed_over(find, prefix):
    found, repairs = find([prefix + "a.jpg", prefix + "b.jpg"], "a.jpg", "b.jpg")
    assert found == ["a.jpg", "b.jpg"]
    assert repairs["names_below_a_shared_folder"] == 2
    assert repairs.examples["names_below_a_shared_folder"] == prefix + "a.jpg"
    assert repairs.get("names_with_backslashes", 0) == 2 * ("\\" in prefix)


def test_one_missing_picture_does_not_hide_the_shared_folder(find):
    found, _ = find(["images/a.jpg", "images/b.jpg", "images/gone.jpg"], "a.jpg", "b.jpg")
    assert found == ["a.jpg", "b.jpg", "images/gone.jpg"]


def test_folders_that_are_there_stay(find):
    assert find(["images/a.jpg", "images/b.jpg"], "images/a.jpg", "a.jpg", "b.jpg")[0] == [
        "images/a.jpg",
        "images/b.jpg",
    ]


def test_backslashes_between_folders(find):
    found, repairs = find(["x\\a.jpg", "b.jpg"], "x/a.jpg", "b.jpg")
    assert (found, repairs) == (["x/a.jpg", "b.jpg"], {"names_with_backslashes": 1})


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/passwd", "C:/a.jpg", "x/../../a.jpg", "..\\..\\a.jpg", "", "\0.jpg"]
)
def test_a_name_that_leads_out_is_refused(find, name):
    with pytest.raises(DataError, match=r"^entry 1 names the file"):
        find(["a.jpg", name], "a.jpg")


def test_a_shared_folder_does_not_open_the_way_out(find):
    with pytest.raises(DataError, match="could lead out of the picture folder"):
        find(["/data/../secret.jpg", "/data/a.jpg", "/data/b.jpg"], "a.jpg", "b.jpg")


def test_an_address_is_called_one(find):
    with pytest.raises(DataError, match=r"^entry 1 names the picture 'https://.*', which is an address on a network"):
        find(["a.jpg", "https://example.org/b.jpg"], "a.jpg")


def test_another_suffix_where_it_is_wanted(find):
    there = ("a.PNG", "b.jpeg", "b.txt", "c.png", "c.webp")
    found, repairs = find(["a.jpg", "b.jpg", "c.jpg"], *there, any_suffix=True)
    assert (found, repairs) == (["a.PNG", "b.jpeg", "c.jpg"], {"names_with_another_suffix": 2})
    assert find(["a.jpg"])[0] == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("a.jpg", "A.JPG"),
        ("my%20photo.png", "x/my photo.png"),
        ("photos/one.jpg", "x/one.jpg"),
        ("x/one.png", "x/one.jpg"),
        ("photos\\one.jpg", "x/one.jpg"),
        ("nothing.jpg", ""),
    ],
)
def test_the_nearest_file(tmp_path, name, near):
    (tmp_path / "x").mkdir()
    for there in ("A.JPG", "x/my photo.png", "x/one.jpg", "one.txt"):
        (tmp_path / there).touch()
    assert names.Index(tmp_path).nearest(name) == near

import pytest

from jaxkd.data import pictures, sizes
from jaxkd.data.pictures import Header
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import AnnotatedPicture
from jaxkd.errors import DataError


@pytest.mark.parametrize(
    ("annotated", "header", "kind", "size"),
    [
        ((72, 96), Header(72, 96, 1), "equal", (72, 96)),
        ((72, 97), Header(72, 96, 1), "equal", (72, 96)),
        ((72, 96), Header(72, 96, 6), "equal", (72, 96)),
        ((96, 72), Header(72, 96, 6), "equal", (96, 72)),
        ((72, 96), Header(72, 96, 3), "undecided", (72, 96)),
        ((80, 80), Header(80, 80, 6), "undecided", (80, 80)),
        ((72, 96), Header(36, 48, 1), "scaled", (36, 48)),
        ((72, 96), Header(144, 192, 1), "scaled", (144, 192)),
        ((427, 640), Header(800, 1199, 1), "scaled", (800, 1199)),
        ((480, 640), Header(640, 480, 8), "equal", (480, 640)),
        ((240, 320), Header(640, 480, 8), "scaled", (480, 640)),
        ((96, 72), Header(72, 96, 1), "exchanged", (72, 96)),
        ((72, 96), Header(72, 40, 1), "other", (72, 40)),
        ((100, 100), Header(72, 96, 1), "other", (72, 96)),
        (None, Header(72, 96, 1), "missing", (72, 96)),
        (None, Header(72, 96, 6), "missing", (96, 72)),
    ],
)
def test_how_sizes_go_together(annotated, header, kind, size):
    assert sizes.compare(annotated, header, turns=True) == sizes.Comparison(kind, size)


def test_a_missing_size_is_that_of_the_stored_picture_where_exif_is_ignored():
    assert sizes.compare(None, Header(72, 96, 6), turns=False).size == (72, 96)


def annotated_pictures(*given, extent=(0.0, 0.0)):
    return [AnnotatedPicture(f"{place}.jpg", "f.json", size, extent) for place, size in enumerate(given)]


def test_exif_is_decided_by_the_pictures_whose_size_tells():
    headers = dict(enumerate([Header(72, 96, 6), Header(72, 96, 8), Header(72, 96, 3), Header(72, 96, 1)]))
    turned = annotated_pictures((96, 72), (72, 96), (72, 96), (72, 96))
    for annotated, exif in (
        (turned, "turn"),  # one each way: as viewers do
        (annotated_pictures((72, 96), (72, 96), (72, 96), (72, 96)), "ignore"),
        (annotated_pictures((96, 72), (96, 72), (72, 96), (72, 96)), "turn"),
    ):
        assert sizes.resolve_exif(pictures.Config(), annotated, headers).exif == exif
    assert sizes.resolve_exif(pictures.Config(exif="ignore"), turned, headers).exif == "ignore"
    assert sizes.resolve_exif(pictures.Config(), turned, {2: headers[2]}).exif == "turn"


def test_boxes_beyond_the_annotated_size_tell_that_it_is_wrong():
    headers = {0: Header(144, 192, 1), 1: Header(144, 192, 1)}
    inside, beyond = (
        annotated_pictures((72, 96), (72, 96), extent=extent) for extent in ((70.0, 90.0), (140.0, 190.0))
    )
    kinds = [{one.kind for one in sizes.compare_all(given, headers, turns=True).values()} for given in (inside, beyond)]
    assert kinds == [{"scaled"}, {"wrong"}]


def test_what_differs_is_counted_with_an_example_and_stops_in_strict():
    annotated = annotated_pictures((72, 96), (96, 72), (72, 96), None)
    headers = dict(enumerate([Header(36, 48, 1), Header(72, 96, 1), Header(72, 96, 3), Header(72, 96, 1)]))
    comparisons = sizes.compare_all(annotated, headers, turns=True)
    repairs = Repairs("f.json")
    sizes.count_differences(annotated, headers, comparisons, repairs, turns=True, strict=False)
    assert repairs == {"exif_undecided": 1, "sizes_missing": 1, "sizes_scaled": 1, "sizes_exchanged": 1}
    assert repairs.sentences() == [
        "pictures with an EXIF orientation that their size cannot confirm: 1, the first 2.jpg (orientation 3), turned "
        "by it; reading.exif='turn' or 'ignore' decides.",
        "pictures without an annotated size, taken from their files: 1, the first 3.jpg, 96x72.",
        "pictures scaled since they were annotated, whose boxes are scaled with them: 1, the first 0.jpg, 48x36 in "
        "place of 96x72.",
        "pictures whose annotated width and height are exchanged, taken as they are: 1, the first 1.jpg, 96x72 in "
        "place of 72x96.",
    ]
    with pytest.raises(DataError, match=r"f\.json: pictures scaled since they were annotated: 1, the first 0\.jpg"):
        sizes.count_differences(annotated, headers, comparisons, Repairs("f.json"), turns=True, strict=True)

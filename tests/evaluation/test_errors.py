"""Kinds of error and mixed-up classes, on pictures small enough to check by hand."""

import json

import numpy as np
import pytest

from jaxkd.errors import DataError
from jaxkd.evaluation.coco import score
from jaxkd.evaluation.errors import KINDS, analyse, confusion

CAT, DOG = 3, 8
CATEGORIES = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]


def truth(*objects, images=(1,)):
    """Objects are (image, category, box) with anything more as a fourth."""
    return {
        "images": [{"id": image, "height": 100, "width": 200} for image in images],
        "categories": CATEGORIES,
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, **dict(*more)}
            for number, (image, category, box, *more) in enumerate(objects)
        ],
    }


def found(category, box, score=0.9, image=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def right_of(box, share):
    """The box moved right until its overlap with the old one is about this share."""
    x, y, width, height = box
    return [x + width * (1 - share) / (1 + share), y, width, height]


BOX = [10, 10, 40, 40]
ONE_CAT = truth((1, CAT, BOX))


def counted(scene, *detections, **options):
    """The kinds that occur, and how often."""
    return {kind: count for kind, count in analyse(scene, detections, **options).counts.items() if count}


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([], {"missed": 1}),
        ([found(CAT, BOX)], {}),
        ([found(CAT, right_of(BOX, 0.51))], {}),
        ([found(CAT, right_of(BOX, 0.49))], {"localisation": 1}),
        ([found(CAT, right_of(BOX, 0.11))], {"localisation": 1}),
        ([found(CAT, right_of(BOX, 0.09))], {"background": 1, "missed": 1}),
        ([found(DOG, right_of(BOX, 0.51))], {"classification": 1}),
        ([found(DOG, right_of(BOX, 0.49))], {"both": 1, "missed": 1}),
        ([found(DOG, right_of(BOX, 0.09))], {"background": 1, "missed": 1}),
        ([found(DOG, [150, 10, 40, 40])], {"background": 1, "missed": 1}),
        ([found(CAT, BOX), found(CAT, BOX, 0.8)], {"duplicate": 1}),
        ([found(CAT, BOX, 0.8), found(CAT, right_of(BOX, 0.7))], {"duplicate": 1}),  # the surer one claims
        ([found(CAT, BOX), found(DOG, BOX, 0.8)], {"classification": 1}),
    ],
)
def test_one_object(detections, expected):
    assert counted(ONE_CAT, *detections) == expected


def test_the_place_of_the_own_class_counts_before_that_of_another():
    scene = truth((1, CAT, BOX), (1, DOG, right_of(BOX, 0.8)))
    assert counted(scene, found(CAT, BOX), found(CAT, right_of(BOX, 0.9), 0.8)) == {"duplicate": 1, "missed": 1}
    # Near a cat, but in the place of the dog.
    assert counted(scene, found(CAT, right_of(BOX, 0.45))) == {"classification": 1, "missed": 1}


def test_crowds_and_ignored_objects_are_neither_found_nor_missed():
    scene = truth((1, CAT, [0, 0, 80, 80], {"iscrowd": 1}), (1, DOG, [100, 0, 40, 40], {"ignore": 1}))
    inside = [found(CAT, [5, 5, 20, 20]), found(CAT, [40, 40, 20, 20]), found(DOG, [100, 0, 40, 40])]
    assert counted(scene, *inside) == {}
    again = found(DOG, [100, 0, 40, 40], 0.5)  # an ignored object takes one, as pycocotools has it
    assert counted(scene, *inside, again) == {"background": 1}
    assert counted(scene, found(DOG, [5, 5, 20, 20])) == {"background": 1}  # the crowd is one of cats
    assert np.isnan(analyse(scene, inside).ap50)


def test_only_sure_detections_where_that_is_asked():
    unsure = found(CAT, BOX, 0.4)
    assert counted(ONE_CAT, unsure) == {}
    assert counted(ONE_CAT, unsure, least=0.5) == {"missed": 1}


def test_only_some_pictures():
    scene = truth((1, CAT, BOX), (2, CAT, BOX), images=(1, 2))
    assert counted(scene) == {"missed": 2}
    assert counted(scene, only={2}) == {"missed": 1}
    with pytest.raises(DataError, match="image 1, which is not among those evaluated"):
        analyse(scene, [found(CAT, BOX)], only={2})


def test_what_mending_is_worth_by_hand():
    # Two cats; one is found, surely; the other only by a wrong box, of some kind, that is less sure.
    scene = truth((1, CAT, BOX), (2, CAT, BOX), images=(1, 2))
    sure, half = found(CAT, BOX), 51 / 101  # recall 0.5 is reached at 51 of 101 places

    def costs(*more):
        errors = analyse(scene, [sure, *more])
        assert errors.ap50 == pytest.approx(half)
        return {kind: cost for kind, cost in errors.costs.items() if abs(cost) > 1e-9}

    rest = pytest.approx(1 - half)
    for nothing in ([], [found(CAT, [150, 10, 40, 40])]):
        assert analyse(scene, nothing).costs["missed"] == 1
    assert costs() == {"missed": rest}
    assert costs(found(CAT, right_of(BOX, 0.3), 0.8, image=2)) == {"localisation": rest}
    assert costs(found(DOG, BOX, 0.8, image=2)) == {"classification": rest}
    assert costs(found(CAT, BOX, 0.8)) == {"missed": rest}  # a duplicate behind all that is right costs nothing
    assert costs(found(CAT, [150, 10, 40, 40], 0.8)) == {"missed": rest}


def test_a_wrong_box_before_the_right_one_costs_precision():
    assert analyse(ONE_CAT, [found(CAT, BOX, 0.5), found(CAT, [150, 10, 40, 40], 0.9)]).costs == pytest.approx(
        dict.fromkeys(KINDS, 0.0) | {"background": 0.5}
    )


def test_of_two_that_are_mended_to_one_object_the_surer_stays():
    # Moved into place, the surer box becomes the one that finds the cat; the other would be a duplicate, and goes.
    near, exact = found(CAT, right_of(BOX, 0.3), 0.9), found(CAT, BOX, 0.5)
    errors = analyse(ONE_CAT, [near, exact])
    assert errors.counts["localisation"] == 1
    assert (errors.ap50, errors.costs["localisation"]) == pytest.approx((0.5, 0.5))


def test_a_mended_class_counts_for_the_class_of_the_object():
    scene = truth((1, CAT, BOX), (2, DOG, BOX), images=(1, 2))
    errors = analyse(scene, [found(CAT, BOX), found(CAT, BOX, 0.95, image=2)])
    assert errors.ap50 == pytest.approx((0.5 + 0.0) / 2)
    assert errors.costs["classification"] == pytest.approx(0.75)


@pytest.mark.parametrize("detector", ["centernet", "nanodet"])
def test_the_matching_is_that_of_pycocotools(shared, detector):
    folder = shared / "data" / "minicoco"
    scene = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    detections = json.loads((folder / "detector_results" / f"{detector}_results.json").read_text())
    errors = analyse(scene, detections)
    assert errors.ap50 == pytest.approx(score(scene, detections).summary["AP50"], abs=1e-9)
    assert all(cost > -1e-9 for cost in errors.costs.values())
    assert tuple(errors.counts) == tuple(errors.costs) == KINDS


def test_confusion_by_hand():
    scene = truth((1, CAT, BOX), (1, DOG, [100, 10, 40, 40]), (2, DOG, BOX), images=(1, 2))
    mixed = confusion(
        scene,
        [
            found(CAT, right_of(BOX, 0.8)),
            found(CAT, [100, 10, 40, 40]),  # a dog taken for a cat
            found(DOG, [100, 10, 40, 40], 0.6),  # its place is taken
            found(DOG, BOX, 0.4, image=2),  # not sure enough: the dog is not found
        ],
    )
    assert mixed.classes == ("cat", "dog")
    assert mixed.counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_of_two_objects_in_one_place_that_of_the_same_class_is_claimed():
    scene = truth((1, CAT, BOX), (1, DOG, BOX))
    for first, second in ((CAT, DOG), (DOG, CAT)):
        counts = confusion(scene, [found(first, BOX, 0.9), found(second, BOX, 0.8)]).counts
        assert counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_confusion_leaves_crowds_out():
    scene = truth((1, CAT, [0, 0, 80, 80], {"iscrowd": 1}))
    assert confusion(scene, [found(DOG, [5, 5, 20, 20])]).counts.sum() == 0
    assert confusion(scene, []).counts.sum() == 0

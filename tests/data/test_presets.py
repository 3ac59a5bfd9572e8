import pytest

from jaxkd.data.augment import Config
from jaxkd.data.presets import coloured, oriented, preset

CLASSES = ("cat", "dog")
LARGE = 5_000_000


def auto(pictures, *, parameters=LARGE, classes=CLASSES, repeated=False):
    return preset("auto", pictures=pictures, parameters=parameters, classes=classes, repeated=repeated)


@pytest.mark.parametrize(
    ("pictures", "repeated", "mosaic", "crop", "paste", "cutout", "colour", "hue", "scale"),
    [
        (299, True, 0.5, 0.3, 0.3, 0.2, 0.8, 6.0, (0.3, 2.0)),
        (299, False, 0.5, 0.3, 0.0, 0.2, 0.8, 6.0, (0.3, 2.0)),
        (300, True, 0.5, 0.3, 0.3, 0.0, 0.8, 0.0, (0.5, 1.5)),
        (3_000, True, 0.2, 0.2, 0.0, 0.0, 0.8, 0.0, (0.5, 1.5)),
        (30_000, True, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (0.5, 1.5)),
    ],
)
def test_pictures_decide(pictures, repeated, mosaic, crop, paste, cutout, colour, hue, scale):
    found = auto(pictures, repeated=repeated)
    strong = scale == (0.3, 2.0)
    shares = {"mosaic": mosaic, "crop": crop, "paste": paste, "cutout": cutout, "colour": colour}
    assert found.augment == Config(scale=scale, log_scale=strong, hue=hue, **shares)
    assert found.flip == 0.5
    found.augment.check()


def test_a_small_student_gets_half_and_nothing_strong():
    found = auto(200, parameters=999_999, repeated=True)
    shares = {"mosaic": 0.25, "crop": 0.15, "paste": 0.15, "cutout": 0.1, "colour": 0.4}
    assert found.augment == Config(scale=(0.75, 1.25), **shares)
    assert found.flip == 0.5
    assert "this one has 999,999" in found.reasons[-1]
    assert auto(200, parameters=1_000_000).augment.log_scale


def test_presets_by_name():
    none = preset("none", pictures=9, parameters=9, classes=CLASSES)
    assert (none.augment, none.flip) == (Config(), 0.0)
    assert not none.augment.on
    light = preset("light", pictures=9, parameters=9, classes=CLASSES)
    assert light.augment == Config(scale=(0.8, 1.2), colour=0.4)
    strong = preset("strong", pictures=10**6, parameters=LARGE, classes=CLASSES, repeated=True)
    assert strong.augment == auto(1, repeated=True).augment
    small = preset("strong", pictures=10**6, parameters=9, classes=CLASSES)
    assert small.augment.log_scale and "may lose by that" in small.reasons[1]


@pytest.mark.parametrize(
    ("classes", "unmirrored"),
    [
        (("turn_left", "TurnRight", "leftover", "bright"), ["turn_left", "TurnRight"]),
        (("7", "42", "7up", "route 66"), ["7", "42"]),
        (("b", "bee", "d"), ["b", "d"]),
        (("RBC", "WBC", "Platelets"), []),
    ],
)
def test_what_a_mirror_changes(classes, unmirrored):
    assert oriented(classes) == unmirrored
    found = auto(100, classes=classes)
    assert found.flip == (0.0 if unmirrored else 0.5)
    assert any("No picture is mirrored" in reason for reason in found.reasons) == bool(unmirrored)


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        (("red light", "green_light", "car"), ["red light", "green_light"]),
        (("blackbird", "black bird", "white car"), []),
        (("red car", "car"), ["red car"]),
        (("red", "blue"), ["red", "blue"]),
    ],
)
def test_hues_stay_where_colours_are_classes(classes, found):
    assert coloured(classes) == found
    result = auto(100, classes=classes)
    assert result.augment.hue == (0.0 if found else 6.0)
    assert any("Hues stay" in reason for reason in result.reasons) == bool(found)


def test_reasons_in_words():
    assert auto(100).reasons == (
        "There are 100 training pictures, of which all are scaled by 0.3 to 2, and more is made 50% by mosaic, "
        "30% by crop and 20% by cutout.",
        "No object is pasted, for no class is rare.",
    )
    assert auto(50_000).reasons == (
        "There are 50000 training pictures, of which all are scaled by 0.5 to 1.5 and no more, for they are many.",
    )

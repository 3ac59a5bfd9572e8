import dataclasses
import json
import logging

import numpy as np
import pytest
from test_near_duplicates import thumbnails, unit

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import grouping, near_duplicates, pictures, shapes, split
from jaxkd.data.base import Record, Source, Stored
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import prepare

CLASSES = ("a", "b", "c")


def record(index, file, *labels):
    count = len(labels)
    return Record(
        index=index,
        image_id=index + 1,
        file=file,
        height=10,
        width=10,
        boxes=np.tile(np.array([[0, 0, 5, 5]], np.float32), (count, 1)),
        labels=np.array(labels, np.int32),
        crowd=np.zeros(count, bool),
    )


def records(labels, name=lambda index: f"{index:03d}{'xyz'[index % 3]}.jpg"):
    return [record(index, name(index), *some) for index, some in enumerate(labels)]


def plan(found, rows=None, **fields):
    rows = thumbnails(len(found)) if rows is None else rows
    return split.plan_split(found, rows, **({"seed": 0, "classes": CLASSES} | fields))


def scene(count, seed=0, noise=0.05):
    """Thumbnails of frames of one scene: neighbours are alike, though no near-duplicates."""
    rng = np.random.default_rng(seed)
    walk = thumbnails(1, seed=seed) + np.cumsum(rng.normal(size=(count, 256)) * noise, axis=0)
    return unit(walk)


# ---- how many ----


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(0, 0), (1, 0), (2, 1), (60, 30), (100, 40), (400, 100), (5000, 1000), (10_000, 1000), (118_000, 2000)],
)
def test_pictures_for_validation(count, wanted):
    assert split.pictures_for_validation(count) == wanted


def test_every_class_has_about_its_share_of_validation():
    rng = np.random.default_rng(0)
    found = records([[0] * (index % 2) + [1] * bool(rng.random() < 0.1) for index in range(400)])
    made = plan(found)
    val, of = set(made.val), {record.file: set(record.labels.tolist()) for record in found}
    assert sorted((*made.train, *made.val)) == sorted(of) and not val & set(made.train)
    assert 95 <= len(val) <= 105
    for label in (0, 1):
        total = sum(label in labels for labels in of.values())
        assert sum(label in of[file] for file in val) == pytest.approx(total / 4, abs=1)
    without = [file for file, labels in of.items() if not labels]
    assert sum(file in val for file in without) == pytest.approx(len(without) / 4, abs=1)


def test_the_split_depends_on_names_pictures_and_seed_and_not_on_their_order():
    found, rows = records([[0], [0, 1], []] * 40), thumbnails(120)
    made = plan(found, rows)
    assert plan(found[::-1], rows[::-1].copy()).val[::-1] == made.val
    assert set(plan(found, rows, seed=1).val) != set(made.val)


def test_a_class_with_one_picture_stays_in_training_and_one_with_two_is_in_both():
    found = records([[0]] * 97 + [[0, 1], [0, 2], [2]])
    made = plan(found)
    assert found[97].file in made.train and made.only_train == ("b",)
    assert len({found[98].file, found[99].file} & set(made.val)) == 1
    assert "1 class is in train alone and cannot be scored: b." in made.sentences()


def test_where_nothing_can_be_held_out():
    with pytest.raises(DataError, match="None of 3 pictures can be held out"):
        plan(records([[0], [1], [2]]))
    with pytest.raises(DataError, match="None of 1 picture can be"):
        plan(records([[0]]))


# ---- groups ----


def groups(files, rows=None):
    rows = thumbnails(len(files)) if rows is None else rows
    labels, reasons = grouping.groups(files, rows)
    return labels.tolist(), reasons


def test_augmented_copies_stay_together_across_folders():
    labels, reasons = groups(["train/a_jpg.rf.1.jpg", "b_jpg.rf.2.jpg", "test/a_jpg.rf.3.jpg", "a_jpg.jpg"])
    assert labels == [0, 1, 0, 3] and reasons == {"augmented copies": 2}


def test_near_duplicates_and_repeated_files_stay_together():
    rows = thumbnails(4)
    rows[3] = rows[0]
    assert groups(["a", "b", "b", "d"], rows) == ([0, 1, 1, 0], {"listings of one file": 2, "near-duplicates": 2})


def test_frames_of_a_scene_stay_together_until_it_changes():
    rows = np.concatenate([scene(5, seed=1, noise=0.03), scene(4, seed=2, noise=0.03)])
    files = [f"clip_{number}.jpg" for number in (1, 2, 3, 5, 8, 10, 11, 12, 13)]
    labels, reasons = groups(files, rows)
    assert labels == [0] * 5 + [5] * 4 and reasons["frames of a scene"] == 9
    assert groups(files)[0] == list(range(9))  # numbered photographs
    order = np.argsort([len(file) for file in files[::-1]], kind="stable")
    shuffled = [files[::-1][index] for index in order]
    assert len(set(groups(shuffled, rows[::-1][order].copy())[0])) == 2


def test_a_folder_is_a_sequence_where_most_folders_hold_frames():
    videos = np.concatenate([scene(4, seed=3, noise=0.03), scene(4, seed=4, noise=0.03)])
    rows = np.concatenate([videos, thumbnails(2, seed=9)])
    files = [f"{video}/{number}.jpg" for video in "ab" for number in range(4)] + ["a/note.jpg", "c/other.jpg"]
    labels, reasons = groups(files, rows)
    assert labels == [0] * 4 + [4] * 4 + [0, 9] and reasons["pictures of a sequence"] == 9
    assert groups([f"all/{file.replace('/', '_')}" for file in files], rows)[0][8] == 8


def test_groups_are_not_divided_and_one_that_is_too_large_is_cut_in_order():
    rows = np.concatenate([np.repeat(thumbnails(1, seed=5), 4, 0), thumbnails(96)])
    made = plan(records([[0]] * 100), rows)
    assert made.cut == 0 and len({f"{index:03d}{'xyz'[index % 3]}.jpg" in made.val for index in range(4)}) == 1
    still = plan(records([[0]] * 100), np.repeat(thumbnails(1), 100, 0))
    numbers = [int(file[:3]) for file in still.val]
    assert still.cut == 100 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert any("100 pictures belong together and are too many" in sentence for sentence in still.sentences())


# ---- the file, and the component ----


@pytest.fixture
def drawn(tmp_path):
    """A source of drawn pictures, and the file of its split."""
    return shapes.load(shapes.Config(count=12)), tmp_path / "run" / "split.json"


def recipe(file, part="val", **fields):
    return component("data.split", source=component("data.shapes", count=12, **fields), file=str(file), part=part)


def test_a_split_is_made_once(drawn, monkeypatch):
    source, file = drawn
    made = split.load_or_plan(file, source, seed=3)
    assert len(made.val) == 5 and json.loads(file.read_text())["seed"] == 3
    monkeypatch.setattr(split, "plan_split", None)
    again = split.load_or_plan(file, source, seed=4)
    assert again == made
    split.write(file, dataclasses.replace(made, train=made.val, val=made.train))
    assert split.load_or_plan(file, source, seed=3).val == made.train
    with pytest.raises(DataError, match="that the data does not have"):
        split.load_or_plan(file, shapes.load(shapes.Config(count=11)), seed=3)


def test_a_part_is_a_source_of_its_own_pictures(drawn):
    source, file = drawn
    made = split.load_or_plan(file, source, seed=0)
    parts = {part: prepare.load_source(recipe(file, part)) for part in ("train", "val")}
    for name, part in parts.items():
        assert isinstance(part, Source) and not isinstance(part, Stored)
        assert [record.file for record in part.records] == list(getattr(made, name))
        assert [record.index for record in part.records] == list(range(len(part.records)))
        assert part.reading == source.reading
    truths = [part.annotations() for part in parts.values()]
    whole, val = source.annotations(), truths[1]
    assert [image["id"] for image in val["images"]] == [record.image_id for record in parts["val"].records]
    assert {item["image_id"] for item in val["annotations"]} == {record.image_id for record in parts["val"].records}
    assert sum(len(truth["annotations"]) for truth in truths) == len(whole["annotations"])
    assert val["categories"] == whole["categories"]
    inner = parts["val"].records[2].image_id - 1
    np.testing.assert_array_equal(parts["val"].read(2), source.read(inner))


def test_the_first_pictures_of_a_part(drawn):
    source, file = drawn
    made = split.load_or_plan(file, source, seed=0)
    first = split.load(split.Config(source=shapes.Config(count=12), file=str(file), part="val", limit=2))
    assert [record.file for record in first.records] == list(made.val[:2])


def test_a_part_of_stored_pictures_has_their_files(tmp_path):
    inner = component("data.coco")
    full = prepare.load_source(inner)
    split.write(tmp_path / "s.json", split.Split((full.records[0].file,), tuple(r.file for r in full.records[1:])))
    part = prepare.load_source(component("data.split", source=inner, file=str(tmp_path / "s.json"), part="val"))
    assert isinstance(part, Stored)
    assert part.content(4) == full.content(5)
    assert pictures.reading_of(part) == pictures.reading_of(full)


def test_what_a_source_repaired_is_said_once_for_both_parts(tmp_path, caplog):
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a.png"], "val": ["b.png"]}))
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
    truth = {
        "images": [{"id": n, "file_name": f"{name}.png", "height": 9, "width": 9} for n, name in enumerate("ab")],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": [5, 5, 9, 3]} for n in range(2)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    source = component("data.coco", images=str(tmp_path), annotations=str(tmp_path / "truth.json"))
    caplog.set_level(logging.WARNING)
    file = str(tmp_path / "s.json")
    prepare.load_sources(
        {part: component("data.split", source=source, file=file, part=part) for part in ("train", "val")}
    )
    assert sum("clipped to it: 2" in line.getMessage() for line in caplog.records) == 1


def test_fields_of_the_inner_source_are_reached():
    config = configs.build(component("data.split", source=component("data.coco")))
    assert prepare._with_fields(config, {"groups": "keep"}).source.groups == "keep"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"There is no file .*split\.json"),
        ("{", r"split\.json is not valid JSON"),
        ("[]", r"holds a JSON list, and no 'train' and 'val'"),
        ('{"train": ["shapes-0"]}', r"has val = None; write a list of picture names, or delete the file"),
        ('{"train": ["a", 3], "val": ["b"]}', r"has train = \['a', 3\]"),
        ('{"train": ["a"], "val": ["a"]}', r"names a twice; leave it in one part"),
        (
            '{"train": ["shapes-0", "gone"], "val": ["shapes-1"]}',
            r"names 1 picture that the data does not have, .* gone",
        ),
        (
            '{"train": ["shapes-0"], "val": ["shapes-1"]}',
            r"leaves 10 pictures of the data in no part, .* shapes-2; del",
        ),
    ],
)
def test_messages(tmp_path, text, words):
    file = tmp_path / "split.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError, match=words):
        prepare.load_source(recipe(file))


def test_only_a_source_can_be_divided(tmp_path):
    with pytest.raises(ConfigError, match="give a data source's component"):
        split.load(split.Config(source=pictures.Config(), file=str(tmp_path / "split.json")))


def test_real_sets_are_divided(shared):
    root = shared / "data" / "aquarium"
    source = prepare.load_source(
        component(
            "data.coco", images=str(root / "train"), annotations=str(root / "annotations" / "instances_train.json")
        )
    )
    made = split.plan_split(source.records, near_duplicates.thumbnails(source), seed=0, classes=source.classes)
    assert made.together["near-duplicates"] == 6 and made.cut == 0 and made.only_train == ()
    assert 100 <= len(made.val) <= 125

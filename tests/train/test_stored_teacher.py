"""A file of detections teaches: what is said, which terms there are, and that a run that stopped goes on with it."""

import json

import numpy as np
import pytest
import tiny

from jaxkd.config import build, component
from jaxkd.data import loader, shapes
from jaxkd.data.base import Subset
from jaxkd.errors import WeightsError
from jaxkd.loading import prepare, stored_teacher
from jaxkd.train import log, loop, ownership


def results(source):
    """The truth of a source as COCO's results."""
    return [
        {
            "image_id": record.image_id,
            "category_id": source.category_ids[label],
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": 0.9,
        }
        for record in source.records
        for box, label in zip(record.boxes, record.labels.tolist(), strict=True)
    ]


def predictions(source):
    """The truth of a source as `jaxkd predict` writes it."""
    images = [{"id": record.image_id, "file_name": f"/far/{record.file}"} for record in source.records]
    categories = [
        {"id": number, "name": name} for number, name in zip(source.category_ids, source.classes, strict=True)
    ]
    return {"categories": categories, "annotations": results(source), "images": images}


@pytest.fixture(scope="module")
def recipe():
    return tiny.run(
        steps=4,
        distill={"det": component("distill.detections", box={"gate": "none"})},
        train={"teacher_check": 4, "checkpoint_every": 2},
    )


@pytest.fixture(scope="module")
def taught(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    sources = prepare.load_sources(recipe.data)
    file = folder / "predictions.json"
    file.write_text(json.dumps(results(sources["train"])))
    recipe = recipe.copy_and_resolve_references()
    recipe.teacher = str(file)
    return recipe, loop.run(recipe, folder / "run", quiet=True), folder / "run"


def test_its_terms_are_in_every_step(taught):
    rows = [line for line in log.read(taught[2]) if "loss" in line]
    assert len(rows) == 4
    for row in rows:
        assert row["det/class"] > 0 and row["det/detected"] == 1.0
        assert row["det/box"] >= 0


def test_the_student_is_there_alone(taught):
    from jaxkd.loading import build as loading

    loaded = loading.load(taught[2] / "student")
    assert "detections" in loaded.detector.traits.capabilities


def test_a_file_of_training_pictures_alone_is_not_scored(recipe, tmp_path, capsys):
    train = shapes.load(build(recipe.data.train))
    file = tmp_path / "found.json"
    file.write_text(json.dumps(results(train)))
    recipe = recipe.copy_and_resolve_references()
    recipe.teacher, recipe.train.steps = str(file), 1
    loop.run(recipe, tmp_path / "run")
    assert "detections on few validation pictures, so it is not scored" in capsys.readouterr().out


def split_in_two(file):
    whole = shapes.load(shapes.Config(count=6, size=tiny.SIZE))
    file.write_text(json.dumps(predictions(whole)))
    return stored_teacher.load(file, whole), whole


def test_both_splits_are_matched_by_name(tmp_path):
    loaded, whole = split_in_two(tmp_path / "predictions.json")
    sources = {"train": Subset(whole, range(3)), "val": Subset(whole, range(3, 5))}
    matched, said = stored_teacher.with_detections(loaded, sources, limit=20)
    assert said == ("predictions.json: 1 picture that the data does not have, passed over.",)
    assert stored_teacher.covers(matched["val"]) and not stored_teacher.covers(sources["val"])
    for name, source in matched.items():
        for record, original in zip(source.records, sources[name].records, strict=True):
            np.testing.assert_allclose(record.teacher_boxes.boxes, original.boxes, atol=1e-4)


def test_a_file_without_names_leaves_validation_without_detections(tmp_path):
    """So that a batch of its pictures has the arrays too, without a detection in them."""
    whole = shapes.load(shapes.Config(count=4, size=tiny.SIZE))
    sources = {"train": Subset(whole, range(3)), "val": Subset(whole, range(3, 4))}
    (tmp_path / "found.json").write_text(json.dumps(results(sources["train"])))
    loaded = stored_teacher.load(tmp_path / "found.json", whole)
    matched, _ = stored_teacher.with_detections(loaded, sources, limit=20)
    assert not stored_teacher.covers(matched["val"])
    batch = next(loader.eval_batches(matched["val"], build(tiny.loader()), batch=1, teacher=True))
    assert not batch.detections.valid.any()
    assert loaded.detector.detect({}, batch) is batch.detections


def test_names_of_two_splits_tell_nothing(tmp_path):
    loaded, whole = split_in_two(tmp_path / "predictions.json")
    sources = {"train": Subset(whole, range(5)), "val": Subset(whole, range(3, 6))}
    matched, said = stored_teacher.with_detections(loaded, sources, limit=20)
    assert "predictions.json: 2 names in two splits, passed over." in said
    assert [len(record.teacher_boxes.boxes) > 0 for record in matched["val"].records] == [False, False, True]
    with pytest.raises(WeightsError, match="Names that two splits have tell nothing"):
        stored_teacher.with_detections(loaded, {"train": whole, "val": whole}, limit=20)


def test_several_files_in_a_folder_are_one_teacher(tmp_path):
    whole = shapes.load(shapes.Config(count=3, size=tiny.SIZE))
    content = predictions(whole)
    renamed = [category | {"name": f"other {category['name']}"} for category in content["categories"]]
    lower = [row | {"score": 0.5} for row in content["annotations"]]
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "b.json").write_text(json.dumps(content | {"annotations": lower, "categories": renamed}))
    assert stored_teacher.is_one(folder) and not stored_teacher.is_one(tmp_path)
    loaded = stored_teacher.load(folder, whole)
    count = len(loaded.detector.classes) // 2
    assert loaded.detector.classes[count:] == tuple(f"other {name}" for name in loaded.detector.classes[:count])
    matched, _ = stored_teacher.with_detections(loaded, {"train": whole}, limit=50)
    for record, original in zip(matched["train"].records, whole.records, strict=True):
        scores = record.teacher_boxes.scores
        assert len(scores) == 2 * len(original.boxes) and (np.diff(scores) <= 0).all()
        assert set(record.teacher_boxes.labels[scores < 0.6].tolist()) <= set(range(count, 2 * count))
    recipe = tiny.run(teacher=str(folder))
    before = ownership.teacher_digest(recipe)
    (folder / "b.json").write_text(json.dumps(content))
    assert before and ownership.teacher_digest(recipe) != before


def test_files_that_do_not_fit(recipe, tmp_path):
    recipe = recipe.copy_and_resolve_references()
    recipe.teacher = str(tmp_path / "none.json")
    with pytest.raises(WeightsError, match=r"none\.json cannot be read"):
        loop.run(recipe, tmp_path / "run", quiet=True)


def test_a_run_that_was_stopped_ends_like_a_whole_one(taught, tmp_path):
    recipe, whole, _ = taught
    shorter = recipe.copy_and_resolve_references()
    with pytest.MonkeyPatch.context() as patch:
        steps = []
        report = loop.Training._report

        def stopping(self, done, *rest):
            steps.append(done)
            if done == 3:
                raise KeyboardInterrupt
            report(self, done, *rest)

        patch.setattr(loop.Training, "_report", stopping)
        with pytest.raises(KeyboardInterrupt):
            loop.run(shorter, tmp_path / "run", quiet=True)
    again = loop.run(shorter, tmp_path / "run", quiet=True)
    assert again.steps < 4
    np.testing.assert_array_equal(again.evaluation.scores.summary["AP"], whole.evaluation.scores.summary["AP"])

"""Data sets of TensorFlow Datasets, prepared by the test and read without TensorFlow."""

import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing import mocking
from tfds_scene import Feature, Seen, draw_pictures, made_up_coco, prepare, prepare_coco, prepare_voc

from jaxkd.class_lists import COCO
from jaxkd.config import build, component, module_of
from jaxkd.data import coco, loader, pictures
from jaxkd.data import tfds as source_of
from jaxkd.data.base import PictureError, Source
from jaxkd.errors import ConfigError, DataError

ROUNDING = 1e-3  # pixels, of shares in float32


def load(directory: str, **fields) -> source_of.TfdsSource:
    return source_of.load(source_of.Config(directory=directory, **fields))


@pytest.fixture(params=["made up", "minicoco"])
def coco_folder(request, tmp_path) -> tuple[dict, Path]:
    """The truth of a COCO folder, and its pictures."""
    if request.param == "made up":
        return made_up_coco(tmp_path / "images"), tmp_path / "images"
    root = request.getfixturevalue("shared") / "data" / "minicoco"
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    return truth, root / "val2017"


def test_the_coco_layout_gives_what_its_folder_gives(coco_folder, tmp_path):
    truth, images = coco_folder
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    wanted = coco.load(coco.Config(images=str(images), annotations=str(tmp_path / "truth.json")))
    found = load(prepare_coco(tmp_path / "data", truth, images))
    assert isinstance(found, Source)
    assert found.classes == wanted.classes
    assert found.repairs == wanted.repairs
    assert {record.image_id for record in found.records} == {record.image_id for record in wanted.records}
    by_id = {record.image_id: record for record in wanted.records}
    for index, record in enumerate(found.records):
        other = by_id[record.image_id]
        assert record.index == index
        assert (record.height, record.width, record.file) == (other.height, other.width, other.file)
        np.testing.assert_allclose(record.boxes, other.boxes, atol=ROUNDING)
        np.testing.assert_array_equal(record.labels, other.labels)
        np.testing.assert_array_equal(record.crowd, other.crowd)
    for index in range(min(len(found.records), 8)):
        np.testing.assert_array_equal(found.read(index), wanted.read(by_id[found.records[index].image_id].index))


def test_the_truth_of_the_coco_layout(coco_folder, tmp_path):
    truth, images = coco_folder
    found = load(prepare_coco(tmp_path / "data", truth, images)).annotations()
    names = {item["id"]: item["name"] for item in found["categories"]}
    named = {item["id"]: item["name"] for item in truth["categories"]}

    def rows(items: list[dict], names: dict) -> np.ndarray:
        order = sorted(names.values())
        values = [
            (
                item["image_id"],
                order.index(names[item["category_id"]]),
                item["iscrowd"],
                int(item["area"]),
                *item["bbox"],
            )
            for item in items
        ]
        return np.array(sorted(values))

    np.testing.assert_allclose(rows(found["annotations"], names), rows(truth["annotations"], named), atol=ROUNDING)
    assert [item["id"] for item in found["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    if len(named) == 80:
        assert names == named  # COCO's own ids, with their gaps


def test_the_ids_of_coco():
    classes = tuple(COCO.values())
    assert len(set(classes)) == 80
    ids = source_of._category_ids(classes)
    assert (ids[0], ids[11], ids[-1], len(ids)) == (1, 13, 90, 80)
    assert source_of._category_ids(("person", "cat")) == (1, 2)


def voc_boxes(content: dict[Path, list[Seen]]) -> dict[str, np.ndarray]:
    """Half-open boxes by file: the first pixel counts from 0, the end is after the last one."""
    return {
        file.name: np.array([seen.corners for seen in objects], np.float32).reshape(-1, 4) - [1, 1, 0, 0]
        for file, objects in content.items()
    }


@pytest.fixture(params=["made up", "minivoc"])
def voc_folder(request, tmp_path) -> dict[Path, list[Seen]]:
    """The objects of VOC pictures."""
    if request.param == "made up":
        first, second, third = draw_pictures(tmp_path / "images", [(40, 60), (33, 77), (20, 20)])
        cat, dog = Seen("cat", (1, 1, 60, 40), False), Seen("dog", (2, 5, 9, 9), True)
        return {first: [cat, dog], second: [Seen("dog", (70, 30, 77, 33), False)], third: []}
    root = request.getfixturevalue("shared") / "data" / "minivoc" / "VOCdevkit" / "VOC2012"
    content = {}
    for file in sorted((root / "Annotations").glob("*.xml"))[:40]:
        content[root / "JPEGImages" / f"{file.stem}.jpg"] = [
            Seen(
                item.findtext("name", ""),
                tuple(float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")),
                item.findtext("difficult") == "1",
            )
            for item in ElementTree.parse(file).getroot().findall("object")
        ]
    return content


def test_the_voc_layout_gives_its_boxes_half_open(voc_folder, tmp_path):
    classes = tuple(sorted({seen.name for objects in voc_folder.values() for seen in objects}))
    directory = prepare_voc(tmp_path / "data", voc_folder, classes)
    wanted, objects = voc_boxes(voc_folder), {file.name: seen for file, seen in voc_folder.items()}
    files = {file.name: file for file in voc_folder}
    for difficult in ("ignore", "keep"):
        found = load(directory, difficult=difficult)
        assert found.classes == classes
        assert found.category_ids == tuple(range(1, len(classes) + 1))
        assert sorted(record.file for record in found.records) == sorted(wanted)
        assert [record.image_id for record in found.records] == list(range(len(wanted)))
        for record in found.records:
            np.testing.assert_allclose(record.boxes, wanted[record.file], atol=ROUNDING)
            assert [classes[label] for label in record.labels] == [seen.name for seen in objects[record.file]]
            crowd = [seen.difficult and difficult == "ignore" for seen in objects[record.file]]
            assert record.crowd.tolist() == crowd
    for index in range(3):
        np.testing.assert_array_equal(found.read(index), pictures.read(files[found.records[index].file]))


def test_by_name_with_the_random_records_of_tfds():
    def data_source(self, split, decoders=None, **_):
        made = mocking.RandomFakeGenerator(self.info.features, 4, constant_dynamic_shape=True)
        return [record | {"image": as_jpeg(record["image"])} for record in (made[index] for index in range(4))]

    def as_jpeg(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "jpeg")
        return stream.getvalue()

    with tfds.testing.mock_data(as_data_source_fn=data_source):
        found = source_of.load(source_of.Config(dataset="voc/2007", split="train[:50%]"))
        rules = [source_of.load(source_of.Config(dataset=name)).voc_rule for name in ("voc", "voc:5.0.0", "voc/2012")]
    assert rules == ["11point", "11point", "area"]
    assert found.classes[:2] == ("aeroplane", "bicycle")
    assert len(found.records) == 4
    kept = sum(len(record.boxes) for record in found.records)
    assert kept + found.repairs["boxes_without_area"] == 4 * 10  # their corners are in no order
    assert 0 < kept < 40
    assert all((record.boxes[:, 2:] > record.boxes[:, :2]).all() for record in found.records)
    assert any(record.crowd.any() for record in found.records)
    assert found.read(3).shape == (found.records[3].height, found.records[3].width, 3)


def row(folder: Path) -> dict:
    """A record with no object."""
    return {"image": str(draw_pictures(folder / "images", [(20, 20)])[0]), "image/filename": "a.jpg", "objects": []}


@pytest.fixture
def small(tmp_path) -> str:
    """The folder of four prepared pictures with one box each, and a second box on the first that is a line."""
    good, line = (Feature.BBox(*corners) for corners in ((0.1, 0.1, 0.5, 0.5), (0.5, 0.1, 0.5, 0.9)))
    rows = [
        {"image": str(file), "image/filename": file.name, "objects": [{"bbox": good, "label": "cat"}]}
        for file in draw_pictures(tmp_path / "images", [(40, 60)] * 4)
    ]
    rows[0]["objects"].append({"bbox": line, "label": "cat"})
    return prepare(tmp_path / "data", content=rows, classes=("cat",))


def test_as_a_component_of_a_recipe(small):
    config = build(component("data.tfds", directory=small, split="train[:1]", difficult="keep"))
    assert config == source_of.Config(directory=small, split="train[:1]", difficult="keep")
    assert len(module_of(config).load(config).records) == 1
    with pytest.raises(ConfigError, match="'ignore', 'keep'"):
        build(component("data.tfds", difficult="drop"))


def test_slices_and_limits(small):
    names = [record.file for record in load(small).records]
    assert len(names) == 4
    assert [record.file for record in load(small, split="train[:50%]").records] == names[:2]
    assert [record.file for record in load(small, split="train[3:]").records] == names[3:]
    assert [record.file for record in load(small, limit=3).records] == names[:3]


def test_a_loader_reads_it_from_threads(small):
    config = loader.Config(buckets=((40, 60),), short=(40,), long=60, threads=4)
    batches = loader.eval_batches(load(small), config, batch=2)
    seen = list(batches)
    batches.close()
    assert sorted(int(number) for batch in seen for number in batch.ids) == [0, 1, 2, 3]
    source = load(small)
    for batch in seen:
        for image, number in zip(batch.images, batch.ids, strict=True):
            np.testing.assert_array_equal(image, source.read(int(number)))


def test_faults_are_left_out_and_counted_or_stop_a_strict_source(small):
    found = load(small)
    assert found.repairs == {"boxes_without_area": 1}
    assert [len(record.boxes) for record in found.records] == [1] * 4
    assert len(found.annotations()["annotations"]) == 4
    with pytest.raises(
        DataError, match=r"boxes without an area: 1, the first 1\.jpg; correct the file, or leave out strict"
    ):
        load(small, strict=True)


def test_a_picture_that_is_none_is_left_out_and_counted(tmp_path):
    good = draw_pictures(tmp_path / "images", [(40, 60), (40, 60)])
    broken = io.BytesIO(good[0].read_bytes()[:-400])
    rows = [
        {"image": io.BytesIO(b"no picture"), "image/filename": "none.jpg", "objects": []},
        {"image": broken, "image/filename": "cut.jpg", "objects": []},
        {"image": str(good[1]), "image/filename": "good.jpg", "objects": []},
    ]
    found = load(prepare(tmp_path / "data", content=rows, classes=("cat",)))
    assert found.repairs == {"pictures_unreadable": 1}
    assert sorted(record.file for record in found.records) == ["cut.jpg", "good.jpg"]
    for record in found.records:  # a head that can be read does not promise the rest
        if record.file == "good.jpg":
            np.testing.assert_array_equal(found.read(record.index), pictures.read(good[1]))
        else:
            with pytest.raises(PictureError, match=r"cut\.jpg does not decode"):
                found.read(record.index)


def test_image_ids_that_repeat_give_way_to_the_place(tmp_path):
    rows = [row(tmp_path) | {"image/id": 7}] * 2
    found = load(prepare(tmp_path / "data", content=rows, classes=("cat",), ids=np.int64))
    assert [record.image_id for record in found.records] == [0, 1]


def test_a_folder_of_vocs_year_whatever_it_is_called(tmp_path):
    content = [row(tmp_path) | {"image/id": "number 7"}]
    more = {"content": content, "classes": ("cat",), "objects": {"is_difficult": np.bool_}, "ids": Feature.Text()}
    for year, rule in (("2007", "11point"), ("2012", "area")):
        folder = Path(prepare(tmp_path / year, name=year, **more)).rename(tmp_path / "taken in 2007")
        found = load(str(folder))
        assert found.voc_rule == rule
        assert [record.image_id for record in found.records] == [0]  # of text, none is made
        folder.rename(tmp_path / f"{year} done")


def test_classes_without_names(tmp_path):
    plain = {"label": np.int64}
    with pytest.raises(ConfigError, match="has no names of classes in objects/label; take one that has"):
        load(prepare(tmp_path / "data", classes=(), objects=plain, content=[row(tmp_path)]))


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"dataset": "voc/2007"}, DataError, r"voc/2007 is not prepared in .*voc/2007/5\.0\.0; prepare it once"),
        ({"dataset": "voc/1907"}, ConfigError, "knows no data set 'voc/1907'"),
        ({"dataset": "pascal"}, ConfigError, "knows no data set 'pascal'"),
        ({"dataset": "huggingface:voc"}, ConfigError, "'huggingface:voc' is not the name of a data set"),
        ({"dataset": "mnist"}, ConfigError, "mnist has no objects/bbox and no objects/label; take one for object"),
        ({"dataset": "kitti"}, ConfigError, "kitti has no objects/label; take one for object"),
        ({"directory": "DATA"}, DataError, r"holds no dataset_info\.json; give the folder of one version"),
    ],
)
def test_what_cannot_be_had(tmp_path, capsys, fields, error, said):
    fields = {name: str(tmp_path) if value == "DATA" else value for name, value in fields.items()}
    with pytest.raises(error, match=said) as caught:
        source_of.load(source_of.Config(data_dir=str(tmp_path), **fields))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_an_unknown_split_a_folder_above_and_a_damaged_one(small, tmp_path):
    with pytest.raises(ConfigError, match="no split 'valid'; it has train, and slices"):
        load(small, split="valid")
    with pytest.raises(DataError, match=f"did you mean {small}"):
        load(str(tmp_path / "data"))
    (Path(small) / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"is not a prepared data set .* prepare it again"):
        load(small)


def test_boxes_in_another_format(tmp_path):
    other = {"bbox": Feature.BBoxFeature(bbox_format="REL_XYXY")}
    with pytest.raises(ConfigError, match="has boxes in the format REL_XYXY; take one with REL_YXYX"):
        load(prepare(tmp_path / "data", classes=("cat",), objects=other, content=[row(tmp_path)]))


def test_a_format_without_random_access(small):
    file = Path(small) / "dataset_info.json"
    file.write_text(file.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="is stored as tfrecord, which needs TensorFlow and has no random access"):
        load(small)


def test_lost_data_files(small):
    found = load(small)
    (shard,) = Path(small).glob("*.array_record*")
    shard.unlink()
    with pytest.raises(DataError, match="its files cannot be read"):
        load(small)
    assert len(found.records) == 4


def outcome(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_tensorflow_stays_out(small):
    code = (
        "import sys; from jaxkd.data import tfds\n"
        f"source = tfds.load(tfds.Config(directory={small!r})); source.read(0)\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'tensorflow']\n"
    )
    assert outcome(code)[:2] == (0, ""), outcome(code)


def test_coco_by_its_name_needs_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "class Nowhere:  # TensorFlow, as far as Python can tell\n"
        "    def find_spec(self, name, *where):\n"
        "        if name.split('.')[0] == 'tensorflow':\n"
        "            raise ModuleNotFoundError(f'No module named {name}', name=name)\n"
        "sys.meta_path.insert(0, Nowhere())\n"
        "from jaxkd.data import tfds; from jaxkd.errors import ConfigError\n"
        f"try: tfds.load(tfds.Config(dataset='coco/2017', data_dir={str(tmp_path)!r}))\n"
        "except ConfigError as error: print(error)\n"
    )
    status, told, noise = outcome(code)
    assert status == 0, noise
    assert re.match("The data set coco/2017 needs TensorFlow .* file_format='array_record', and set dir", told)


def test_coco_by_its_name_with_tensorflow_has_to_be_prepared(tmp_path):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    with pytest.raises(DataError, match=r"coco/2017 is not prepared in .*; prepare it once"):
        load("", dataset="coco/2017", data_dir=str(tmp_path))

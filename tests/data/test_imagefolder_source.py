import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hosted_scene import README, ROWS, write_rows, write_shards

from jaxkd.data import hugging_face, imagefolder, shards
from jaxkd.data.base import Source, Stored
from jaxkd.errors import ConfigError, DataError


def load(root, **fields) -> imagefolder.ImageFolderSource:
    return imagefolder.load(imagefolder.Config(root=str(root), **fields))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "README.md").write_text(README)
    write_rows(tmp_path / "train", ROWS)
    return tmp_path


def with_row(root, *, file_name="b.png", **objects):
    write_rows(root / "train", [{"file_name": file_name, "objects": objects}, *ROWS[1:]])
    return root


def test_a_small_folder_golden(root):
    source = load(root, strict=True)
    assert isinstance(source, Source) and isinstance(source, Stored)
    assert (source.classes, source.category_ids) == (("cat", "no"), (0, 1))
    assert [(r.index, r.image_id, r.file, r.height, r.width) for r in source.records] == [
        (0, 1, "b.png", 60, 80),
        (1, 2, "sub/a.png", 60, 80),
        (2, 3, "c.png", 60, 80),
    ]
    assert source.records[0].boxes.tolist() == [[10, 5, 30, 25.5], [60, 40, 75, 55]]
    assert [record.labels.tolist() for record in source.records] == [[1, 0], [], [1]]
    assert source.records[2].crowd.tolist() == [True]
    assert [int(source.read(index).mean()) for index in range(3)] == [0, 20, 40]
    assert source.content(1) == (root / "train" / "sub" / "a.png").read_bytes()
    truth = source.annotations()
    assert truth["annotations"][0] | {"area": 0} == {"id": 1, "image_id": 1, "category_id": 1} | {
        "bbox": [10, 5, 20, 20.5],
        "area": 0,
        "iscrowd": 0,
    }
    assert [item["area"] for item in truth["annotations"]] == [410, 225, 99]
    assert source.repairs == {}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_metadata_files_say_the_same(root, kind):
    write_rows(root / "other", ROWS, kind)
    assert load(root, split="other").annotations() == load(root).annotations()


def test_parquet_files_say_the_same(root, tmp_path, monkeypatch):
    write_shards(tmp_path / "stored", ROWS)
    folder, stored = load(root), load(tmp_path / "stored", strict=True)
    assert isinstance(stored, Source) and isinstance(stored, Stored)
    assert stored.annotations() == folder.annotations() and stored.classes == folder.classes
    for kept in (2**30, 0):  # in memory, and read again
        monkeypatch.setattr(shards, "KEPT_BYTES", kept)
        monkeypatch.setattr(shards, "GROUPS", 1)
        again = load(tmp_path / "stored")
        for index in (2, 0, 1, 0):
            np.testing.assert_array_equal(again.read(index), folder.read(index))
    assert len(load(tmp_path / "stored", limit=1).records) == 1


def test_pictures_in_parquet_files_without_names_have_their_places(tmp_path):
    write_shards(tmp_path, ROWS, names=(), path=False, split="test")
    source = load(tmp_path, split="test")
    assert [record.file for record in source.records] == [
        "test-00000-of-00002.parquet/0",
        "test-00000-of-00002.parquet/1",
        "test-00001-of-00002.parquet/2",
    ]
    assert source.classes == ("0", "1") and source.repairs["classes_without_names"] == 2


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(root):
    (root / "train" / "b.png").write_bytes(b"no picture")
    source = load(root)
    assert [record.file for record in source.records] == ["sub/a.png", "c.png"]
    assert source.repairs == {"pictures_unreadable": 1} and source.repairs.examples["pictures_unreadable"] == "b.png"
    assert int(source.read(1).mean()) == 40
    (root / "train" / "c.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 pictures of .*metadata\.jsonl cannot be read, the first 'b\.png'"):
        load(root)


def test_objects_as_a_list_of_dicts_and_names_as_categories(root):
    objects = [{"bbox": [1, 2, 3, 4], "label": "owl"}, {"bbox": [5, 6, 7, 8], "label": "cat"}]
    write_rows(root / "train", [{"file_name": "b.png", "objects": objects}, {"file_name": "c.png"}])
    source = load(root)
    assert source.classes == ("cat", "owl") and source.category_ids == (1, 2)
    assert source.records[0].labels.tolist() == [1, 0] and len(source.records[1].boxes) == 0
    assert load(root, classes=("owl", "cat")).records[0].labels.tolist() == [0, 1]


def test_image_ids_of_the_data_set_stay_where_all_rows_have_one(root):
    rows = [row | {"image_id": 7 * place + 3} for place, row in enumerate(ROWS)]
    write_rows(root / "train", rows)
    assert [record.image_id for record in load(root).records] == [3, 10, 17]
    write_rows(root / "train", [rows[0], *ROWS[1:]])
    assert [record.image_id for record in load(root).records] == [1, 2, 3]


def test_another_form_of_boxes_is_found_and_said(root):
    with_row(root, bbox=[[40, 30, 70, 55], [5, 5, 70, 50]], category=[0, 1])
    source = load(root)
    assert source.records[0].boxes.tolist() == [[40, 30, 70, 55], [5, 5, 70, 50]]
    assert source.repairs.sentences() == [
        "boxes in another form than [x, y, width, height] in pixels, taken as what fits: 3, the first "
        f"{root / 'train' / 'metadata.jsonl'}, line 1, object 1, [40.0, 30.0, 70.0, 55.0] as [x0, y0, x1, y1] in "
        "pixels."
    ]
    assert load(root, boxes="xywh").records[0].boxes.tolist() == [[40, 30, 80, 60], [5, 5, 75, 55]]


def test_sizes_that_differ_are_counted(root):
    write_rows(root / "train", [row | {"width": 160, "height": 120} for row in ROWS[:1]] + ROWS[1:])
    source = load(root)
    assert source.repairs.examples == {"sizes_other": "b.png, 80x60 in place of 160x120"}


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({"bbox": [[1, 2, 3]], "category": [0]}, r"line 1, object 1 has bbox = \[1, 2, 3\]; wanted are 4 numbers"),
        ({"bbox": [[1, 2, 3, "4"]], "category": [0]}, "wanted are 4 numbers"),
        ({"bbox": 3, "category": [0]}, "has bbox = 3; wanted is a list of boxes"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0, 1]}, r"has 1 boxes and category = \[0, 1\]; wanted is a list of one"),
        ({"bbox": [[1, 2, 3, 4]], "kind": [0]}, "has objects without a category; write one of category, categories"),
        ({"bbox": [[1, 2, 3, 4]], "category": [None]}, "has category = None; write a number or a name"),
        (
            {"bbox": [[1, 2, 3, 4]], "category": ["cat"]},
            r"line 3, has the category 1 and .*line 1, 'cat'; write",
        ),
        (
            {"bbox": [[1, 2, 3, 4]], "category": [2]},
            "category 2, and .* 2 classes .*; 1 of 2 objects .* subtract 1",
        ),
        ({"bbox": [[70, 50, 90, 70]] * 9, "category": [1] * 9}, "9 as .* leave their picture; correct them, or say in"),
    ],
)
def test_messages_on_objects(root, objects, words):
    with pytest.raises(DataError, match=words) as refusal:
        load(with_row(root, **objects))
    assert str(refusal.value).count(". ") == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"file_name": "b.png"}\n\n{"file_name": 3}',
            r"line 3, has file_name = 3; it has to be the name of",
        ),
        (
            '{"file_name": "b.png"}\n{"file_name": "b.png"}',
            "line 2, has the picture 'b.png' again; wanted is one",
        ),
        ('{"file_name": ', r"line 1, is not valid JSON"),
        ("[1]", "line 1, holds a JSON list; write an object"),
        ("\n", "has no row; wanted is one a picture"),
        ('{"file_name": "../b.png"}\n{"file_name": "c.png"}', r"names the file '\.\./b\.png', which could lead out"),
        ('{"file_name": "b.png", "objects": 5}', r"has objects = 5; wanted is \{'bbox'"),
    ],
)
def test_messages_on_metadata(root, text, words):
    (root / "train" / "metadata.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        load(root)


def test_messages_on_places(root, tmp_path):
    with pytest.raises(DataError, match=r"has no split 'val': no .*metadata\.jsonl, \.csv or \.parquet, and no .*val-"):
        load(root, split="val")
    with pytest.raises(DataError, match="There is no folder"):
        load(tmp_path / "gone")
    with pytest.raises(ConfigError, match="classes lists 'a' twice"):
        load(root, classes=("a", "a"))
    (root / "train" / "metadata.csv").write_text("file_name\n")
    with pytest.raises(DataError, match=r"has both metadata\.jsonl and metadata\.csv; keep the one"):
        load(root)


def test_names_are_not_among_given_classes(root):
    with_row(root, bbox=[[1, 2, 3, 4]], category=["catt"])
    write_rows(root / "train", [{"file_name": "b.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": ["catt"]}}])
    with pytest.raises(DataError, match="the category 'catt', which is not among the classes; the closest is 'cat'"):
        load(root, classes=("cat",))


def test_messages_on_parquet_files(tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "train-0.parquet"
    file.write_bytes(b"PAR1 is how it begins")
    with pytest.raises(DataError, match=r"train-0\.parquet is no parquet file that can be read \(.*\); write it again"):
        load(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"], "label": [1]}), file)
    with pytest.raises(DataError, match=r"has no column objects, but \['image', 'label'\]; give a data set for object"):
        load(tmp_path)
    content = {"image": {"bytes": None, "path": "a.jpg"}, "objects": {"bbox": [[0.0]], "category": [1]}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([content | {"objects": None}]), file)
    with pytest.raises(DataError, match="row 0, has a picture without bytes"):
        load(tmp_path)


def test_readmes_without_names(tmp_path):
    for text in ("", "# Title", "---\nlicense: mit\n---\n", "---\nno end", "---\n[1]\n---"):
        (tmp_path / "README.md").write_text(text)
        assert hugging_face.names_of_readme(tmp_path) == ()
    (tmp_path / "README.md").write_text("---\na: &b 1\nc: *b\n---\n")
    with pytest.raises(DataError, match="no YAML that is read"):
        hugging_face.names_of_readme(tmp_path)
    assert hugging_face.names_of_schema({b"huggingface": b"{"}) == ()

"""Data sets as Hugging Face and Open Images have them on disk, made of drawn pictures."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

HEIGHT, WIDTH = 60, 80
ROWS = [
    {"file_name": "b.png", "objects": {"bbox": [[10, 5, 20, 20.5], [60, 40, 15, 15]], "category": [1, 0]}},
    {"file_name": "sub/a.png", "objects": {"bbox": [], "category": []}},
    {"file_name": "c.png", "objects": {"bbox": [[0, 0, 80, 60]], "category": [1], "iscrowd": [1], "area": [99]}},
]
README = """---
dataset_info:
  features:
  - name: label
    dtype: {class_label: {names: {'0': cat picture}}}
  - name: objects
    sequence:
    - name: bbox
      sequence: float32
      length: 4
    - name: category
      dtype:
        class_label:
          names:
            '1': no
            '0': cat
---
# Text
"""


def write_rows(folder: Path, rows, kind="jsonl"):
    """A split's folder of pictures, with its metadata."""
    for shade, row in enumerate(rows):
        file = folder / str(row.get("file_name"))
        if ".." not in str(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (shade * 20,) * 3).save(file)
    if kind == "jsonl":
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        (folder / "metadata.jsonl").write_text(text)
    elif kind == "csv":
        lines = [
            ",".join([row["file_name"], '"' + json.dumps(row["objects"]).replace('"', '""') + '"']) for row in rows
        ]
        (folder / "metadata.csv").write_text("\ufefffile_name,objects\r\n" + "\r\n".join(lines), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")


def write_shards(root: Path, rows, *, split="train", names=("cat", "no"), group=2, path=True):
    """Parquet files of two rows a row group."""
    contents = []
    for shade, row in enumerate(rows):
        stream = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), (shade * 20,) * 3).save(stream, "PNG")
        image = {"bytes": stream.getvalue(), "path": row["file_name"] if path else None}
        contents.append({"image": image, "objects": row["objects"]})
    (root / "data").mkdir(parents=True, exist_ok=True)
    feature = {"feature": {"names": list(names), "_type": "ClassLabel"}, "_type": "List"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "objects": {"category": feature}}}}
    metadata = {"huggingface": json.dumps(info)} if names else None
    for number, some in enumerate((contents[:2], contents[2:])):
        table = pyarrow.Table.from_pylist(some).replace_schema_metadata(metadata)
        file = root / "data" / f"{split}-0000{number}-of-00002.parquet"
        pyarrow.parquet.write_table(table, file, row_group_size=group)


HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
FIRST, SECOND = "0001eeaf4aed83f9", "000595fe6fee6369"
CAT, OWL = "/m/01yrx", "/m/09d5_"


def line(image=FIRST, label=CAT, confidence=1, box=(0.25, 0.75, 0.5, 1), group=0, depiction=0):
    return f"{image},xclick,{label},{confidence},{','.join(map(str, box))},0,0,{group},{depiction},0\n"


PAIR = (
    line(SECOND, OWL)
    + line("ffffffffffffffff")
    + line(FIRST, group=1, depiction=1)
    + line(FIRST, OWL, confidence=0)
    + line(FIRST, OWL, box=(0, 0.1, 0, 0.2))
)

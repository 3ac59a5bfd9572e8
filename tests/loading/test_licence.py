"""The licence that is printed of weights, from a folder or of a library."""

import shutil

import pytest
import query_authors
import query_reference as reference
import torch_writer

from jaxkd.cli import convert
from jaxkd.loading import hub, licence, published
from jaxkd.weights import families

NONE = "Licence: not stated in the folder; ask who published it before you pass it on."


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README.md": "---\nlicense: apache-2.0\ntags: [a]\n---\n# D-FINE\n"}, "Licence: apache-2.0, as README.md of"),
        ({"README.md": "---\r\nlicense: [mit, bsd]\r\n---\r\n"}, "Licence: mit, bsd, as README.md"),
        (
            {"README.md": "---\nlicense: other\nlicense_name: dinov3\nlicense_link: LICENSE.md\n---\n"},
            "Licence: other, dinov3, LICENSE.md, as README.md",
        ),
        ({"README.md": "---\nlicense: no\n---\n"}, "Licence: no, as README.md"),
        ({"README.md": "# A net\nlicense: mit\n"}, NONE),
        ({"README.md": "---\nlicense: mit\n"}, NONE),
        ({"README.md": "---\nlicense: [mit\n---\n"}, NONE),
        ({"README.md": "---\n- mit\n---\n"}, NONE),
        ({"README.md": "---\nlicense: {a: b}\n---\n"}, NONE),
        (
            {"README.md": "---\ntags: []\n---\n", "LICENSE": "\n  Apache License\n Version 2.0\n\nmore\n"},
            "Licence: LICENSE of the folder begins: Apache License, Version 2.0.",
        ),
        ({"LICENSE.txt": "MIT License\n"}, "Licence: LICENSE.txt of the folder begins: MIT License."),
        ({"LICENSE": ""}, NONE),
        ({}, NONE),
    ],
)
def test_what_a_folder_states(files, said, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert licence.of_folder(tmp_path).startswith(said)


def test_odd_characters_are_shown_as_such(tmp_path):
    (tmp_path / "LICENSE").write_bytes(b"MIT\x1b[31m\xff License")
    assert "\x1b" not in licence.of_folder(tmp_path)


def test_every_library_has_a_sentence():
    assert {*families.FAMILIES, "nanodet", "RT-DETR", "D-FINE"} == set(licence.LIBRARIES)
    assert licence.of_file("detectron2").endswith("MODEL_ZOO.md puts its models under CC BY-SA 3.0.")
    assert licence.of_file("another") == "Licence: not stated in the file."


def test_it_is_printed(tmp_path, capsys):
    copy = shutil.copytree(reference.ROOT / "rt_detr", tmp_path / "copy")
    assert NONE in hub.load(copy).notes
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert convert.run([str(copy), f"--out={tmp_path / 'out'}"]) == 0
    said = "Licence: apache-2.0, as README.md of the folder states."
    assert said in capsys.readouterr().out and said in (tmp_path / "out/conversion.txt").read_text()
    torch_writer.save(tmp_path / "a.pth", {"model": query_authors.state("rt_detr")})
    assert licence.of_file("RT-DETR") in published.load(tmp_path / "a.pth", classes=("a", "b", "c"))[0].notes

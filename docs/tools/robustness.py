"""Makes docs/robustness.md of tests/robustness.toml: python docs/tools/robustness.py."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE, PAGE = ROOT / "tests" / "robustness.toml", ROOT / "docs" / "robustness.md"
INTRODUCTION = """\
# Faults and bad inputs

Faults that a run survives, and faulty inputs with what is done about them. Each row names the tests that show it, below
`tests/`; another test fails if a row has none. Codes are the exit codes of the commands: 0 where the command
goes on, and otherwise [those of the table of exit codes](pods.md#exit-codes).

Four rules apply to all rows:

* Nothing is left out, repaired or guessed without a count, a message and the first example (`jaxkd.data.repairs`).
* A message states facts only: the file, the field, the value, what to do, and the nearest name that exists.
* Whatever ends a run from outside, its steps are saved first, and earlier files stay intact
  (`jaxkd.train.stop`, `jaxkd.cli.output`, `jaxkd.storage`).
* Training, evaluation, prediction and exports see the same pixels of a file (`jaxkd.data.pictures`).
"""


def rows(kind: str, title: str, what: str) -> list[str]:
    """The lines of one table."""
    lines = ["", f"## {title}", "", f"| | {what} | what is done | code | tests |", "| --- | --- | --- | --- | --- |"]
    for row in tomllib.loads(TABLE.read_text(encoding="utf-8"))[kind]:
        tests = "<br>".join(f"`{name.replace('::', '` `')}`" for name in row["tests"])
        lines.append(f"| {row['number']} | {row['what']} | {row['done']} | {row['code']} | {tests} |")
    return lines


def page() -> str:
    """The whole page."""
    faults = rows("fault", "Faults", "what happens")
    return "\n".join([INTRODUCTION, *faults[1:], *rows("input", "Inputs", "what is given"), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

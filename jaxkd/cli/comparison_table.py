"""A comparison in the terminal: the table, what is to be remarked, and the verdict."""

from jaxkd import phrases
from jaxkd.cli import terminal
from jaxkd.comparison import tables
from jaxkd.comparison.records import Comparison


def show(comparison: Comparison) -> None:
    """Prints it."""
    terminal.show(
        tables.headline(comparison), title=phrases.counted(len(comparison.images), f"{comparison.split} picture")
    )
    for remark in comparison.remarks:
        print(f"- {remark}")
    print(tables.verdict(comparison))

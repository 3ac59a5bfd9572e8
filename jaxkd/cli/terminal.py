"""Tables in the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000  # characters, wider than any table


def show(rows: Sequence[Mapping[str, str]], *, title: str | None = None) -> None:
    """Prints rows with the same columns as a table; the first column has names, all others numbers.

    The table is as wide as its content, so a narrow terminal cuts no number off. Names are not read as markup.
    """
    table = Table(title=title)
    for index, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console = Console(width=UNLIMITED)
    console.width = Measurement.get(console, console.options, table).maximum
    console.print(table)

"""Tables in the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WHOLE = 10_000  # columns in which any table has room


def show(rows: Sequence[Mapping[str, str]], *, title: str | None = None) -> None:
    """Prints rows with the same columns as a table, in whose first column are names and in all others numbers.

    It is as wide as it has to be, for a pipe or a narrow terminal would cut numbers off, and no name is read as markup.
    """
    table = Table(title=title)
    for place, column in enumerate(rows[0]):
        table.add_column(Text(column), justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console = Console(width=WHOLE)
    console.width = Measurement.get(console, console.options, table).maximum
    console.print(table)

"""Tables for people: the models that answer a query, and others."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wsrl.text import printable

if TYPE_CHECKING:
    from wsrl.search.hit import Hit

PIPE_WIDTH = 10_000  # characters: a line of the table stays a line for whoever reads the pipe
TEXTS = ("task", "architecture", "weights", "model", "A", "B", "is", "order")  # columns that are no numbers
Row = Mapping[str, str]  # cells by heading; a heading that no row has a text for is left out


def hit_row(hit: "Hit", by: str = "") -> Row:
    """Returns the cells of a hit of a search that ranks by `weights`, `function` or otherwise."""
    measured, change = hit.metadata.get("accuracy"), hit.metadata.get("change")
    return {
        "rank": str(hit.rank),
        "score": f"{hit.score:.3f}",
        "weights": "same" if hit.same_weights else "close" if hit.by == "weights" != by else "",
        "change": f"{change:.2g}" if hit.by == "relative" and isinstance(change, float) else "",
        "task": str(hit.metadata.get("task", "")),
        "architecture": hit.architecture,
        "parameters": f"{hit.parameters:,}" if hit.parameters else "",
        "accuracy": f"{measured:.2f}" if isinstance(measured, float) else "",
        "predicted accuracy": "" if hit.accuracy is None else f"{hit.accuracy:.2f}",
        "model": hit.id,
    }


def print_rows(lines: Sequence[str], rows: Sequence[Row]) -> None:
    """Prints lines, and an empty one and a table if it has rows, to stdout; plain text where it is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    headings = [heading for heading in (rows[0] if rows else ()) if any(row[heading] for row in rows)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in TEXTS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(row[heading]) for heading in headings))
    with console.capture() as capture:
        for line in lines:
            console.print(Text(printable(line)))
        if rows:
            console.print()
            console.print(table)
    print("\n".join(line.rstrip(" ") for line in capture.get().split("\n")), end="")

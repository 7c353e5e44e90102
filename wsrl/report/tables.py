"""Tables of experiments: CSV, plot and one HTML page with all tables of a folder.

A table NAME of a folder is `tables/NAME.csv` for programs, `tables/NAME.svg` for the eye and `tables/NAME.json` with
its title and note; `tables.html` shows all of them and is written anew with each.
"""

import base64
import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from wsrl.errors import InputError
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.results import plain
from wsrl.files import write_atomically

FOLDER = "tables"
PAGE = "tables.html"
BOUNDS = ("low", "high")
SIGNIFICANT = 3  # digits, for reading; the CSV holds all
PIPE_WIDTH = 10_000  # characters: a row stays a line for whoever reads the pipe
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?")
NOTHING = "–"  # in place of a number that there is not

Number = int | float | np.number
Cell = str | Number | Interval | None
Row = Mapping[str, Cell]


@dataclass(frozen=True)
class ReadTable:
    """A table as it stands in a folder.

    Attributes:
      name: of its files.
      title, note: texts above it.
      rows: cells by column, as read from the CSV: text, numbers or intervals.
      svg: the plot, or nothing.
    """

    name: str
    title: str
    note: str
    rows: list[Row]
    svg: bytes


def write_table(workdir: Path, name: str, title: str, note: str, rows: Sequence[Row], figure: Figure | None) -> None:
    """Writes a table and renders the page of all tables of the folder, each file atomically.

    Args:
      workdir: folder of the run.
      name: of the files: letters, digits, `_` and `-`.
      title: heading, a few words.
      note: what was measured on what, and what the intervals mean.
      rows: cells by column; columns are those of all rows, in the order of their appearance. An `Interval`
        fills the columns x, x_low and x_high of the CSV; numbers that are not finite, None
        and what a row leaves out stay empty.
      figure: drawn without pyplot (see `wsrl.report.table_figures`); the same figure gives the same bytes.

    Raises:
      ValueError: a name of other signs, or no row.
      InputError: another table of the folder is damaged.
    """
    if not re.fullmatch(r"[\w-]+", name) or not rows:
        raise ValueError(f"a table needs a plain name and a row, not {name!r} and {len(rows)} rows")
    folder = Path(workdir) / FOLDER
    write_atomically(folder / f"{name}.csv", _csv(rows).encode())
    plot = folder / f"{name}.svg"
    if figure is None:
        plot.unlink(missing_ok=True)
    else:
        write_atomically(plot, _svg(figure, name))
    told = json.dumps({"title": title, "note": note}, indent=1, ensure_ascii=False)
    write_atomically(folder / f"{name}.json", f"{told}\n".encode())
    write_page(workdir)


def write_page(workdir: Path) -> None:
    """Renders `tables.html`: one self-contained page with every table of the folder, in the order of their names.

    Raises:
      InputError: a table is damaged.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wsrl.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = [
        {
            "name": table.name,
            "title": table.title,
            "note": table.note,
            "columns": [(column, _is_numeric(table.rows, column)) for column in _columns(table.rows)],
            "rows": [{column: readable(cell) for column, cell in row.items()} for row in table.rows],
            "plot": base64.b64encode(table.svg).decode(),
        }
        for table in read_tables(workdir)
    ]
    page = environment.get_template(PAGE).render(tables=tables)
    write_atomically(Path(workdir) / PAGE, page.encode())


def read_tables(workdir: Path) -> list[ReadTable]:
    """The tables that `write_table` wrote into a folder, in the order of their names.

    Raises:
      InputError: a file of a table is missing or damaged.
    """
    found = []
    for path in sorted((Path(workdir) / FOLDER).glob("*.json")):
        try:
            told = json.loads(path.read_bytes())
            rows = _rows(path.with_suffix(".csv").read_text())
            plot = path.with_suffix(".svg")
            svg = plot.read_bytes() if plot.exists() else b""
            found.append(ReadTable(path.stem, str(told["title"]), str(told["note"]), rows, svg))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, f"damaged table ({error})", "remove it, or make it again") from error
    return found


def print_table(rows: Sequence[Row]) -> None:
    """Prints the rows to stdout, rounded for reading; columns as `write_table` orders them."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns = _columns(rows)
    for column in columns:
        table.add_column(column, justify="right" if _is_numeric(rows, column) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(readable(row.get(column)) for column in columns))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    console.print(table)


def readable(cell: Cell) -> str:
    """A cell as text: numbers of three significant digits, whole ones in full, intervals in brackets."""
    if isinstance(cell, Interval):
        low, high = readable(cell.low), readable(cell.high)
        bounds = "" if low == high == NOTHING else f" [{low}, {high}]"
        return readable(cell.value) + bounds
    match cell := plain(cell):
        case None:
            return NOTHING
        case float() if cell and abs(cell) < 1e-4:
            return f"{cell:.{SIGNIFICANT - 1}e}"
        case float():
            whole_digits = math.floor(math.log10(abs(cell))) + 1 if cell else 1
            return f"{cell:,.{max(0, SIGNIFICANT - whole_digits)}f}"
        case bool() | str():
            return str(cell)
        case _:
            return f"{cell:,}"


def _columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _is_numeric(rows: Iterable[Row], column: str) -> bool:
    return not any(isinstance(row.get(column), str) for row in rows)


def _csv(rows: Sequence[Row]) -> str:
    columns = _columns(rows)
    with_bounds = {column for column in columns if any(isinstance(row.get(column), Interval) for row in rows)}
    lines: list[dict[str, Any]] = []
    for row in rows:
        line: dict[str, Any] = {}
        for column in columns:
            cell = row.get(column)
            line[column] = plain(cell.value if isinstance(cell, Interval) else cell)
            if column in with_bounds:
                line |= {f"{column}_{bound}": plain(getattr(cell, bound, None)) for bound in BOUNDS}
        lines.append(line)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _rows(text: str) -> list[Row]:
    """Rows from CSV: a column x beside x_low and x_high is read as intervals."""
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    if not lines:
        raise ValueError("no row")
    columns = list(lines[0])
    bounds = {c: [f"{c}_{bound}" for bound in BOUNDS] for c in columns if {f"{c}_{b}" for b in BOUNDS} <= {*columns}}
    hidden = {name for names in bounds.values() for name in names}
    parsed = {column: list(_parsed([line[column] for line in lines])) for column in columns}

    def cell(column: str, place: int) -> Cell:
        value = parsed[column][place]
        if column not in bounds:
            return value
        return Interval(value, *(parsed[name][place] for name in bounds[column]))

    return [{c: cell(c, place) for c in columns if c not in hidden} for place in range(len(lines))]


def _parsed(texts: Sequence[str]) -> Iterator[Any]:
    """Numbers and None where every cell of the column is a number or empty; else the texts."""
    numeric = all(not text or NUMBER.fullmatch(text) for text in texts)
    yield from (json.loads(text) if text else None for text in texts) if numeric else texts


def _svg(figure: Figure, salt: str) -> bytes:
    """The figure as SVG, without date and with ids that follow from the salt."""
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(content, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return content.getvalue()

"""Writes the page of results, and the table of the README, from the CSV files in docs/results.

python -m experiments.results_page [--check]

`docs/results/tables.json` lists the tables in the order of the page. A column x beside x_low and x_high is shown as an
interval, so the CSV files that `wsrl.report.tables` writes into the folder of a run can be copied as they are.
`--check` writes nothing and ends with status 1 if a page differs from what the CSV files give.
"""

import argparse
import csv
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.files import write_atomically

ROOT = Path(__file__).parents[1]
FOLDER, PAGE, README = Path("docs/results"), Path("docs/results.md"), Path("README.md")
START, END = "<!-- results: written by python -m experiments.results_page -->", "<!-- end of results -->"
BOUNDS = ("_low", "_high")
SIGNIFICANT = 3  # digits that are shown; the CSV holds all
WIDTH = 120  # characters of a line of text
NOTHING = "–"  # in place of a number that there is not

INTRODUCTION = """# Results

This page is written by `python -m experiments.results_page` from the [CSV files](results) of the runs; a test checks
that they agree. Brackets hold 95 % bootstrap intervals over lineages (a run with its children) and encoder seeds. A
query's own run and its relatives are in no gallery and in no neighborhood while it is asked. Figures of time are those
of the machine that is named; ratios carry over better. What the methods are is explained in
[how it works](how-it-works.md), what the figures do not show in [limits](limits.md).
"""


@dataclass(frozen=True)
class Entry:
    """A table of the page.

    Attributes:
      file: CSV in the folder of results.
      title: heading.
      reading: what was measured on what, and what to see in it.
      command: that makes it.
      commit: at which it was measured; of several, each made some of the rows.
      machine: on which.
      readme: rows, by their first cell, that the README shows.
      readme_columns: columns that it shows of them; all if none are named.
    """

    file: str
    title: str
    reading: str
    command: str
    commit: str
    machine: str
    readme: Sequence[str] = ()
    readme_columns: Sequence[str] = ()


def read_entries(root: Path) -> list[Entry]:
    """Reads the list of tables of a project's folder.

    Raises:
      InputError: it cannot be read, or an entry has other fields than `Entry`.
    """
    path = root / FOLDER / "tables.json"
    try:
        return [Entry(**entry) for entry in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(path, f"is no list of tables ({error})", "compare it with its last committed form") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads a CSV as cells for reading: three significant digits, bounds in brackets.

    Raises:
      InputError: it cannot be read or has no row.
    """
    try:
        with open(path, newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", "make the table again") from error
    if not lines:
        raise InputError(path, "has no row", "make the table again")
    bounded = {name for name in lines[0] if all(name + bound in lines[0] for bound in BOUNDS)}
    hidden = {name + bound for name in bounded for bound in BOUNDS}
    return [{name: _cell(line, name, name in bounded) for name in line if name not in hidden} for line in lines]


def _cell(line: dict[str, str], name: str, bounded: bool) -> str:
    low, high = (line[name + bound] if bounded else "" for bound in BOUNDS)
    return readable(line[name]) + (f" [{readable(low)}, {readable(high)}]" if low and high else "")


def readable(text: str) -> str:
    """Rounds a number with more than three significant digits, and groups the digits of a whole one."""
    if re.fullmatch(r"-?\d+", text):
        return f"{int(text):,}"
    number = re.fullmatch(r"-?(\d*\.\d+)(e[+-]?\d+)?", text)
    if number is None or len(number[1].replace(".", "").lstrip("0")) <= SIGNIFICANT:
        return text or NOTHING
    value = float(text)
    return f"{value:,.0f}" if abs(value) >= 10**SIGNIFICANT else f"{value:#.{SIGNIFICANT}g}"


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Returns a table in Markdown; columns of numbers are aligned right."""
    columns = list(rows[0])
    numeric = [all(re.match(rf"-?\d|{NOTHING}$", row[column]) for row in rows) for column in columns]
    lines = [columns, ["---:" if right else "---" for right in numeric], *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def results_page(root: Path) -> str:
    """Returns the whole page."""
    entries = read_entries(root)
    parts = [INTRODUCTION]
    for entry in entries:
        table = markdown(read_rows(root / FOLDER / entry.file))
        source = f"[{entry.file}]({FOLDER.name}/{entry.file})"
        made = f"Made at {entry.commit} on {entry.machine}; all digits are in {source}."
        reading, made = (textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in (entry.reading, made))
        parts.append(f"## {entry.title}\n\n{reading}\n\n{table}\n{made}\n\n```sh\n{entry.command}\n```\n")
    return "\n".join(parts)


def readme_page(root: Path) -> str:
    """Returns the README with its tables of results.

    Raises:
      InputError: the marks of the tables are not in the README, or a row or column that it shows is not in the CSV.
    """
    text = (root / README).read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise InputError(README, "does not mark where its results stand", f"add {START} and {END}")
    tables = []
    for entry in read_entries(root):
        rows = {next(iter(row.values())): row for row in read_rows(root / FOLDER / entry.file)}
        columns = entry.readme_columns or list(next(iter(rows.values())))
        missing = [name for name in entry.readme if name not in rows]
        if missing:
            raise InputError(root / FOLDER / entry.file, f"has no row {missing[0]!r}", "correct tables.json")
        if unknown := [name for name in columns if name not in next(iter(rows.values()))]:
            raise InputError(root / FOLDER / entry.file, f"has no column {unknown[0]!r}", "correct tables.json")
        shown = [{column: rows[name][column] for column in columns} for name in entry.readme]
        tables += [markdown(shown)] if shown else []
    return "".join([before, start, "\n\n", "\n".join(tables), "\n", end, after])


def update(root: Path, check: bool) -> None:
    """Writes the pages, or only checks them.

    Raises:
      InputError: what the pages are made of cannot be used, or a page differs from it and `check` is set.
    """
    for path, text in ((PAGE, results_page(root)), (README, readme_page(root))):
        if not check:
            write_atomically(root / path, text.encode())
        elif not (root / path).exists() or (root / path).read_text() != text:
            raise InputError(path, "differs from the CSV files", "run python -m experiments.results_page")


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the pages; returns the exit status: 1 if one is not up to date or cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m experiments.results_page", description="Writes docs/results.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    args = parser.parse_args(argv)
    return finish(lambda: update(root, args.check))


if __name__ == "__main__":
    sys.exit(main())

"""The one way out of a command: data on stdout in the format that was asked for, all else on stderr.

    with Output.of(args) as output:
        output.table(records, lambda: print_rows(lines, rows))   # many of a kind
        output.summary(record, "zoo.index: 3 models")            # one thing, in a sentence
    tell("left out: ...")                                        # stderr

A record is a mapping of JSON values with the same keys for all of a kind. JSON carries `"wsrl": 1`, the version of its
form: a key may be added within a version, none is renamed or dropped. `docs/commands.md` describes formats and keys.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from wsrl.errors import InputError
from wsrl.text import printable

VERSION = 1  # of the JSON
FORMATS = ("auto", "human", "tsv", "json", "jsonl", "ids")
WHOLE = ("auto", "human", "json", "jsonl")  # of a command whose answer is one thing
TOLD = 100  # problems
NAMED = 3  # files that are skipped; how many more there are is said
Record = Mapping[str, object]


def add_format(parser: argparse.ArgumentParser, formats: Sequence[str] = FORMATS) -> None:
    """Adds the options `--format` and `--json`."""
    parser.add_argument(
        "--format",
        choices=formats,
        default="auto",
        help="auto (the default): for people at a terminal, and tables as tsv in a pipe",
    )
    parser.add_argument(
        "--json", dest="format", action="store_const", const="jsonl", help="short for --format jsonl, one object a line"
    )


def tell(line: str) -> None:
    """Prints a line of progress, a hint or a warning to stderr."""
    print(printable(line), file=sys.stderr)


def tell_skipped(files: Sequence[str]) -> None:
    """Prints to stderr which files look like weights and are none."""
    if files:
        tell(f"skipped, no weights: {listed(files)}")


def listed(names: Sequence[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def tell_left_out(problems: Sequence[InputError]) -> None:
    """Prints to stderr what was left out and why, a line each; of very many the first, and how many more."""
    for problem in problems[:TOLD]:
        tell(f"left out: {problem}")
    if len(problems) > TOLD:
        tell(f"left out: {len(problems) - TOLD:,} more, see `problems` of --json")


class Output:
    """Prints what a command found; see the module."""

    def __init__(self, command: str, form: str):
        if form == "auto" and sys.stdout.isatty():
            form = "human"
        self._command, self._format = command, form
        self._records: list[Record] = []  # of `json`, which is one object and is printed last
        self._about: list[Record] = []
        self._shown = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Output":
        """The output of a command whose arguments hold `command` and what `add_format` adds."""
        return cls(args.command, args.format)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if self._format == "json" and error is None:
            about = {"about": self._about} if self._about else {}
            print(json.dumps({"wsrl": VERSION, "command": self._command, **about, "results": self._records}))

    def table(self, records: Sequence[Record], human: Callable[[], None], about: Record | None = None) -> None:
        """Prints records; a command may print several tables.

        Args:
          records: a mapping for each row, all of the same keys.
          human: prints them for people.
          about: what there is to say of all of them; programs get it before them.
        """
        if self._format == "human":
            print("\n" * self._shown, end="")  # between tables
            human()
            self._shown = True
        elif self._format in ("auto", "tsv"):
            self._tsv(records)
        else:
            self._data(records, about)

    def summary(self, record: Record, text: str) -> None:
        """Prints what was done or is known as a text for people, or as a record."""
        self.document(lambda: record, lambda: print("\n".join(map(printable, text.split("\n")))))

    def document(self, record: Callable[[], Record], human: Callable[[], None]) -> None:
        """Prints one thing: for people, also in a pipe, or as a record, which is made if it is asked for."""
        if self._format in ("auto", "human"):
            human()
        else:
            self._data([record()])

    def _tsv(self, records: Sequence[Record]) -> None:
        for number, record in enumerate(records):
            if number == 0:
                print("\t".join(record))
            print("\t".join(map(_cell, record.values())))

    def _data(self, records: Sequence[Record], about: Record | None = None) -> None:
        if self._format == "json":
            self._records += records
            self._about += [about] if about else []
        elif self._format == "jsonl":
            for record in [about, *records] if about else records:
                print(json.dumps({"wsrl": VERSION, **record}))
        else:
            for record in records:
                print(printable(str(record["id"])))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return printable(value if isinstance(value, str) else json.dumps(value))

"""Writes the options of all commands into docs/commands.md, from what `wsrl COMMAND --help` says.

python -m experiments.commands_page [--check]

`--check` writes nothing and ends with status 1 if the page differs.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsrl.cli.finish import finish
from wsrl.cli.main import COMMANDS, command_parser
from wsrl.errors import InputError
from wsrl.files import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
START, END = "<!-- options: written by python -m experiments.commands_page -->", "<!-- end of options -->"


def options() -> str:
    """Returns a section for each command: its usage, and a table of its arguments."""
    parser = command_parser(COMMANDS)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return "\n".join(line for name in COMMANDS for line in _section(name, commands.choices[name]))


def _section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    bar = r"\|"  # in a table
    yield f"### wsrl {name}\n"
    yield f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.\n"
    yield "| argument | meaning |"
    yield "| --- | --- |"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
        words = ", ".join(action.option_strings)
        shown = f"{words} {value}".strip() if action.nargs != 0 else words
        meaning = (action.help or "").replace("|", bar)
        yield f"| `{shown.replace('|', bar)}` | {meaning} |"
    yield ""


def page() -> str:
    """Returns the page as it should be."""
    text = PAGE.read_text()
    if START not in text or END not in text:
        raise InputError(PAGE, f"has no line {START!r} or {END!r}", "put both in")
    return text[: text.index(START) + len(START)] + "\n\n" + options() + "\n" + text[text.index(END) :]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(argv).check

    def job() -> None:
        if check and PAGE.read_text() != page():
            raise InputError(PAGE, "differs from the help of the commands", "run python -m experiments.commands_page")
        if not check:
            write_atomically(PAGE, page().encode())

    return finish(job)


if __name__ == "__main__":
    sys.exit(main())

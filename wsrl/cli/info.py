"""`wsrl info --index DIR`: what an index holds."""

import argparse

from wsrl.cli.names import add_index
from wsrl.cli.output import WHOLE, Output, add_format
from wsrl.text import bytes_text

EXAMPLES = ("wsrl info --index zoo.index", "wsrl info --index zoo.index --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser, stores=True)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds; returns the exit status.

    Raises:
      InputError: the folder is no index, or it is damaged.
    """
    from wsrl.search.index import Index  # not needed for `--help`

    index = Index.open(args.index)
    info = index.info()
    shown = {**info, "bytes": bytes_text(int(str(info["bytes"]))), "sources": ", ".join(index.sources)}
    width = max(map(len, shown)) + 2
    lines = [f"{key:<{width}}{f'{value:,}' if isinstance(value, int) else value}" for key, value in shown.items()]
    with Output.of(args) as output:
        output.summary(info, "\n".join(lines))
    return 0

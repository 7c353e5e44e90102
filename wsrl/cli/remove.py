"""`wsrl remove ID... --index DIR`: takes models out of an index."""

import argparse

from wsrl.cli.changes import report
from wsrl.cli.names import add_index, given
from wsrl.cli.output import WHOLE, Output, add_format

EXAMPLES = ("wsrl remove checkpoints/old.safetensors --index zoo.index",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "ids", metavar="ID", nargs="+", help="of a model in the index; its file stays. - reads them from stdin"
    )
    add_index(parser, stores=True)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds and what was done; returns the exit status.

    Raises:
      InputError: there is no such model, or the folder is no index.
    """
    from wsrl.search.index import Index  # not needed for `--help`

    index = Index.open(args.index)
    index.remove(given(args.ids))
    with Output.of(args) as output:
        return report(output, index)

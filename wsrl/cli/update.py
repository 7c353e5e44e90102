"""`wsrl update --index DIR`: brings an index up to date with the sources that it was made of."""

import argparse

from wsrl.cli.changes import report
from wsrl.cli.names import add_encoder, add_index
from wsrl.cli.output import WHOLE, Output, add_format

EXAMPLES = ("wsrl update --index zoo.index",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    add_encoder(parser)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds and what was done; returns the exit status.

    Raises:
      InputError: a source is not there, or the folder is no index of this encoder.
    """
    from wsrl.encoder.checkpoint_encoder import load_encoder  # not needed for `--help`
    from wsrl.search.index import Index

    encoder = load_encoder(args.encoder)
    index = Index.open(args.index, encoder)
    index.update(encoder, progress=True)
    with Output.of(args) as output:
        return report(output, index)

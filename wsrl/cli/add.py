"""`wsrl add SOURCE... --index DIR`: adds checkpoints to an index and keeps all that it holds."""

import argparse

from wsrl.cli.changes import report
from wsrl.cli.names import add_encoder, add_index, add_sources, given
from wsrl.cli.output import WHOLE, Output, add_format

EXAMPLES = ("wsrl add model.safetensors --index zoo.index",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    add_index(parser, stores=True)
    add_encoder(parser)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds and what was done; returns the exit status.

    Raises:
      InputError: no checkpoint can be used, or the folder is no index of this encoder.
    """
    from wsrl.encoder.checkpoint_encoder import load_encoder  # not needed for `--help`
    from wsrl.search.index import Index

    encoder = load_encoder(args.encoder)
    index = Index.open(args.index, encoder)
    index.add(encoder, given(args.sources), progress=True)
    with Output.of(args) as output:
        return report(output, index)

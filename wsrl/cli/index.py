"""`wsrl index SOURCE... --out DIR`: makes an index of checkpoints, or brings one up to date."""

import argparse

from wsrl.cli.changes import report
from wsrl.cli.names import add_encoder, add_sources, given, index_place
from wsrl.cli.output import WHOLE, Output, add_format

EXAMPLES = (
    "wsrl index checkpoints --out zoo.index",
    "find checkpoints -name '*.safetensors' | wsrl index - --out zoo.index",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_sources(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=index_place,
        required=True,
        help="folder of the index; one that is there is brought up to date: what is new or has changed is embedded, and"
        " what the sources don't hold is removed. Or a vector store: milvus://..., FILE.db, qdrant://...",
    )
    add_encoder(parser)
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Prints what the index holds and what was done; returns the exit status.

    Raises:
      InputError: no checkpoint can be used, or the folder is no index of this encoder.
    """
    from wsrl.encoder.checkpoint_encoder import load_encoder  # not needed for `--help`
    from wsrl.search.index import Index

    index = Index.build(load_encoder(args.encoder), given(args.sources), args.out, progress=True)
    with Output.of(args) as output:
        return report(output, index)

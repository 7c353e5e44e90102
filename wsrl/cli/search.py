"""`wsrl search QUERY... --index DIR`: finds the relatives of a checkpoint, and the models that do what it does."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from wsrl.cli.hits import hit_record, hit_row, print_rows
from wsrl.cli.names import add_encoder, add_index, given
from wsrl.cli.output import Output, add_format
from wsrl.errors import InputError

if TYPE_CHECKING:
    from wsrl.search.hit import Hit
    from wsrl.search.index import Index

EXAMPLES = (
    "wsrl search model.safetensors --index zoo.index",
    "wsrl search model.safetensors --index zoo.index --by weights -k 5 --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "queries",
        metavar="QUERY",
        nargs="+",
        help="a checkpoint (a file, a folder or hf://owner/name), or the id of a model in the index; - reads them from"
        " stdin, one a line",
    )
    add_index(parser)
    add_encoder(parser)
    parser.add_argument("-k", metavar="N", type=int, default=10, help="models shown for each query (default 10)")
    parser.add_argument(
        "--by",
        choices=("weights", "function"),
        help="weights: who is a copy or a relative; function: who does the same task. By default the function, where"
        " the query has one that is known, copies first",
    )
    parser.add_argument("--exact", action="store_true", help="compare with all models, however many there are")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a ranking for each query; returns the exit status.

    Raises:
      InputError: a query, the index or the encoder cannot be used.
    """
    if args.k < 1:
        raise InputError("-k", f"{args.k} is too small", "give 1 or more")
    from wsrl.search.index import Index  # not needed for `--help`

    encoder = None
    if args.encoder is not None:
        from wsrl.encoder.checkpoint_encoder import load_encoder

        encoder = load_encoder(args.encoder)
    index = Index.open(args.index, encoder)
    with Output.of(args) as output:
        for query in given(args.queries):
            hits = index.search(query, args.k, args.by or "auto", exact=args.exact)
            output.table([hit_record(query, hit) for hit in hits], partial(_show, index, query, hits))
    return 0


def _show(index: "Index", query: str, hits: "list[Hit]") -> None:
    by = hits[0].by if hits else "weights"
    count = index.info()["functions"] if by == "function" else len(index)
    print_rows([f"{query}: nearest by {by} of {count:,} models"], [hit_row(hit) for hit in hits])

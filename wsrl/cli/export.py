"""`wsrl export --index DIR --out FILE`: writes the vectors of an index for other programs."""

import argparse
from pathlib import Path

from wsrl.cli.names import add_index
from wsrl.cli.output import WHOLE, Output, add_format
from wsrl.text import bytes_text, counted

EXAMPLES = ("wsrl export --index zoo.index --out zoo.npz", "wsrl export --index zoo.index --out zoo.parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_index(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="written: all vectors and what is known of the models, as .npz or .parquet by the end of the name",
    )
    add_format(parser, WHOLE)


def run(args: argparse.Namespace) -> int:
    """Writes the file; returns the exit status.

    Raises:
      InputError: the folder is no index or damaged, or the file is of another kind.
    """
    from wsrl.search.index import Index  # not needed for `--help`

    index = Index.open(args.index)
    index.export(args.out)
    size = args.out.stat().st_size
    record = {"file": str(args.out), "models": len(index), "bytes": size}
    with Output.of(args) as output:
        output.summary(record, f"{args.out}: {counted(len(index), 'model')}, {bytes_text(size)}")
    return 0

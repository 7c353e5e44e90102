"""Search among up to a million models: recall, speed and memory against other libraries, and a soak.

    python -m experiments.scale table --workdir=runs/scale --families=wild.index --hard=zoo.index
    python -m experiments.scale index --workdir=runs/scale --families=wild.index
    python -m experiments.scale soak --workdir=runs/scale --families=wild.index

`--families` and `--hard` name indexes that the vectors are made of; see `experiments/scale/datasets.py`. What was
measured is kept in the workdir: the same command goes on from there, and ends at once when all is done.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.scale.datasets import FAMILIES, HARD, QUERIES, K
from experiments.scale.methods import METHODS
from experiments.scale.soak import soak
from experiments.scale.table import measured_rows, write_scale
from experiments.scale.whole_index import measure_whole
from wsrl.cli.finish import finish
from wsrl.errors import InputError

SIZES = "10000,100000,1000000"


def make_table(args: argparse.Namespace) -> None:
    """Measures and writes the table."""
    kinds = {kind: path for kind, path in ((FAMILIES, args.families), (HARD, args.hard)) if path}
    if not kinds:
        raise InputError("command line", "neither --families nor --hard", "name an index that vectors are made of")
    names = args.methods.split(",") if args.methods else [*METHODS]
    if unknown := [name for name in names if name not in METHODS]:
        raise InputError("--methods", f"{unknown[0]!r} is none", f"known are {', '.join(METHODS)}")
    sizes = chosen_sizes(args.sizes)
    write_scale(args.workdir, measured_rows(args.workdir, kinds, sizes, names, args.largest_peer, args.queries))


def run_soak(args: argparse.Namespace) -> None:
    """Searches and adds for some minutes."""
    soak(args.workdir, args.families, args.models, args.minutes)


def chosen_sizes(text: str) -> list[int]:
    """Sizes, ascending. Raises InputError where one is no number or too small."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) >= 100 * K for part in parts):
        raise InputError("--sizes", f"{text!r}", f"give numbers of {100 * K} or more with commas between them")
    return sorted({int(part) for part in parts})


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status: 1 if the input is bad."""
    prog = "python -m experiments.scale"
    parser = argparse.ArgumentParser(prog=prog, description="Measures search among many models.")
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="recall, speed and memory by number of models")
    table.add_argument("--hard", type=Path, metavar="INDEX", help="whose vectors are resampled")
    table.add_argument("--sizes", default=SIZES, metavar="N,...", help=f"numbers of vectors, by default {SIZES}")
    table.add_argument(
        "--largest-peer", type=int, default=100_000, metavar="N", help="vectors that other libraries are measured with"
    )
    table.add_argument("--queries", type=positive, metavar="N", help=f"of each data set, by default {QUERIES:,}")
    table.add_argument("--methods", metavar="NAME,...", help="some of the methods; by default all")
    table.set_defaults(run=make_table)
    index = commands.add_parser("index", help="an index as a whole: filters, groups by lineage, additions")
    index.add_argument("--sizes", default=SIZES, metavar="N,...", help=f"numbers of models, by default {SIZES}")
    index.set_defaults(run=lambda args: measure_whole(args.workdir, args.families, chosen_sizes(args.sizes)))
    long = commands.add_parser("soak", help="searches and additions for some minutes")
    long.add_argument("--models", type=int, default=100_000, metavar="N", help="of the index, by default 100,000")
    long.add_argument("--minutes", type=float, default=10.0, help="by default 10")
    long.set_defaults(run=run_soak)
    for command in (table, index, long):
        command.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="keeps data and results")
        command.add_argument("--families", type=Path, metavar="INDEX", help="whose weights vectors are parents")
    args = parser.parse_args(argv)
    return finish(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())

"""What it takes to embed many models: measured models a core second by size, and a plan for as many as one likes.

python -m experiments.benchmarks.embedding_cost measure [FOLDER...] [--out FILE.csv]
python -m experiments.benchmarks.embedding_cost plan FILE.csv --models 1000000 --shares 20,30,35,13,2

`measure` embeds files that it makes (random weights, in a temporary folder, 2.5 GB of them) and those in folders, a
size class after the other, and counts the CPU time of this process on all cores: files that wait for a disk or a busy
machine do not count. The vectors are thrown away. A class of which no file was measured is planned by the CPU time that
the class below takes for a byte.

`plan` needs the share of each class among the models, which nothing here measures, and prices, which change. Bytes are
those of whole files; what is known before a download (a copy of another model) is left out by --copies.
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.benchmarks.streaming import Shapes, bert, classifier, write_random
from wsrl.checkpoint import CheckpointError
from wsrl.cli.finish import finish
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import Encoder, load_encoder
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.search.embed import embed_sources
from wsrl.search.file_identity import file_stat
from wsrl.search.sources import find_sources

CLASSES = {"< 1 MB": 1e6, "1 to 10 MB": 1e7, "10 to 100 MB": 1e8, "100 MB to 1 GB": 1e9, "1 to 10 GB": 1e10}
COLUMNS = ("size", "models", "left out", "GB", "CPU s", "models a core second", "CPU s a GB")
MADE: tuple[tuple[str, Shapes], ...] = (
    *((f"small-{kind}", classifier(kind)) for kind in range(48)),
    *((f"medium-{layers}", bert(layers, 128, 4000)) for layers in range(2, 10)),
    *((f"large-{layers}", bert(layers, 384, 20000)) for layers in (4, 6, 8)),
    *((f"huge-{layers}", bert(layers, 768)) for layers in (6, 12)),
)


@dataclass(frozen=True)
class Measured:
    """What a size class took.

    Attributes:
      size: its name, a key of CLASSES.
      models, left_out: that were embedded, and that could not be.
      gigabytes, cpu: of all of them.
    """

    size: str
    models: int
    left_out: int
    gigabytes: float
    cpu: float

    @property
    def a_model(self) -> float:
        """CPU seconds of one."""
        return self.cpu / (self.models + self.left_out)

    @property
    def a_gigabyte(self) -> float:
        """CPU seconds of one."""
        return self.cpu / self.gigabytes

    def cells(self) -> list[str]:
        """Those of a row of the table."""
        numbers = self.models, self.left_out, f"{self.gigabytes:.4g}", f"{self.cpu:.4g}", f"{1 / self.a_model:.3g}"
        return [self.size, *map(str, numbers), f"{self.a_gigabyte:.3g}"]


def size_class(size: float) -> str | None:
    """Returns the class of a number of bytes; None above all."""
    return next((name for name, end in CLASSES.items() if size < end), None)


def measure(encoder: Encoder, folders: Sequence[str]) -> Iterator[Measured]:
    """Yields what the classes took of which there are files in folders."""
    by_class: dict[str, list] = {name: [] for name in CLASSES}
    sizes = {}
    for source in find_sources(folders).sources:
        stat = file_stat(source.path, source.record)
        name = size_class(stat.size) if stat else None
        if stat and name:
            by_class[name].append(source)
            sizes[source.id] = stat.size
    for name, sources in by_class.items():
        if not sources:
            continue
        start = time.process_time()
        rows = [row for _, row in embed_sources(encoder, sources)]
        cpu = time.process_time() - start
        broken = sum(isinstance(row, CheckpointError) for row in rows)
        gigabytes = sum(sizes[source.id] for source in sources) / 1e9
        yield Measured(name, len(rows) - broken, broken, gigabytes, cpu)


def read_measured(path: Path) -> dict[str, Measured]:
    """Reads a table that `measure` wrote.

    Raises:
      InputError: it is not there, or is none.
    """
    try:
        with open(path, newline="") as file:
            found = [
                Measured(row["size"], int(row["models"]), int(row["left out"]), float(row["GB"]), float(row["CPU s"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(path, f"is no table of costs ({error})", "make one by `measure --out`") from error
    return {row.size: row for row in found}


@dataclass(frozen=True)
class Plan:
    """What the models of a class take: how many are embedded, their bytes, and CPU seconds."""

    size: str
    models: float
    size_bytes: float
    cpu: float


def plan(measured: dict[str, Measured], models: float, shares: Sequence[float], copies: float) -> list[Plan]:
    """Plans the embedding of many models.

    Args:
      measured: by the name of the class.
      models: how many.
      shares: of the classes, in any unit.
      copies: share of models that are copies of others, which are neither downloaded nor embedded.

    Raises:
      InputError: there is not one share for each class, or nothing was measured below a class.
    """
    if len(shares) != len(CLASSES) or min(shares) < 0 or not sum(shares):
        raise InputError("--shares", f"are not {len(CLASSES)} numbers", f"give those of {', '.join(CLASSES)}")
    rows: list[Plan] = []
    known: Measured | None = None
    for (name, end), share in zip(CLASSES.items(), shares, strict=True):
        own = measured.get(name)
        known = own or known
        if known is None:
            raise InputError("table", f"nothing of {name} or below was measured", "measure files of that size")
        each = own.gigabytes / (own.models + own.left_out) * 1e9 if own else end / math.sqrt(10)  # middle of a decade
        cpu = own.a_model if own else known.a_gigabyte * each / 1e9
        count = models * (1 - copies) * share / sum(shares)
        rows.append(Plan(name, count, count * each, count * cpu))
    return rows


def show(rows: Sequence[Plan], core_hour: float, gigabyte: float, cores: int) -> None:
    """Prints a plan with its costs."""
    print(f"{'size':16}{'models':>12}{'TB':>10}{'core days':>12}")
    for row in rows:
        print(f"{row.size:16}{row.models:12,.0f}{row.size_bytes / 1e12:10.2f}{row.cpu / 86400:12.2f}")
    total, days = sum(row.size_bytes for row in rows), sum(row.cpu for row in rows) / 86400
    print(f"{'all':16}{sum(row.models for row in rows):12,.0f}{total / 1e12:10.2f}{days:12.2f}")
    euros = days * 24 * core_hour + total / 1e9 * gigabyte
    rate = total * 8 / (days / cores * 86400) / 1e9
    print(f"{euros:,.0f} euros; {days / cores:.1f} days on {cores} cores, which read {rate:.2g} Gbit/s meanwhile")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures or plans; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    measured = commands.add_parser("measure")
    measured.add_argument("folders", metavar="FOLDER", nargs="*")
    measured.add_argument("--out", metavar="FILE.csv", type=Path)
    planned = commands.add_parser("plan")
    planned.add_argument("table", metavar="FILE.csv", type=Path)
    planned.add_argument("--models", type=float, required=True)
    planned.add_argument("--shares", required=True, help=f"of {', '.join(CLASSES)}")
    planned.add_argument("--copies", type=float, default=0.0, help="share of models that are copies of others (0)")
    planned.add_argument("--core-hour", type=float, default=0.0, help="euros of a core for an hour (0)")
    planned.add_argument("--gigabyte", type=float, default=0.0, help="euros of a gigabyte that is downloaded (0)")
    planned.add_argument("--cores", type=int, default=64)
    args = parser.parse_args(argv)
    return finish(lambda: _measure(args) if args.command == "measure" else _plan(args))


def _plan(args: argparse.Namespace) -> None:
    try:
        shares = [float(share) for share in args.shares.split(",")]
    except ValueError as error:
        raise InputError("--shares", f"{args.shares!r} are no numbers", "write them as 20,30,35,13,2") from error
    rows = plan(read_measured(args.table), args.models, shares, args.copies)
    show(rows, args.core_hour, args.gigabyte, args.cores)


def _measure(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="wsrl-") as folder:
        for seed, (name, shapes) in enumerate(MADE):
            write_random(Path(folder) / f"{name}.safetensors", shapes, np.float32, seed)
        encoder = load_encoder()
        warm = list(encoder.embed([next(Path(folder).glob("small-*"))]))  # libraries load once a worker
        assert isinstance(warm[0], Embedded)
        rows = [row.cells() for row in measure(encoder, [folder, *args.folders])]
    lines = [",".join(row) for row in (COLUMNS, *rows)]
    print("\n".join(lines))
    if args.out:
        write_atomically(args.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())

"""Whether `wsrl lineage` finds the parent of each network, and claims directions that are right.

    python -m experiments.tables.lineage --workdir=runs/relations [--architectures=mlp,cnn,resnet] [--lineages=6]
        [--strangers=6] [--seed=100]

Trains bases alike from other seeds and makes descendants of them whose tree is known (`lineage_zoo`), writes all as
files that tell nothing of it, and gives the folder to `wsrl.find_lineage`. Writes `tables/lineage.csv`.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.tables.lineage_zoo import Planted, write_lineages
from experiments.tables.relation_zoo import ARCHITECTURES as KNOWN
from experiments.tables.weights_index import index_weights
from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.origins.lineage import Lineage, find_lineage
from wsrl.report.tables import Row, print_table, write_table

NAME, TITLE = "lineage", "Parents"
ARCHITECTURES = "mlp,cnn,resnet"
NOTE = (
    "{models} networks of {architectures} architectures: {lineages} bases of each with descendants, {strangers} "
    "without, all trained alike. `linked`: share whose true parent is next to it in the tree. `claimed`: share for "
    "which a parent is named; `right`: share of these parents that are right, else the direction is unknown. Of "
    "{links} links {false} join networks of two lineages."
)


def rows(found: Lineage, written: Mapping[str, Planted]) -> tuple[list[Row], int, int]:
    """Returns a row for each change and one for all, the number of links, and of those that join two lineages."""
    links = [link for family in found.families for link in family.links]
    stands = {copy: name for family in found.families for name, own in family.copies.items() for copy in own}
    joined = {frozenset((link.parent, link.child)) for link in links}
    claimed = {link.child: link.parent for link in links if link.directed}
    counts: dict[str, Counter] = defaultdict(Counter)
    for name, own in written.items():
        parent = stands.get(own.parent, own.parent)
        for row in (own.change, "all descendants") if own.parent else ("base",):
            count = counts[row]
            count["models"] += 1
            count["linked"] += frozenset((name, parent)) in joined
            count["claimed"] += name in claimed
            count["right"] += bool(parent) and claimed.get(name) == parent
    order = [*(change for change in counts if change != "all descendants"), "all descendants"]
    listed: list[Row] = [
        {
            "made by": change,
            "models": counts[change]["models"],
            "linked": counts[change]["linked"] / counts[change]["models"] if change != "base" else None,
            "claimed": counts[change]["claimed"] / counts[change]["models"],
            "right": counts[change]["right"] / counts[change]["claimed"] if counts[change]["claimed"] else None,
        }
        for change in order
    ]
    false = sum(written[link.parent].lineage != written[link.child].lineage for link in links)
    return listed, len(links), false


def table(
    workdir: Path, architectures: Sequence[str], lineages: int, strangers: int, seed: int
) -> tuple[list[Row], str]:
    """The rows of the table, and its note."""
    workdir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workdir) as folder:
        written: dict[str, Planted] = {}
        for architecture in architectures:
            written |= write_lineages(Path(folder) / "zoo" / architecture, architecture, lineages, strangers, seed)
        index_weights([Path(folder) / "zoo"], Path(folder) / "zoo.index")
        found = find_lineage(Path(folder) / "zoo.index", progress=True)
    listed, links, false = rows(found, written)
    counts = {"models": len(written), "architectures": len(architectures), "lineages": lineages}
    return listed, NOTE.format(**counts, strangers=strangers, links=links, false=false)


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense.
    """
    for name, least in (("lineages", 1), ("strangers", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", f"set it to {least} or more")
    names = args.architectures.split(",")
    if unknown := set(names) - set(KNOWN):
        raise InputError("--architectures", f"{', '.join(sorted(unknown))} is none", f"there are {', '.join(KNOWN)}")
    listed, note = table(args.workdir, names, args.lineages, args.strangers, args.seed)
    write_table(args.workdir, NAME, TITLE, note, listed, None)
    print_table(listed)
    print(note)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that the table goes to")
    parser.add_argument("--architectures", default=ARCHITECTURES, help=f"by default {ARCHITECTURES}")
    parser.add_argument("--lineages", type=int, default=6, help="bases of each architecture that have descendants")
    parser.add_argument("--strangers", type=int, default=6, help="bases of each architecture that have none")
    parser.add_argument("--seed", type=int, default=100, help="of all networks")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())

"""Whether `wsrl compare` says what networks are to each other, on networks whose relations are known.

    python -m experiments.tables.relations --workdir=runs/relations [--lineages=2] [--siblings=150] [--seed=100]

Trains bases of seven architectures and makes descendants of them (`relation_zoo`), then compares each base with its
descendants and with those of another base; siblings of the perceptron, trained alike from other seeds, are compared
with one another. Writes `tables/relations.csv`: what each change is taken for; and `tables/relatives.csv`: how well
related and independent networks are told apart, beside the cosines of raw weights and of weights vectors.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from tqdm import tqdm

from experiments.tables.relation_zoo import ARCHITECTURES, MERGES, Member, bases, descendants
from wsrl.checkpoint import Checkpoint
from wsrl.cli.finish import finish
from wsrl.comparison.compare import compare
from wsrl.comparison.merge import find_merge
from wsrl.comparison.relation import Kind, Relation
from wsrl.errors import InputError
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.signature.weights_vector import sign
from wsrl.wiring.infer_wiring import infer_wiring

NAME, TITLE = "relations", "What a network is to its base"
NOTE = (
    "Each descendant of {bases} bases of {architectures} architectures is compared with its base. A merge of two "
    "fine-tuned networks is fine-tuned as seen from the base; with its parents given, coefficients are found. Siblings "
    "are bases trained from other seeds, on the same data by the same recipe."
)
PAIRS_NAME, PAIRS_TITLE = "relatives", "Related or independent"
PAIRS_NOTE = (
    "Descendants against their own base, and against another base of the same architecture, data and recipe. AUC: "
    "chance that a related pair scores higher than an independent one."
)
SIBLINGS = "mlp"  # architecture whose siblings are compared with one another
LEAST = 1e-300


def asked(member: Member) -> Kind:
    """What a network is to its base alone."""
    return Kind.FINE_TUNED if member.kind is Kind.MERGE else member.kind


def raw_cosine(a: Checkpoint, b: Checkpoint) -> float:
    """Cosine of all weights entry by entry, in the order of the file; 0 where the numbers of entries differ."""
    x, y = (np.concatenate([np.asarray(t).ravel() for t in own.tensors.values()]) for own in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) if x.shape == y.shape else 0.0


def auc(related: Sequence[float], independent: Sequence[float]) -> float:
    """Chance that a related pair has the higher score; ties count half."""
    ranks = rankdata([*related, *independent])
    n, m = len(related), len(independent)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def merge_errors(members: Sequence[Member], base: Member) -> Iterator[float]:
    """Yields the largest error of the coefficients of each merge, given all its parents and its base."""
    own = {member.change: replace(member.checkpoint, path=member.change) for member in members}
    parents = [replace(base.checkpoint, path="base"), own["100 steps"], own["100 steps, another task"]]
    for change, weights in MERGES.items():
        relation = find_merge(own[change], parents)
        found = np.array(list(relation.coefficients.values()))
        true = np.array([0.0, *weights] if len(weights) == 2 else weights)
        yield float(np.abs(found - true).max()) if relation.kind is Kind.MERGE else float("inf")


def _two_lists() -> tuple[list[float], list[float]]:
    return [], []


class Tally:
    """Counts of all comparisons."""

    def __init__(self):
        self.said: dict[tuple[str, Kind], Counter[Kind]] = defaultdict(Counter)
        self.scores: dict[str, tuple[list[float], list[float]]] = defaultdict(_two_lists)
        self.errors: list[float] = []
        self.values: list[float] = []
        self.bases = 0

    def join(self, other: "Tally") -> None:
        """Adds the counts of another."""
        for key, said in other.said.items():
            self.said[key] += said
        for method, sides in other.scores.items():
            for own, more in zip(self.scores[method], sides, strict=True):
                own += more
        self.errors += other.errors
        self.values += other.values
        self.bases += other.bases

    def add(self, change: str, kind: Kind, relation: Relation) -> None:
        """Counts what a pair is said to be."""
        self.said[change, kind][relation.kind] += 1

    def score(self, a: Checkpoint, b: Checkpoint, relation: Relation, independent: bool) -> None:
        """Notes the scores of a pair by all methods."""
        p_value = 1.0 if relation.p_value is None else relation.p_value
        x, y = (sign(own, infer_wiring(own)).vector for own in (a, b))
        told = {"wsrl compare": -np.log10(max(p_value, LEAST)), "weights vector": x @ y, "raw cosine": raw_cosine(a, b)}
        for method, value in told.items():
            self.scores[method][independent].append(float(value))

    def rows(self) -> list[Row]:
        """What each change is taken for."""
        rows: list[Row] = []
        for (change, kind), said in self.said.items():
            others = ", ".join(f"{other} {count}" for other, count in said.most_common() if other is not kind)
            right = said[kind] / said.total()
            rows.append({"change": change, "is": str(kind), "pairs": said.total(), "right": right, "else": others})
        total = sum(said.total() for said in self.said.values())
        right = sum(said[kind] for (_, kind), said in self.said.items())
        rows.append({"change": "all", "pairs": total, "right": right / total})
        found = np.isfinite(self.errors)
        rows.append(
            {
                "change": "merges with parents given",
                "is": str(Kind.MERGE),
                "pairs": len(self.errors),
                "right": float(found.mean()),
                "else": f"largest error of a coefficient {np.array(self.errors)[found].max(initial=0):.1g}",
            }
        )
        return rows

    def pairs(self) -> list[Row]:
        """How well methods tell related networks."""
        rows: list[Row] = []
        for method, (related, independent) in self.scores.items():
            rows.append(
                {
                    "method": method,
                    "related": len(related),
                    "independent": len(independent),
                    "AUC": auc(related, independent),
                    "found at no false alarm": float(np.mean(np.array(related) > max(independent))),
                }
            )
        return rows


def of_architecture(architecture: str, lineages: int, seed: int) -> Tally:
    """Makes the networks of an architecture and compares descendants with their own base and with another."""
    tally = Tally()
    roots = bases(architecture, range(seed, seed + lineages))
    tally.bases = len(roots)
    members = list(descendants(architecture, roots, seed + 1000))
    for member in members:
        own = next(i for i, root in enumerate(roots) if root.lineage == member.lineage)
        other = roots[(own + 1) % len(roots)]
        for root, kind in ((roots[own], asked(member)), (other, Kind.UNRELATED)):
            relation = compare(root.checkpoint, member.checkpoint)
            tally.add(member.change if root is roots[own] else "of another base", kind, relation)
            tally.score(root.checkpoint, member.checkpoint, relation, root is other)
    for root in roots:
        tally.errors += merge_errors([member for member in members if member.lineage == root.lineage], root)
    return tally


def of_siblings(siblings: int, seed: int) -> Tally:
    """Compares bases that were trained alike with one another."""
    tally = Tally()
    alike = bases(SIBLINGS, range(seed + 2000, seed + 2000 + siblings))
    for a, b in combinations(alike, 2):
        relation = compare(a.checkpoint, b.checkpoint)
        tally.add("siblings", Kind.UNRELATED, relation)
        tally.values.append(relation.p_value or 1.0)
    return tally


def run(lineages: int, siblings: int, seed: int, processes: int) -> Tally:
    """Makes and compares all networks, several architectures at a time."""
    tally = Tally()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(of_siblings, siblings, seed)]
        jobs += [pool.submit(of_architecture, name, lineages, seed) for name in ARCHITECTURES[::-1]]
        for job in tqdm(jobs, desc=NAME, unit="job"):
            tally.join(job.result())
    return tally


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the tables.

    Raises:
      InputError: no number that makes sense.
    """
    for name, least in (("lineages", 2), ("siblings", 2), ("processes", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", f"set it to {least} or more")
    tally = run(args.lineages, args.siblings, args.seed, args.processes)
    rows = tally.rows()
    note = NOTE.format(bases=tally.bases, architectures=len(ARCHITECTURES))
    note += f" The smallest p-value of {len(tally.values):,} pairs of siblings is {min(tally.values):.2g}."
    write_table(args.workdir, NAME, TITLE, note, rows, bar_figure(rows, "change", ["right"], "share that is right"))
    print_table(rows)
    write_table(args.workdir, PAIRS_NAME, PAIRS_TITLE, PAIRS_NOTE, tally.pairs(), None)
    print_table(tally.pairs())


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that the tables go to")
    parser.add_argument("--lineages", type=int, default=2, help="bases of each architecture")
    parser.add_argument("--siblings", type=int, default=150, help="bases that are compared with one another")
    parser.add_argument("--processes", type=int, default=2, help="that work side by side")
    parser.add_argument("--seed", type=int, default=100, help="of all networks; thresholds were chosen on those of 0")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())

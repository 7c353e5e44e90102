"""What `wsrl compare` and `wsrl duplicates` say of files of others, whose relations a manifest states.

    python -m experiments.tables.labeled_files --workdir=runs/files --files=FOLDER --manifest=FILE.jsonl

A line of the manifest has `file` (relative to the folder), `net` (equal for the same weights in any format and
precision), `lineage` (equal for versions, fine-tuned ones and members of an ensemble), `precision` and `sha256`. Writes
`tables/labeled_files.csv`, a table of confusion: pairs of one lineage, and as many of two, by what they are taken for.
Labels can be wrong, so pairs that contradict theirs are printed.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.tables.duplicates import clusters, pairs
from experiments.tables.weights_index import index_weights
from wsrl.cli.finish import finish
from wsrl.comparison.compare import compare
from wsrl.comparison.relation import Kind
from wsrl.errors import InputError
from wsrl.origins.duplicates import find_duplicates
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.file_identity import located
from wsrl.search.store import Store

NAME, TITLE = "labeled_files", "Files whose relation is stated"
SAME = (Kind.SAME_FILE, Kind.SAME_WEIGHTS, Kind.SAME_SYMMETRY, Kind.SAME_PRECISION)
RELATED = (*SAME, Kind.NOISE, Kind.PRUNED, Kind.ADAPTER, Kind.EXTENDED, Kind.FINE_TUNED)
FIELDS = ("file", "net", "lineage", "precision", "sha256")
RIGHT: dict[str, Sequence[Kind]] = {
    "same weights": SAME[:3],
    "same weights, another precision": SAME,
    "one lineage, other weights": (*RELATED[4:], Kind.UNRELATED, Kind.UNKNOWN),
    "two lineages": (Kind.UNRELATED, Kind.UNKNOWN),
}
NOTE = (
    "{files} files. `right`: the share of pairs of a kind that the label allows; versions that were trained anew are "
    "unrelated by their weights, so all but the same is right of one lineage. Duplicates of an index of the folder: "
    "precision {precision:.3f}, recall {recall:.3f} by the labels; files of equal bytes that are labeled as two "
    "networks left out, precision is {trusted:.3f}."
)
Labels = Mapping[str, str]


def read_manifest(path: Path) -> list[Labels]:
    """Returns the lines of a manifest.

    Raises:
      InputError: it cannot be read, or a line is no JSON or lacks a field.
    """
    rows = []
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows.append({key: str(row[key]) for key in FIELDS})
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"holds a line that is no manifest's ({error})", "see --help") from error
    return rows


def labeled(a: Labels, b: Labels) -> str:
    """What the labels of two files say."""
    if a["net"] == b["net"]:
        return "same weights" if a["precision"] == b["precision"] else "same weights, another precision"
    return "one lineage, other weights" if a["lineage"] == b["lineage"] else "two lineages"


def chosen(rows: Sequence[Labels], seed: int) -> Iterator[tuple[Labels, Labels]]:
    """Yields all pairs of one lineage, and as many of two."""
    own = [pair for pair in combinations(rows, 2) if pair[0]["lineage"] == pair[1]["lineage"]]
    others = [pair for pair in combinations(rows, 2) if pair[0]["lineage"] != pair[1]["lineage"]]
    yield from own
    drawn = np.random.default_rng(seed).permutation(len(others))[: len(own)]
    yield from (others[number] for number in drawn.tolist())


def confusion(files: Path, rows: Sequence[Labels], seed: int) -> list[Row]:
    """Compares pairs; prints those that contradict their labels."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for a, b in tqdm(list(chosen(rows, seed)), desc="comparing", unit="pair"):
        label = labeled(a, b)
        try:
            kind = str(compare(files / a["file"], files / b["file"]).kind)
        except InputError:
            kind = "cannot be read"
        counts[label][kind] += 1
        if kind not in (*RIGHT[label], "cannot be read"):
            print(f"{label}, taken for {kind}: {a['file']} {b['file']}", file=sys.stderr)
    kinds = [*map(str, Kind), "cannot be read"]
    there = [kind for kind in kinds if any(count[kind] for count in counts.values())]
    return [
        {
            "label": label,
            "pairs": count.total(),
            "right": sum(count[kind] for kind in RIGHT[label]) / max(count.total() - count["cannot be read"], 1),
            **{kind.replace("_", " "): count[kind] for kind in there},
        }
        for label, count in counts.items()
    ]


def duplicates(workdir: Path, files: Path, rows: Sequence[Labels]) -> tuple[float, float, float]:
    """Precision, recall, and precision where files of equal bytes count as the same, of groups in the folder."""
    directory = workdir / "files.index"
    index_weights([files], directory)
    store, by_path = Store(directory), {(files / row["file"]).resolve(): row for row in rows}
    labels = {model.id: by_path.get(Path(located(directory, model.path)).resolve()) for model in store.catalog.models()}
    known = {name: row for name, row in labels.items() if row is not None}
    joined = clusters(find_duplicates(directory, progress=True), store.ids)
    told = pairs({name: joined[name] for name in known})
    truth = pairs({name: row["net"] for name, row in known.items()})
    wrong = pairs({name: row["sha256"] for name, row in known.items()}) - truth
    right = len(told & truth)
    return right / max(len(told), 1), right / max(len(truth), 1), right / max(len(told - wrong), 1)


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: the manifest cannot be read, or a line lacks a field.
    """
    rows = read_manifest(args.manifest)
    args.workdir.mkdir(parents=True, exist_ok=True)
    distinct = list({row["sha256"]: row for row in rows}.values())
    listed = confusion(args.files, distinct, args.seed)
    precision, recall, trusted = duplicates(args.workdir, args.files, rows)
    note = NOTE.format(files=len(rows), precision=precision, recall=recall, trusted=trusted)
    write_table(args.workdir, NAME, TITLE, note, listed, None)
    print_table(listed)
    print(note)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that the table and an index go to")
    parser.add_argument("--files", type=Path, required=True, help="folder of the files")
    parser.add_argument("--manifest", type=Path, required=True, help="a line of JSON for each file")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs of two lineages that are drawn")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())

"""Whether duplicates are found, each of its kind, and nothing else is.

    python -m experiments.tables.duplicates --workdir=runs/zoo [--models=60] [--seed=0]

Networks of a finished run are written in many forms beside all checkpoints of the run and beside networks that differ
from them a little. `wsrl.find_duplicates` gets the folder without any word on what is what. Writes
`tables/duplicates.csv` and `.svg`.
"""

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.job.records import read_records
from experiments.job.trainable import final_checkpoints
from experiments.job.workdir import read_config, zoo_directory
from experiments.tables.copies import COPIES, DISTRACTORS, Written, write_zoo
from experiments.tables.weights_index import index_weights
from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.origins.duplicates import Found, find_duplicates
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table

NAME = "duplicates"
TITLE = "Duplicates"
NOTE = (
    "{originals} networks of the run in {forms} forms each, beside {others} networks that are no copies: all other "
    "checkpoints of the run, and networks that differ a little. `found`: share of the copies that are in a group with "
    "their original, and for the others, share that wrongly is. `kind`: share of the copies in a group of their kind. "
    "All pairs: precision {precision:.4f}, recall {recall:.4f}; {compared} pairs of files of {pairs} were compared."
)


def clusters(found: Found, ids: Iterable[str]) -> dict[str, str]:
    """Returns for each id one that stands for all that groups join."""
    stands = {name: name for name in ids}

    def root(name: str) -> str:
        while stands[name] != name:
            name = stands[name]
        return name

    for group in found.groups:
        for copy in group.copies[1:]:
            stands[root(copy.model.id)] = root(group.copies[0].model.id)
    return {name: root(name) for name in stands}


def pairs(labels: Mapping[str, str]) -> set[frozenset[str]]:
    """Returns the pairs of names of one label."""
    grouped = defaultdict(list)
    for name, label in labels.items():
        grouped[label].append(name)
    return {frozenset(pair) for own in grouped.values() for pair in combinations(own, 2)}


def kinds(found: Found) -> Iterator[tuple[str, str, str]]:
    """Yields (one id, another, kind) of each copy and the one that is kept."""
    for group in found.groups:
        for copy in group.copies[1:]:
            yield group.copies[0].model.id, copy.model.id, str(group.kind)


def rows(found: Found, written: Mapping[str, Written]) -> tuple[list[Row], float, float]:
    """Returns a row for each form, precision and recall."""
    joined = clusters(found, written)
    truth = pairs({name: own.original if own.same else name for name, own in written.items()})
    told = pairs(joined)
    right = len(truth & told)
    told_kinds = {other: kind for _, other, kind in kinds(found)}
    by_form: dict[str, Counter] = defaultdict(Counter)
    for name, own in written.items():
        if own.form:
            counts = by_form[own.form]
            counts["models"] += 1
            counts["found"] += joined[name] == joined[own.original]
            counts["kind"] += told_kinds.get(name) == own.kind
    listed: list[Row] = [
        {
            "form": form,
            "copy": "yes" if form in COPIES else "no",
            "models": by_form[form]["models"],
            "found": by_form[form]["found"] / by_form[form]["models"],
            "kind": by_form[form]["kind"] / by_form[form]["models"] if form in COPIES else None,
        }
        for form in (*COPIES, *DISTRACTORS)
        if form in by_form
    ]
    return listed, right / max(len(told), 1), right / max(len(truth), 1)


def table(workdir: Path, models: int, seed: int) -> tuple[list[Row], str]:
    """The rows of the table, and its note."""
    config = read_config(workdir)
    zoo = zoo_directory(config, workdir)
    records, _ = read_records(zoo, config.seed)
    originals = [record for record in final_checkpoints(records) if record.parent is None]
    if len(originals) < 2:
        raise InputError(zoo, "holds fewer than two networks without a parent", "name a larger run")
    with TemporaryDirectory(dir=workdir) as folder:
        written = write_zoo(Path(folder) / "zoo", zoo, records, originals, models, seed)
        index_weights([Path(folder) / "zoo"], Path(folder) / "zoo.index")
        found = find_duplicates(Path(folder) / "zoo.index", progress=True)
    listed, precision, recall = rows(found, written)
    count = len(written)
    note = NOTE.format(
        originals=len({own.original for own in written.values() if own.form}),
        forms=len(COPIES),
        others=sum(not own.same for own in written.values()),
        precision=precision,
        recall=recall,
        compared=f"{found.compared:,}",
        pairs=f"{count * (count - 1) // 2:,}",
    )
    return listed, note


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense, or no run with a zoo.
    """
    if args.models < 1:
        raise InputError("--models", f"{args.models} is too small", "set it to 1 or more")
    listed, note = table(args.workdir, args.models, args.seed)
    figure = bar_figure(listed, "form", ["found"], "share in a group with the original")
    write_table(args.workdir, NAME, TITLE, note, listed, figure)
    print_table(listed)
    print(note)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of experiments.main")
    parser.add_argument("--models", type=int, default=60, help="that are copied, at most")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())

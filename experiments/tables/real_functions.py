"""Whether real classifiers of one set of labels find one another across architectures.

    python -m experiments.tables.real_functions --zoo=FOLDER [--workdir=runs/real]

The folder holds checkpoints and a `manifest.jsonl`, a line each: `file`, relative to the folder or below its `files`;
`task` and `fine`, which together name what the network tells apart, or `labels`, which does so alone; `family`, of its
architecture; `net`, equal for conversions of one network. A query is a network with a function vector; its gallery
are the others of other families, and what has its labels is relevant. Function vectors are compared as they are,
without query expansion, beside the weights vector, statistics of the tensors and their sorted shapes. Queries without
a relevant network do not count. Writes `tables/real_functions.csv`.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wsrl.baselines.statistics import statistics_features
from wsrl.checkpoint import CheckpointError
from wsrl.cli.finish import finish
from wsrl.embedded import Embedded
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.errors import InputError
from wsrl.evaluation.ranking import cosine_similarity, rank_gallery, ranking_metrics
from wsrl.readers import open_checkpoint
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table

NAME, TITLE = "real_functions", "Real classifiers of one set of labels, across families"
NOTE = (
    "Gallery: {models} networks with a function vector, in {families} families; {queries} queries of {labels} sets of "
    "labels have a relevant network in another family."
)


class Model(NamedTuple):
    """A network of the zoo."""

    path: Path
    labels: str
    family: str
    net: str


def read_zoo(folder: Path) -> list[Model]:
    """Returns the networks of a folder.

    Raises:
      InputError: the manifest is missing or a line is not of its form.
    """
    manifest = folder / "manifest.jsonl"
    models = []
    try:
        for line in map(json.loads, manifest.read_text().splitlines()):
            labels = line.get("labels") or f"{line['task']} / {line['fine']}"
            path = folder / line["file"]
            path = path if path.exists() else folder / "files" / line["file"]
            models.append(Model(path, labels, line["family"], line.get("net", line["file"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(manifest, f"is no manifest of such a zoo ({error!r})", "see the docstring") from error
    return models


def embedded(models: Sequence[Model]) -> tuple[list[Model], list[Embedded]]:
    """Returns the networks that have a function vector, and what the encoder says of them."""
    found, reasons = [], Counter()
    rows = load_encoder().embed([model.path for model in models], progress=True)
    for model, row in zip(models, rows, strict=True):
        if isinstance(row, CheckpointError):
            reasons[row.reason] += 1
        elif row.function is None:
            reasons[row.no_function] += 1
        else:
            found.append((model, row))
    for reason, count in reasons.most_common():
        print(f"{count} without a function: {reason}")
    return [model for model, _ in found], [row for _, row in found]


def shape_similarity(shapes: Sequence[Counter]) -> Float[np.ndarray, "n n"]:
    """Tensors of equal shape that two networks share, axes sorted, over all that they have (Jaccard)."""
    return np.array([[(a & b).total() / max((a | b).total(), 1) for b in shapes] for a in shapes])


def similarities(rows: Sequence[Embedded]) -> dict[str, Float[np.ndarray, "n n"]]:
    """Similarity of all pairs of networks, by method."""
    tensors = [open_checkpoint(row.id).tensors for row in rows]
    shapes = [Counter(tuple(sorted(n for n in t.shape if n > 1)) for t in own.values()) for own in tensors]
    statistics = statistics_features(
        [{name: np.asarray(t) for name, t in own.items() if t.size} for own in tensors], np.arange(len(rows))
    )
    vectors = {
        "function": np.stack([row.function for row in rows if row.function is not None]),
        "weights vector": np.stack([row.weights for row in rows]),
        "statistics": statistics,
    }
    return {name: cosine_similarity(v, v) for name, v in vectors.items()} | {"shapes": shape_similarity(shapes)}


def score(
    similarity: Float[np.ndarray, "n n"], relevant: Bool[np.ndarray, "n n"], eligible: Bool[np.ndarray, "n n"]
) -> dict[str, float]:
    """Mean precision at 1 and mean average precision of the queries that have a relevant network."""
    found = ranking_metrics(rank_gallery(similarity), relevant, eligible)
    asked = (relevant & eligible).any(1)
    return {key: float(np.mean(found[name][asked])) for key, name in (("P@1", "precision_at_1"), ("mAP", "map"))}


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: see `read_zoo`; or no query has a relevant network.
    """
    models, rows = embedded(read_zoo(args.zoo))
    labels, families, nets = (np.array([getattr(m, key) for m in models]) for key in ("labels", "family", "net"))
    eligible = (families[:, None] != families) & (nets[:, None] != nets)
    relevant = labels[:, None] == labels
    asked = (relevant & eligible).any(1)
    if not asked.any():
        reason = f"none of {len(models)} networks with a function has its labels in another family"
        raise InputError(args.zoo, reason, "give a zoo that has such networks")
    chance = float(np.mean((relevant & eligible)[asked].sum(1) / eligible[asked].sum(1)))
    table: list[Row] = [
        {"method": name, **score(similarity, relevant, eligible)} for name, similarity in similarities(rows).items()
    ]
    table.append({"method": "chance", "P@1": chance, "mAP": chance})
    counts = {"models": len(models), "families": len(set(families)), "queries": int(asked.sum())}
    note = NOTE.format(**counts, labels=len(set(labels[asked])))
    write_table(args.workdir, NAME, TITLE, note, table, bar_figure(table, "method", ["P@1", "mAP"], "share"))
    print_table(table)
    print(note)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="folder with a manifest.jsonl")
    parser.add_argument("--workdir", type=Path, default=Path("runs/real"), help="folder that the table goes to")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())

"""What a variety of training data is worth: read-outs fitted to the networks of some of the data sets.

python -m experiments.tables.fewer_sets --workdir=runs/diverse

Beside each stands a read-out that is fitted to as many networks, drawn from all data sets. Scores are by embeddings
alone, of the validation tasks and of the unseen test tasks.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from experiments.job.records import validation_score
from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.cli.finish import finish
from wsrl.encoder.embed import Embedder
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.training.discriminant_analysis import fit_readout

NAME, TITLE = "fewer_sets", "Fewer data sets"
COUNTS = (5, 10, 20, 40)
DRAWS = 3
NOTE = (
    "Mean average precision, the mean of both galleries, of read-outs fitted to the networks of some data sets of the "
    "{sets} that are trained on, and to as many networks of all of them; means over {draws} draws. By embeddings alone."
)


def scores(run: FinishedRun, training: Int[np.ndarray, " m"]) -> tuple[float, float]:
    """mAP of validation tasks and of unseen test tasks by the run's first encoder, fitted to some networks."""
    (encoder, params), swept, settings = run.encoders[0], run.swept[0], run.config.encoder
    params = fit_readout(encoder, params, swept, run.examples, training, settings.shrinkage)
    vectors = Embedder(encoder).read(params, swept).embedding
    validation, unseen = (validation_score(run.records, places) for places in (run.split["validation"], run.unseen))
    return validation(vectors), unseen(vectors)


def table(run: FinishedRun) -> list[Row]:
    """A row for each number of data sets, the last for all."""
    training = run.split["train"]
    names = np.array([run.records[i].dataset for i in training])
    sets, rng = np.unique(names), np.random.default_rng(run.config.seed)
    rows: list[Row] = []
    for count in (*(count for count in COUNTS if count < len(sets)), len(sets)):
        found = []
        for _ in range(DRAWS if count < len(sets) else 1):
            some = training[np.isin(names, rng.permutation(sets)[:count])]
            found.append((len(some), *scores(run, some), *scores(run, rng.permutation(training)[: len(some)])))
        networks, *maps = np.mean(found, 0)
        labels = ("validation", "test", "validation, of all sets", "test, of all sets")
        own: Row = {"data sets": count, "networks": round(float(networks))}
        rows.append(own | {label: round(float(value), 3) for label, value in zip(labels, maps, strict=True)})
    return rows


def make_table(workdir: Path) -> None:
    """Writes and prints the table of a finished run."""
    run = load_run(workdir)
    rows = table(run)
    shown = [{**row, "data sets": str(row["data sets"])} for row in rows]
    figure = bar_figure(shown, label="data sets", values=["validation", "test"], axis="mAP")
    write_table(workdir, NAME, TITLE, NOTE.format(sets=rows[-1]["data sets"], draws=DRAWS), rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args.workdir))


if __name__ == "__main__":
    sys.exit(main())

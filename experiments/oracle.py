"""How much of a functional oracle's precision retrieval by weights keeps.

python -m experiments.oracle --workdir=runs/pretrain

The oracle has what no search by weights has: held-out images of the query's own task. It runs every model of the
gallery on them and compares what they answer with what the query answers, blind to the order of classes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.finished_run import FinishedRun, load_run
from wsrl.data import normalize
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import Swept
from wsrl.encoder.fit import init_params
from wsrl.encoder.readout import class_responses, second_order
from wsrl.encoder.swept_zoo import sweep_zoo
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import METRICS, cosine_similarity, rank_gallery, ranking_metrics
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.zoo.bank import image_bank
from wsrl.zoo.tasks import load_tasks

RESAMPLES = 1000  # of the bootstrap
NAME = "oracle"
NOTE = (
    "Unseen tasks, the same queries and galleries. The oracle compares predictions on {images} held-out images of the "
    "query's task, on which it runs every model; the encoder never sees an image of the task. Brackets: 95 % intervals."
)


def task_images(run: FinishedRun, count: int) -> tuple[list[str], np.ndarray]:
    """The unseen tasks, and `count` held-out images of each: [tasks, count, size, size, 1], normalised."""
    sets, tasks = load_tasks(run.config.zoo, run.config.seed)
    bank = image_bank(sets, tasks, run.config.zoo.test_images)
    names = sorted({run.records[i].task for i in run.unseen})
    rows = [np.resize(bank.test[name][0], count) for name in names]
    return names, normalize(bank.images[np.stack(rows)])[..., None]


def responses(run: FinishedRun, images: np.ndarray) -> Swept:
    """What every unseen network answers to all images."""
    encoder, _ = run.encoders[0]
    flat = images.reshape(-1, *images.shape[2:])
    runner = replace(encoder, probes=len(flat), template=0.0, parent=None, name=None)
    records = [run.records[i] for i in run.unseen]
    params = init_params(runner, flat, 0)
    directory = run.workdir / NAME / str(len(flat))
    found = sweep_zoo(Embedder(runner), [params], run.zoo, records, run.config.encoder, [directory])
    if len(found.records) != len(records):
        raise InputError(run.zoo, "its models changed since the run", "run experiments.main again")
    return found.swept[0]


def oracle_scores(run: FinishedRun, names: Sequence[str], swept: Swept, relevance: Relevance) -> dict:
    """Scores of the oracle, as `query_scores` gives them."""
    tasks = np.array([run.records[i].task for i in run.unseen])
    images = swept.logits.shape[2] // len(names)
    scores = {gallery: {name: np.full(len(tasks), np.nan) for name in METRICS} for gallery in ("same", "cross")}
    whole = jnp.asarray(swept.mask[:, :, None] * np.eye(swept.mask.shape[1], dtype=np.float32))
    answer = jax.jit(lambda logits: second_order(class_responses(logits, logits[..., :0], whole, 0.0, 0.0)))
    for place, name in enumerate(names):
        logits = swept.logits[:, :, place * images : (place + 1) * images]
        vectors = np.asarray(answer(logits))
        queries = np.flatnonzero(tasks == name)
        order = rank_gallery(cosine_similarity(vectors[queries], vectors))
        for gallery, eligible in relevance.eligible(queries).items():
            if gallery in scores:
                found = ranking_metrics(order, relevance.relevant(queries), eligible)
                for metric in METRICS:
                    scores[gallery][metric][queries] = found[metric]
    return scores


def table(run: FinishedRun, images: int) -> list[Row]:
    """Rows of the encoder, the oracle and their ratio."""
    names, drawn = task_images(run, images)
    swept = responses(run, drawn)
    relevance = Relevance.of([run.records[i] for i in run.unseen])
    methods = {"oracle": [oracle_scores(run, names, swept, relevance)], "wsrl": []}
    for (encoder, params), own in zip(run.encoders, run.swept, strict=True):
        vectors = Embedder(encoder).read(params, Swept(*(leaf[run.unseen] for leaf in own))).embedding
        methods["wsrl"].append(query_scores(vectors, relevance))
    rows: list[Row] = []
    for gallery in ("same", "cross"):
        values = {}
        for method, seeds in methods.items():
            answered = np.isfinite(methods["oracle"][0][gallery]["map"])
            stacked = {m: np.stack([s[gallery][m][answered] for s in seeds]) for m in ("precision_at_1", "map")}
            values[method] = cluster_bootstrap(stacked, relevance.lineage[answered], RESAMPLES)
            rows.append(
                {
                    "method": method,
                    "gallery": gallery,
                    "P@1": values[method]["precision_at_1"],
                    "mAP": values[method]["map"],
                }
            )
        ratio = {m: values["wsrl"][m]["value"] / values["oracle"][m]["value"] for m in ("precision_at_1", "map")}
        rows.append(
            {
                "method": "wsrl / oracle",
                "gallery": gallery,
                "P@1": round(ratio["precision_at_1"], 4),
                "mAP": round(ratio["map"], 4),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument("--images", metavar="N", type=int, default=64, help="held-out images a task (default 64)")
    args = parser.parse_args(argv)
    try:
        run = load_run(args.workdir)
        count = max(1, -(-args.images // run.config.encoder.chunk)) * run.config.encoder.chunk
        rows = table(run, count)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = [{**row, "method": f"{row['method']}, {row['gallery']}"} for row in rows if "/" not in str(row["method"])]
    figure = bar_figure(shown, label="method", values=["P@1", "mAP"], axis="unseen tasks")
    write_table(args.workdir, NAME, "Against a functional oracle", NOTE.format(images=count), rows, figure)
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much of a functional oracle's precision retrieval by weights keeps.

python -m experiments.tables.oracle --workdir=runs/pretrain

The oracle has what no search by weights has: held-out images of the query's own task. It runs every model of the
gallery on them and compares what they answer with what the query answers, blind to the order of classes.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.cli.finish import finish
from wsrl.data import normalize
from wsrl.encoder.embed import Embedder
from wsrl.encoder.readout import class_responses, second_order
from wsrl.encoder.swept import Swept
from wsrl.errors import InputError
from wsrl.evaluation.around import neighborhood_blocks
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import METRICS, cosine_similarity, rank_gallery, ranking_metrics
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.query_expansion import NEIGHBORS
from wsrl.training.fit import init_params
from wsrl.training.response_cache import sweep_zoo
from wsrl.zoo.bank import image_bank
from wsrl.zoo.tasks import load_tasks

RESAMPLES = 1000  # of the bootstrap
NAME = "oracle"
SHOWN = {"P@1": "precision_at_1", "mAP": "map"}
SEARCHES = {"": 0, ", neighborhoods": NEIGHBORS}  # by cosines and by neighborhoods
NOTE = (
    "Unseen tasks, the same queries and galleries. The oracle compares predictions on {images} held-out images of the "
    "query's task, on which it runs every model; the encoder never sees an image of the task. Brackets: 95 % intervals."
)


def task_images(run: FinishedRun, count: int) -> tuple[list[str], np.ndarray]:
    """The unseen tasks, and `count` held-out images of each: [tasks, count, size, size, 1], normalized."""
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


def oracle_scores(
    run: FinishedRun, names: Sequence[str], swept: Swept, relevance: Relevance, neighbors: int = 0
) -> dict:
    """Scores of the oracle, as `query_scores` gives them."""
    tasks = np.array([run.records[i].task for i in run.unseen])
    images = swept.logits.shape[2] // len(names)
    scores = {gallery: {name: np.full(len(tasks), np.nan) for name in METRICS} for gallery in ("same", "cross")}
    whole = jnp.asarray(swept.mask[:, :, None] * np.eye(swept.mask.shape[1], dtype=np.float32))
    smoothing = run.encoders[0][0].smoothing

    @jax.jit
    def answer(logits: jax.Array) -> jax.Array:
        return second_order(class_responses(logits, logits[..., :0], whole, 0.0, 0.0), smoothing)

    for place, name in enumerate(names):
        logits = swept.logits[:, :, place * images : (place + 1) * images]
        vectors = np.asarray(answer(logits))
        queries = np.flatnonzero(tasks == name)
        blocks: Iterable[tuple[np.ndarray, np.ndarray]]
        if neighbors:
            blocks = neighborhood_blocks(vectors, relevance, neighbors=neighbors, queries=queries)
        else:
            blocks = [(queries, rank_gallery(cosine_similarity(vectors[queries], vectors)))]
        for asked, order in blocks:
            for gallery, eligible in relevance.eligible(asked).items():
                if gallery in scores:
                    found = ranking_metrics(order, relevance.relevant(asked), eligible)
                    for metric in METRICS:
                        scores[gallery][metric][asked] = found[metric]
    return scores


def table(run: FinishedRun, images: int) -> list[Row]:
    """Rows of the encoder, the oracle and their ratios, searched by cosines and by neighborhoods."""
    names, drawn = task_images(run, images)
    swept = responses(run, drawn)
    relevance = Relevance.of([run.records[i] for i in run.unseen])
    unseen = [own.at(run.unseen) for own in run.swept]
    vectors = [
        Embedder(encoder).read(params, own).embedding
        for (encoder, params), own in zip(run.encoders, unseen, strict=True)
    ]
    scores: dict[str, list[dict]] = {}
    for how, neighbors in SEARCHES.items():
        scores[f"oracle{how}"] = [oracle_scores(run, names, swept, relevance, neighbors)]
        scores[f"wsrl{how}"] = [query_scores(own, relevance, neighbors=neighbors) for own in vectors]
    rows: list[Row] = []
    for gallery in ("same", "cross"):
        answered = np.isfinite(scores["oracle"][0][gallery]["map"])
        values = {}
        for method, seeds in scores.items():
            stacked = {m: np.stack([s[gallery][m][answered] for s in seeds]) for m in SHOWN.values()}
            values[method] = cluster_bootstrap(stacked, relevance.lineage[answered], RESAMPLES)
            told = {name: values[method][metric] for name, metric in SHOWN.items()}
            rows.append({"method": method, "gallery": gallery, **told})
        for how in SEARCHES:
            own, best = values[f"wsrl{how}"], values["oracle"]
            ratio = {name: round(own[m].value / best[m].value, 4) for name, m in SHOWN.items()}
            rows.append({"method": f"wsrl{how} / oracle", "gallery": gallery, **ratio})
    return rows


def make_table(workdir: Path, images: int) -> None:
    """Writes and prints the table of a finished run; `images` a task are rounded up to whole chunks of the encoder."""
    run = load_run(workdir)
    count = max(1, -(-images // run.config.encoder.chunk)) * run.config.encoder.chunk
    rows = table(run, count)
    shown = [{**row, "method": f"{row['method']}, {row['gallery']}"} for row in rows if "/" not in str(row["method"])]
    figure = bar_figure(shown, label="method", values=["P@1", "mAP"], axis="unseen tasks")
    write_table(workdir, NAME, "Against a functional oracle", NOTE.format(images=count), rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument("--images", metavar="N", type=int, default=64, help="held-out images a task (default 64)")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args.workdir, args.images))


if __name__ == "__main__":
    sys.exit(main())

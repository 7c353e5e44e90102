"""How fast models fine-tune on unseen tasks, by where they start from.

    python -m experiments.tables.finetuning --workdir=runs/zoo [--examples=N] [--encoder=pretrained] [--models=600]

Every unseen task of a run of the main job that has enough held-out images to tell models apart picks models from a
gallery of its zoo, none of them trained on the task, and fine-tunes them. Writes `tables/finetuning.csv` and `.svg`
into the folder; what a task measured is kept in `finetuning/`, so that an interrupted run goes on. With `--examples`
a task has so many labeled images to choose, to train and to validate by; `--encoder` names one to use in place of the
run's. Files are named after both. With `--split=validation` validation tasks pick, none of the test models among them:
by these, choices are made. Starts:

    retrieved            nearest to the task's training part, by the data-set encoder
    retrieved by probes  nearest to probe models trained on it, by the encoder
    retrieved, LogME     of the 20 nearest by the data-set encoder, the highest LogME
    predicted            the highest start score, which is told from the weights and the data-set encoder's vector
    predicted, LogME     of the 20 highest start scores, the highest LogME
    scratch              the architecture of the predicted model, initialized as usual
    scratch, ridge head  the same, its head fitted as the heads of pretrained models are
    random pick          any model
    largest              the most parameters
    metadata pick        the highest accuracy told, among models of the same data set where there are any
    LogME                the highest LogME on the training part, of all models
    best in hindsight    the highest validation accuracy when all models are fine-tuned; by their test accuracy, of
                         hundreds of models on a few hundred images the luckiest would be taken
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments.job.workdir import encoder_directories, read_config
from experiments.tables.encoded_gallery import ask_by_examples, ask_by_probes
from experiments.tables.starting_points import (
    Models,
    Pick,
    at_random,
    by_start_score,
    first,
    first_by_evidence,
    largest,
    measure_evidence,
    most_accurate,
    open_models,
    task_examples,
)
from wsrl.annotations import Config
from wsrl.cli.finish import finish
from wsrl.encoder.files import encoder_directory
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.files import write_atomically
from wsrl.report.table_figures import line_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.zoo.bank import image_bank
from wsrl.zoo.finetuning import BATCH, HEAD_IMAGES, SCHEDULE, Curves, FineTuner, TaskData, split_task
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import initialize
from wsrl.zoo.tasks import Task, load_tasks

RECORDED = (0, 5, 10, 20, 35, 50, 75, 100, 150, 200, SCHEDULE)  # steps
EARLY = (0, 10, 50)  # steps whose mean validation accuracy chooses a learning rate, and the best in hindsight
SHOWN = (0, 10, 50, 100)
FEWEST_EXAMPLES = 25  # of a task, a fifth of them for validation
RATES = (1.25e-4, 5e-4, 2e-3, 8e-3)  # highest learning rates to choose from; the least keep what a model knows
HINDSIGHT_RATE = RATES[0]
SHARES = (0.9, 0.95)  # of the accuracy at which scratch ends
NAME = "finetuning"
TITLE = "Fine-tuning on unseen tasks, by where it starts"
NOTE = (
    "{tasks} unseen tasks, of {held_out} held-out images or more, pick from {models} models of other tasks, by "
    "{known}. Pretrained models get the batch statistics of at most {head} training images and a head fitted to them "
    "by ridge regression; then all weights are trained by Adam on the same batches of {batch} images, the highest "
    "learning rate, of {rates}, chosen on validation images (runs of {early} steps, whose cost is a column). "
    "Accuracies are of held-out images. Steps, examples and seconds to a share of the accuracy at which scratch ends,"
    " after {steps} steps, are interpolated between recorded steps; where it is not reached they count as {steps} "
    "steps. Seconds are those of the search, the head and the steps on {cores} cores, models stacked, after "
    "compilation; embedding the gallery took {embedding:.0f} s once an encoder. Regret is after {early} steps, to the"
    " best in hindsight: of all models, fine-tuned with {hindsight_rate:g}, the best on validation images. Gain is "
    "over random weights of the predicted architecture under a fitted head, after as many steps: what training is "
    "worth. In brackets 95 % bootstrap intervals over tasks and encoders ({encoders})."
)


def measure(
    models: Models, tuner: FineTuner, task: Task, data: TaskData, picks: dict[str, Pick], seed: int
) -> dict[str, list[dict]]:
    """What each start gave: for each encoder its accuracies at `RECORDED` steps and its seconds."""
    candidates = models.candidates(task.id).tolist()
    early = fine_tune_gallery(models, tuner, candidates, data, (HINDSIGHT_RATE,), EARLY, seed)
    hindsight = max(early, key=lambda place: early[place]["validation"])
    picks = picks | {"best in hindsight": Pick([hindsight] * len(models.encoded))}
    chosen = sorted({place for pick in picks.values() for place in pick.places})
    tuned = fine_tune_gallery(models, tuner, chosen, data, RATES, RECORDED, seed)
    found: dict[str, list[dict]] = {}
    for name, pick in picks.items():
        found[name] = [
            {**tuned[place], "search_seconds": pick.seconds, "model": models.records[place].id} for place in pick.places
        ]
    architectures = [models.architectures[place] for place in picks["predicted"].places]
    found |= fine_tune_scratch(architectures, tuner, data, seed)
    return {
        name: [{**one, "accuracy": list(map(float, one["accuracy"]))} for one in each] for name, each in found.items()
    }


def fine_tune_gallery(
    models: Models,
    tuner: FineTuner,
    places: Sequence[int],
    data: TaskData,
    rates: Sequence[float],
    recorded: Sequence[int],
    seed: int,
) -> dict[int, dict[str, Any]]:
    """Fine-tunes models of the gallery, those of an architecture together; results by place."""
    found = {}
    for model, own in models.by_architecture(places).items():
        curves = tuner.fine_tune(model, [models.variables[i] for i in own], data, rates, recorded, seed)
        found |= zip(own, best_rates(curves, rates, recorded), strict=True)
    return found


def fine_tune_scratch(
    architectures: Sequence[Classifier], tuner: FineTuner, data: TaskData, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Trains a fresh model of each architecture, with its own head and with a head fitted by ridge regression."""
    size = tuner.images.shape[1]
    found: dict[str, list[dict[str, Any]]] = {}
    for name, ridge_head in (("scratch", False), ("scratch, ridge head", True)):
        trained = {}
        for model in set(architectures):
            fresh = [initialize(model, size, seed, init_scale=1.0)]
            curves = tuner.fine_tune(model, fresh, data, RATES, RECORDED, seed, ridge_head)
            trained[model] = {**best_rates(curves, RATES, RECORDED)[0], "search_seconds": 0.0, "model": ""}
        found[name] = [trained[model] for model in architectures]
    return found


def best_rates(curves: Curves, rates: Sequence[float], recorded: Sequence[int]) -> list[dict[str, Any]]:
    """Of each start what it gave and cost at the learning rate of the best early validation accuracy."""
    validation = curves.validation[:, :, np.isin(recorded, EARLY)].mean(2)
    return [
        {
            "accuracy": curves.test[i, rate],
            "validation": float(validation[i, rate]),
            "rate": rates[rate],
            "head_seconds": curves.head_seconds,
            "step_seconds": curves.step_seconds,
        }
        for i, rate in enumerate(validation.argmax(1))
    ]


def steps_to(accuracy: Float[np.ndarray, " recorded"], target: float) -> float:
    """Steps to an accuracy, interpolated between recorded steps; `SCHEDULE` where it is never reached."""
    reached = np.flatnonzero(accuracy >= target)
    if not len(reached):
        return float(SCHEDULE)
    i = reached[0]
    if i == 0:
        return 0.0
    share = (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    return float(RECORDED[i - 1] + share * (RECORDED[i] - RECORDED[i - 1]))


def summarize(measured: Sequence[dict[str, list[dict]]], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows of the table, one a start, and rows of the plot, one a start and number of steps."""
    tasks = np.arange(len(measured))
    accuracy = {name: np.array([[o["accuracy"] for o in t[name]] for t in measured]) for name in measured[0]}
    ends = accuracy["scratch"][:, :, -1]
    rows: list[Row] = []
    plot: list[Row] = []
    logme = np.array([[o["search_seconds"] for o in t["LogME"]] for t in measured])
    for name, curves in accuracy.items():
        cost = {
            key: np.array([[one[f"{key}_seconds"] for one in task[name]] for task in measured])
            for key in ("search", "head", "step")
        }
        scores = {f"accuracy after {step}": curves[:, :, RECORDED.index(step)] for step in SHOWN}
        for share in SHARES:
            percent = f"{share:.0%}".replace("%", " %")
            steps = np.array([list(map(steps_to, *pair)) for pair in zip(curves, share * ends, strict=True)])
            scores[f"steps to {percent}"] = steps
            scores[f"examples to {percent}"] = steps * BATCH
            scores[f"seconds to {percent}"] = cost["search"] + cost["head"] + steps * cost["step"]
        at = RECORDED.index(EARLY[-1])
        scores["regret"] = accuracy["best in hindsight"][:, :, at] - curves[:, :, at]
        scores["gain"] = curves[:, :, at] - accuracy["scratch, ridge head"][:, :, at]
        row: dict[str, Any] = {"start": name}
        row |= cluster_bootstrap({key: values.T for key, values in scores.items()}, tasks, seed=seed)
        if name == "best in hindsight":
            row |= {key: None for key in row if key.startswith("seconds")}  # its search is all the fine-tuning
        row["seconds to choose the rate"] = float(cost["step"].mean() * (len(RATES) - 1) * EARLY[-1])
        if cost["search"].any():
            row["search seconds"] = float(cost["search"].mean())
            row["search, of LogME's"] = float(cost["search"].mean() / logme.mean())
        row["median steps to 90 %"] = float(np.median(scores["steps to 90 %"]))
        rows.append(row)
        recorded = {str(step): curves[:, :, i].T for i, step in enumerate(RECORDED)}
        found = cluster_bootstrap(recorded, tasks, seed=seed)
        plot += [{"start": name, "steps": int(step), "accuracy": interval} for step, interval in found.items()]
    return rows, plot


def measured_tasks(workdir: Path, config: Config, args: argparse.Namespace) -> tuple[list[dict], Models]:
    """What each unseen task gave; what the folder holds of the same settings is not measured again."""
    sets, tasks = load_tasks(config.zoo, config.seed)
    unseen = [task for task in tasks if task.split == args.split]
    bank = image_bank(sets, unseen, config.zoo.test_images)
    unseen = [task for task in unseen if len(bank.test[task.id][0]) >= args.held_out]
    if not unseen:
        raise InputError("--held-out", f"no unseen task has {args.held_out} held-out images", "lower it")
    order = np.random.default_rng([args.seed, 8]).permutation(len(unseen))
    unseen = [unseen[i] for i in order[: args.tasks]]
    of_run = encoder_directories(workdir, min(args.seeds, config.encoder.seeds))
    encoders = [encoder_directory(args.encoder)] if args.encoder else of_run
    leave_out = ("test",) if args.split == "validation" else ()
    models = open_models(workdir, config, args.models, encoders, args.seed, leave_out)
    tuner = FineTuner(bank, stack=4)  # few of one architecture are trained at a time
    settings = [args.seed, args.examples, RATES, RECORDED, [r.id for r in models.records]]
    settings.append([own.hash for own in models.encoded])
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    found = []
    for number, task in enumerate(tqdm(unseen, desc="tasks", unit="task")):
        path = workdir / NAME / digest / f"{hashlib.sha256(task.id.encode()).hexdigest()[:16]}.json"
        try:
            found.append(json.loads(path.read_bytes()))
            continue
        except (OSError, ValueError):
            pass
        data = split_task(bank, task.id, args.seed, args.examples)
        candidates = models.candidates(task.id)
        if not len(candidates):
            raise InputError("--models", f"all of the {len(models.records)} know {task.id}", "raise it")
        examples = task_examples(bank, task, data, config.zoo.num_classes)
        asked = ask_by_examples(models.encoded, candidates, examples)
        ask_by_probes(models.encoded, candidates, examples, args.seed)  # compiles what is timed next
        predicted = by_start_score(models, candidates, asked)
        evidence, seconds = measure_evidence(models, candidates, tuner, data)
        picks = {
            "retrieved": first(asked),
            "retrieved by probes": first(ask_by_probes(models.encoded, candidates, examples, args.seed)),
            "retrieved, LogME": first_by_evidence(asked, evidence, seconds),
            "predicted": first(predicted),
            "predicted, LogME": first_by_evidence(predicted, evidence, seconds),
            "random pick": at_random(models, candidates, np.random.default_rng([args.seed, 9, number])),
            "largest": largest(models, candidates),
            "metadata pick": most_accurate(models, candidates, task),
            "LogME": Pick([int(evidence.argmax())] * len(models.encoded), float(seconds.sum())),
        }
        found.append(measure(models, tuner, task, data, picks, args.seed))
        write_atomically(path, json.dumps(found[-1]).encode())
    return found, models


def make_table(args: argparse.Namespace) -> None:
    """Measures, writes and prints the table."""
    for name in ("tasks", "held_out", "models", "seeds"):
        if getattr(args, name) < 1:
            raise InputError(
                f"--{name.replace('_', '-')}", f"{getattr(args, name)} is too small", "set it to 1 or more"
            )
    if args.examples is not None and args.examples < FEWEST_EXAMPLES:
        raise InputError("--examples", f"{args.examples} is too small", f"set it to {FEWEST_EXAMPLES} or more")
    config = read_config(args.workdir)
    if config.zoo.dir:
        raise InputError(args.workdir, "its zoo was made elsewhere", "name a run that trained its zoo")
    measured, models = measured_tasks(args.workdir, config, args)
    rows, plot = summarize(measured, args.seed)
    note = NOTE.format(
        tasks=len(measured),
        models=len(models.records),
        known=f"{args.examples} labeled images" if args.examples else "all their training images",
        head=HEAD_IMAGES,
        batch=BATCH,
        rates=", ".join(f"{rate:g}" for rate in RATES),
        hindsight_rate=HINDSIGHT_RATE,
        held_out=args.held_out,
        early=EARLY[-1],
        steps=SCHEDULE,
        cores=os.cpu_count(),
        embedding=np.mean([own.seconds for own in models.encoded]),
        encoders=len(models.encoded),
    )
    name, title = NAME, TITLE
    if args.examples:
        name, title = f"{NAME}-{args.examples}", f"{TITLE}; {args.examples} labeled images a task"
    if args.encoder:
        name, title = f"{name}-{Path(args.encoder).name}", f"{title}; the encoder {args.encoder}"
    if args.split != "test":
        name, title = f"{name}-{args.split}", f"{title}; {args.split} tasks"
    write_table(args.workdir, name, title, note, rows, line_figure(plot, "steps", "accuracy", "start"))
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the table and returns the exit status: 1 if the input is bad."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables.finetuning", description=TITLE)
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="of a run of experiments.main")
    parser.add_argument("--examples", metavar="N", type=int, help="labeled images of a task (default all)")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="whose tasks pick")
    parser.add_argument("--tasks", metavar="N", type=int, default=16, help="unseen tasks at most")
    parser.add_argument("--held-out", metavar="N", type=int, default=100, help="images of an unseen task, at least")
    parser.add_argument("--models", metavar="N", type=int, default=600, help="of the gallery, drawn from the zoo")
    parser.add_argument("--encoder", metavar="DIR", help="in place of the run's: a folder, or `pretrained`")
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="encoders at most")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of all draws and of the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # before JAX looks for its devices
    sys.exit(main())

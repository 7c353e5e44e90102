"""Where fine-tuning on an unseen task may start: the models of a gallery, and ways to pick one of them.

The gallery is a sample of the final checkpoints of the main job's zoo. None that was trained on the very task, or
shares a lineage with one that was, may be picked.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from experiments.job.trainable import Trainable, final_checkpoints, load_trainable, tasks_of_lineages
from experiments.tables.encoded_gallery import Asked, Encoded, encode_gallery
from wsrl.annotations import Config
from wsrl.data import ImageSet
from wsrl.recommendation.answer import NEAR
from wsrl.recommendation.logme import log_maximum_evidence
from wsrl.recommendation.start_score import StartScore, load_start_score, predict_start
from wsrl.zoo.bank import ImageBank
from wsrl.zoo.finetuning import HEAD_IMAGES, FineTuner, TaskData
from wsrl.zoo.manifest import read_manifest
from wsrl.zoo.tasks import Task


@dataclass(frozen=True)
class Models(Trainable):
    """A gallery.

    Attributes:
      tasks_of: tasks that any model of a lineage was trained on, for all lineages of the zoo.
      encoded: one an encoder.
      start_scores: one an encoder.
    """

    tasks_of: dict[str, set[str]]
    encoded: list[Encoded]
    start_scores: list[StartScore]

    def candidates(self, task: str) -> Int[np.ndarray, "candidates"]:
        """Places of the models that an unseen task may pick."""
        allowed = [task not in self.tasks_of[record.get("lineage")] for record in self.records]
        return np.flatnonzero(allowed)


@dataclass(frozen=True)
class Pick:
    """What a search found.

    Attributes:
      places: of the models, one an encoder.
      seconds: of the search.
    """

    places: list[int]
    seconds: float = 0.0


def open_models(
    workdir: Path, config: Config, count: int, encoders: Sequence[Path], seed: int, leave_out: Collection[str] = ()
) -> Models:
    """Draws the gallery of at most `count` models from the zoo of a run and embeds it.

    Args:
      workdir, config: of the run.
      count: models at most.
      encoders: their folders.
      seed: of the draw.
      leave_out: splits whose models are not drawn.

    Raises:
      InputError: the zoo or an encoder cannot be read, or the zoo's architectures are not those of the configuration.
    """
    records, _ = read_manifest(workdir / "zoo")
    pool = [record for record in final_checkpoints(records) if record.split not in leave_out]
    drawn = np.sort(np.random.default_rng([seed, 7]).permutation(len(pool))[:count])
    models = load_trainable(workdir / "zoo", [pool[i] for i in drawn], config.zoo)
    encoded = encode_gallery(encoders, models.graphs)
    scores = [load_start_score(own.directory, own.hash) for own in encoded]
    return Models(**vars(models), tasks_of=tasks_of_lineages(records), encoded=encoded, start_scores=scores)


def measure_evidence(
    models: Models, candidates: np.ndarray, tuner: FineTuner, data: TaskData
) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, " models"]]:
    """LogME of the candidates on the images that heads are fitted to, and the seconds that each takes; others have
    minus infinity.
    """
    evidence, seconds = np.full(len(models.records), -np.inf), np.zeros(len(models.records))
    rows, labels = (values[:HEAD_IMAGES] for values in data.train)
    for model, places in models.by_architecture(candidates.tolist()).items():
        features, spent = tuner.features(model, [models.variables[i] for i in places], rows)
        started = time.perf_counter()
        evidence[places] = [log_maximum_evidence(own, labels) for own in features]
        seconds[places] = (spent + time.perf_counter() - started) / len(places)
    return evidence, seconds


def by_start_score(models: Models, candidates: np.ndarray, asked: Asked) -> Asked:
    """The answers with the candidates in another order: how good a start the weights tell that each is."""
    started = time.perf_counter()
    sizes, scores = models.sizes[candidates], []
    for own, query, score in zip(models.encoded, asked.queries, models.start_scores, strict=True):
        scores.append(predict_start(score, own.vectors[candidates], sizes, query))
    orders = [candidates[np.argsort(-own, kind="stable")] for own in scores]
    return asked._replace(orders=orders, seconds=asked.seconds + (time.perf_counter() - started) / len(orders))


def first(asked: Asked) -> Pick:
    """The first model, for each encoder."""
    return Pick([int(order[0]) for order in asked.orders], asked.seconds)


def first_by_evidence(
    asked: Asked, evidence: Float[np.ndarray, " models"], seconds: Float[np.ndarray, " models"]
) -> Pick:
    """Of the first `NEAR` models the one of the highest LogME, which takes the seconds of these models."""
    tried = [order[:NEAR] for order in asked.orders]
    places = [int(own[evidence[own].argmax()]) for own in tried]
    return Pick(places, asked.seconds + float(np.mean([seconds[own].sum() for own in tried])))


def largest(models: Models, candidates: np.ndarray) -> Pick:
    """The model of the most parameters."""
    best = candidates[models.sizes[candidates, 0].argmax()]
    return Pick([int(best)] * len(models.encoded))


def most_accurate(models: Models, candidates: np.ndarray, task: Task) -> Pick:
    """What metadata offer: the highest accuracy told, among models of the task's data set where there are any."""
    told = np.array([models.records[i].accuracy for i in candidates])
    same = np.array([models.records[i].dataset == task.dataset for i in candidates])
    best = candidates[np.where(same, told + same.any(), told).argmax()]
    return Pick([int(best)] * len(models.encoded))


def at_random(models: Models, candidates: np.ndarray, rng: np.random.Generator) -> Pick:
    """Any model; another one for each encoder, so that intervals tell the luck of the draw."""
    return Pick([int(i) for i in rng.choice(candidates, len(models.encoded))])


def task_examples(bank: ImageBank, task: Task, data: TaskData, classes: int) -> ImageSet:
    """The training and validation parts as labeled examples, the validation part held out from probes."""
    rows = np.concatenate([data.train.rows, data.validation.rows])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    return ImageSet(task.id, bank.images[rows], labels, classes, np.arange(len(rows)) >= len(data.train.rows))

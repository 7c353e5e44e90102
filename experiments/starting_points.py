"""Where fine-tuning on an unseen task may start: the models of a gallery, and ways to pick one of them.

The gallery is a sample of the final checkpoints of the main job's zoo. None that was trained on the very task, or
shares a lineage with one that was, may be picked.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.encoded_gallery import Asked, Encoded, encode_gallery
from wsrl.annotations import Config
from wsrl.data import ImageSet
from wsrl.errors import InputError
from wsrl.recommend.answer import NEAR
from wsrl.recommend.gallery import TILE
from wsrl.recommend.logme import log_maximum_evidence
from wsrl.zoo.bank import ImageBank
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.finetuning import FineTuner, TaskData
from wsrl.zoo.load import load_networks
from wsrl.zoo.manifest import Record, read_manifest
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import Tree, initialise
from wsrl.zoo.tasks import Task


@dataclass(frozen=True)
class Models:
    """Models of one gallery, by place.

    Attributes:
      records, architectures, variables: of equal length.
      tasks_of: tasks that any model of a lineage was trained on, for all lineages of the zoo.
      encoded: one an encoder.
    """

    records: list[Record]
    architectures: list[Classifier]
    variables: list[Tree]
    tasks_of: dict[str, set[str]]
    encoded: list[Encoded]

    def candidates(self, task: str) -> Int[np.ndarray, "candidates"]:
        """Places of the models that an unseen task may pick."""
        allowed = [task not in self.tasks_of[record.get("lineage")] for record in self.records]
        return np.flatnonzero(allowed)

    def by_architecture(self, places: Sequence[int]) -> dict[Classifier, list[int]]:
        """The places, grouped."""
        groups: dict[Classifier, list[int]] = {}
        for place in places:
            groups.setdefault(self.architectures[place], []).append(place)
        return groups


@dataclass(frozen=True)
class Pick:
    """What a search found.

    Attributes:
      places: of the models, one an encoder.
      seconds: of the search.
    """

    places: list[int]
    seconds: float = 0.0


def open_models(workdir: Path, config: Config, count: int, encoders: int, seed: int) -> Models:
    """Draws the gallery of at most `count` models from the zoo of a run and embeds it.

    Raises:
      InputError: the zoo or an encoder cannot be read, or the zoo's architectures are not those of the configuration.
    """
    records, _ = read_manifest(workdir / "zoo")
    tasks_of: dict[str, set[str]] = {}
    for record in records:
        tasks_of.setdefault(record.get("lineage"), set()).add(record.task)
    final: dict[str, Record] = {}
    for record in records:
        latest = final.get(record.get("run"))
        if record.get("copy") is None and (latest is None or record.step > latest.step):
            final[record.get("run")] = record
    pool = list(final.values())
    drawn = np.sort(np.random.default_rng([seed, 7]).permutation(len(pool))[:count])
    networks = load_networks(workdir / "zoo", [pool[i] for i in drawn], TILE)
    if not networks.records:
        raise InputError(workdir / "zoo", "no usable final checkpoint", "train the zoo again")
    trees = [flax.traverse_util.unflatten_dict(dict(c.tensors), sep="/") for c in networks.checkpoints]
    variables = [{"batch_stats": {}} | jax.tree.map(np.asarray, tree) for tree in trees]
    architectures = [
        find_architecture(record, own, config.zoo) for record, own in zip(networks.records, variables, strict=True)
    ]
    encoded = encode_gallery(workdir, encoders, networks.graphs)
    return Models(networks.records, architectures, variables, tasks_of, encoded)


def find_architecture(record: Record, variables: Tree, zoo: Config) -> Classifier:
    """The variant of the record's family whose settings and shapes of parameters are those of a checkpoint.

    Raises:
      InputError: the catalogue has none.
    """
    family = CATALOGUES[zoo.catalogue].get(record.architecture)
    shapes = jax.tree.map(np.shape, variables["params"])
    for model in family.variants if family else ():
        told = model.activation, list(model.conv_strides), model.heads
        if told != (record.activation, list(record.get("strides")), record.get("heads")):
            continue
        if jax.tree.map(np.shape, initialise(model, zoo.image_size, 0, 1.0)["params"]) == shapes:
            return model
    reason = f"the catalogue {zoo.catalogue!r} has no architecture of these shapes"
    raise InputError(record.path, reason, "train the zoo again")


def measure_evidence(
    models: Models, candidates: np.ndarray, tuner: FineTuner, data: TaskData
) -> tuple[Float[np.ndarray, " models"], float]:
    """LogME of the candidates on the training part, minus infinity for the others; and the seconds that it took."""
    evidence, seconds = np.full(len(models.records), -np.inf), 0.0
    for model, places in models.by_architecture(candidates.tolist()).items():
        features, spent = tuner.features(model, [models.variables[i] for i in places], data.train.rows)
        started = time.perf_counter()
        evidence[places] = [log_maximum_evidence(own, data.train.labels) for own in features]
        seconds += spent + time.perf_counter() - started
    return evidence, seconds


def nearest(asked: Asked) -> Pick:
    """The nearest model, for each encoder."""
    return Pick([int(order[0]) for order in asked.orders], asked.seconds)


def nearest_by_evidence(asked: Asked, evidence: Float[np.ndarray, " models"], seconds: float) -> Pick:
    """Of the `NEAR` nearest models the one of the highest LogME; of all models LogME took `seconds`."""
    places = [int(order[:NEAR][evidence[order[:NEAR]].argmax()]) for order in asked.orders]
    return Pick(places, asked.seconds + seconds * min(1.0, NEAR / np.isfinite(evidence).sum()))


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
    """The training and validation parts as labelled examples, the validation part held out from probes."""
    rows = np.concatenate([data.train.rows, data.validation.rows])
    labels = np.concatenate([data.train.labels, data.validation.labels])
    return ImageSet(task.id, bank.images[rows], labels, classes, np.arange(len(rows)) >= len(data.train.rows))

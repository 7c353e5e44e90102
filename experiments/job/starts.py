"""The stage of the main job that learns which models are good starts for fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from experiments.job.trainable import Trainable, final_checkpoints, load_trainable, tasks_of_lineages
from wsrl.annotations import Config
from wsrl.encoder.dataset_encoder import embed_dataset, load_dataset_encoder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import encoder_hash
from wsrl.recommendation.start_score import fit_start_score, save_start_score
from wsrl.training.fit_dataset import Data
from wsrl.zoo.bank import ZooImages, image_bank
from wsrl.zoo.finetuning import FineTuner, Part
from wsrl.zoo.manifest import Record

IMAGES = 256  # that a linear probe is fitted to, at most, and as many that it is tested on


class Probed(NamedTuple):
    """Linear probes of training models on training tasks.

    Attributes:
      models: what was probed.
      tasks: numbers of the tasks, as in `Examples.task`.
      accuracy: on held-out images, 0 to 1; NaN for models of a lineage that was trained on the task.
    """

    models: Trainable
    tasks: list[int]
    accuracy: Float[np.ndarray, "tasks models"]


def probe_models(
    config: Config,
    zoo: Path,
    images: ZooImages,
    records: Sequence[Record],
    task_numbers: Int[np.ndarray, "n"],
    training: np.ndarray,
) -> Probed:
    """Draws training models and training tasks, and fits a linear head for each pair.

    Args:
      config: of the run; `starts.models` and `starts.tasks` tell how many are drawn at most.
      zoo: directory of the zoo, which the run has trained.
      images: that it was trained on.
      records, task_numbers: of its usable networks.
      training: places of the training networks.
    """
    rng = np.random.default_rng([config.seed, 10])
    pool = final_checkpoints([records[i] for i in training])
    drawn = np.sort(rng.permutation(len(pool))[: config.starts.models])
    models = load_trainable(zoo, [pool[i] for i in drawn], config.zoo)
    numbers = {records[i].task: int(task_numbers[i]) for i in training}
    known = [task for task in images.tasks if task.id in numbers]
    chosen = [known[i] for i in rng.permutation(len(known))[: config.starts.tasks]]
    bank = image_bank(images.sets, chosen, IMAGES)
    tuner, accuracy = FineTuner(bank), np.full((len(chosen), len(models.records)), np.nan)
    trained_on = tasks_of_lineages(records)
    for own, task in zip(accuracy, tqdm(chosen, desc="linear probes", unit="task"), strict=True):
        rows, labels = bank.train[task.id]
        order = rng.permutation(len(rows))[:IMAGES]
        allowed = [i for i, r in enumerate(models.records) if task.id not in trained_on[r.get("lineage")]]
        for model, places in models.by_architecture(allowed).items():
            variables = [models.variables[i] for i in places]
            train, held_out = Part(rows[order], labels[order]), Part(*bank.test[task.id])
            own[places] = tuner.linear_probe(model, variables, train, held_out)
    return Probed(models, [numbers[task.id] for task in chosen], accuracy)


def fit_starts(
    probed: Probed,
    encoder: ResponseEncoder,
    params: Any,
    embedding: Float[np.ndarray, "models dim"],
    data: Data,
    directory: Path,
    seed: int,
) -> None:
    """Fits the start score of an encoder and writes it into its directory.

    Args:
      probed: from `probe_models`.
      encoder, params: trained.
      embedding: of the probed models.
      data: images and classes of each task.
      directory: of the encoder and its data-set encoder.
      seed: of the examples that stand for a task.
    """
    module, dataset_params = load_dataset_encoder(directory, encoder, params)
    vectors = []
    for number in probed.tasks:
        x, y = data[number]
        some = np.random.default_rng([seed, number]).permutation(len(y))[:IMAGES]
        vectors.append(embed_dataset(module, dataset_params, encoder, params, x[some], y[some]))
    similarity = np.stack(vectors) @ embedding.T
    score = fit_start_score(embedding, probed.models.sizes, similarity, probed.accuracy)
    save_start_score(directory, score, encoder_hash(encoder, params))

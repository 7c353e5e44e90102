"""Fits a data-set encoder to a trained encoder, which stays as it is, by contrasting data sets with networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Float, Int

from wsrl.annotations import Config
from wsrl.encoder.dataset_encoder import DatasetEncoder, Labeled, embed_dataset, init_dataset_params, pad_examples
from wsrl.encoder.embed import SweptNetworks
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Swept
from wsrl.evaluation.ranking import cosine_similarity, rank_gallery, ranking_metrics
from wsrl.training.loop import init_state, make_optimizer, make_train_step, train
from wsrl.training.sampling import Examples, Sampler

DRAWS = 64  # subsets of each task's data
VALIDATION_DRAWS = 4

Data = Mapping[int, tuple[Float[np.ndarray, "_ height width channels"], Int[np.ndarray, "_"]]]


def draw_examples(
    data: Data, task: int, fewest: int, most: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "m height width channels"], Int[np.ndarray, "m"]]:
    """Draws `fewest` to `most` examples of a task, evenly in the logarithm, of every class one at least."""
    x, y = data[task]
    order = rng.permutation(len(y))
    firsts = np.unique(y[order], return_index=True)[1]
    order = np.concatenate([order[firsts], np.delete(order, firsts)])
    size = max(len(firsts), round(np.exp(rng.uniform(np.log(fewest), np.log(most)))))
    return x[order[:size]], y[order[:size]]


class DataSets:
    """Subsets of the tasks' data in batches, to be drawn as networks are; one is fixed by its place and the seed.

    Args:
      data: of each task.
      tasks: the task of each subset.
      members: places of the subsets among all examples.
      fewest, most: examples of a subset.
      size: subsets a batch.
      seed: of the subsets.
    """

    def __init__(
        self,
        data: Data,
        tasks: Int[np.ndarray, "m"],
        members: Int[np.ndarray, "m"],
        fewest: int,
        most: int,
        size: int,
        seed: int,
    ):
        self.data, self.tasks, self.members = data, tasks, members
        self.fewest, self.most, self.size, self.seed = fewest, most, size, seed
        self.classes = 1 + max(int(data[int(task)][1].max()) for task in np.unique(tasks))

    def batch(self, places: Sequence[int]) -> Labeled:
        """Examples of [size + 1] data sets."""
        drawn = [
            draw_examples(self.data, int(self.tasks[p]), self.fewest, self.most, np.random.default_rng([self.seed, p]))
            for p in places
        ]
        padded = [pad_examples(x, y, self.most, self.classes) for x, y in drawn]
        missing = Labeled(*(np.zeros_like(part) for part in padded[0]))
        padded += [missing] * (self.size + 1 - len(padded))
        return Labeled(*(np.stack(parts) for parts in zip(*padded, strict=True)))


def fit_dataset_encoder(
    encoder: ResponseEncoder,
    params: Any,
    swept: Swept,
    embedding: Float[np.ndarray, "n dim"],
    examples: Examples,
    training: Int[np.ndarray, "m"],
    validation: Int[np.ndarray, "v"],
    data: Data,
    config: Config,
    directory: Path,
    seed: int,
) -> tuple[DatasetEncoder, Any]:
    """Trains features and bandwidth so that a data set lies near the networks of its task.

    A data set is drawn into batches as one more network, with the class map of its task's networks. The parameters
    that serve queries of the validation tasks best are kept, the initial ones, which need no training, included.

    Args:
      encoder, params: trained, not changed.
      swept, embedding: of all networks.
      examples: of all networks.
      training, validation: places of networks.
      data: for each task of `examples` at these places its images, normalized and of the encoder's input shape, and
        their classes, numbered as in `class_order`.
      config: a section of settings as `encoder`'s, with `fewest_examples`, `most_examples` and `data_sets` of a batch.
      directory: of this run's files.
      seed: of parameters, subsets and batches.

    Returns:
      The data-set encoder and its parameters.
    """
    devices = jax.local_device_count()
    dataset_encoder, initial = init_dataset_params(encoder, params["inputs"], seed)
    served = SweptNetworks(swept, training, config.batch_size // devices)
    known, subsets = _with_data_sets(examples, training, data, config, devices, seed)
    sampler = Sampler(
        [served, subsets], known, config.tasks_per_batch, config.class_map_share, config.merge_share, devices, seed
    )

    def apply(dataset_params: Any, batch: Swept | Labeled, class_map: jax.Array) -> jax.Array:
        if isinstance(batch, Labeled):
            mapped = Labeled(batch.images, batch.labels @ class_map)
            answered = cast(Swept, dataset_encoder.apply({"params": dataset_params}, params["inputs"], mapped))
            return cast(jax.Array, encoder.apply({"params": params}, answered, method="embed"))
        return cast(jax.Array, encoder.apply({"params": params}, batch, class_map, method="embed"))

    queries = [
        (task, draw_examples(data, task, config.fewest_examples, config.most_examples, rng))
        for rng in [np.random.default_rng([seed, 1])]
        for task in np.unique(examples.task[validation]).tolist()
        for _ in range(VALIDATION_DRAWS)
    ]

    def score(dataset_params: Any) -> float:
        vectors = [embed_dataset(dataset_encoder, dataset_params, encoder, params, x, y) for _, (x, y) in queries]
        wanted = np.array([task for task, _ in queries])
        return query_map(np.stack(vectors), wanted, embedding[validation], examples.task[validation])

    optimizer = make_optimizer(config)
    step = make_train_step(apply, optimizer, config)
    best, _ = train(
        init_state(initial, optimizer), step, sampler.sample, score, config, directory, f"data-set encoder {seed}"
    )
    return dataset_encoder, best


def query_map(
    queries: Float[np.ndarray, "q dim"],
    wanted: Int[np.ndarray, "q"],
    gallery: Float[np.ndarray, "n dim"],
    tasks: Int[np.ndarray, "n"],
) -> float:
    """Mean average precision of queries for networks of the wanted task."""
    order = rank_gallery(cosine_similarity(queries, gallery))
    relevant = wanted[:, None] == tasks[None]
    return float(np.nanmean(ranking_metrics(order, relevant, np.ones_like(relevant))["map"]))


def _with_data_sets(
    examples: Examples, training: np.ndarray, data: Data, config: Config, devices: int, seed: int
) -> tuple[Examples, DataSets]:
    """Adds `DRAWS` data sets for each training task behind the networks; those of a task are not compared."""
    count = len(examples.task)
    tasks = np.repeat(np.unique(examples.task[training]), DRAWS)
    subsets = DataSets(
        data,
        tasks,
        count + np.arange(len(tasks)),
        config.fewest_examples,
        config.most_examples,
        max(1, config.data_sets // devices),
        seed,
    )
    orders = [list(range(1 + int(data[int(task)][1].max()))) for task in tasks]
    known = Examples(
        np.concatenate([examples.task, tasks]),
        np.concatenate([examples.lineage, -1 - tasks]),
        np.concatenate([examples.architecture, np.full(len(tasks), -1)]),
        np.concatenate([examples.accuracy, np.ones(len(tasks), np.float32)]),
        [*examples.class_order, *orders],
    )
    return known, subsets

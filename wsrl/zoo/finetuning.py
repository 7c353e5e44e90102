"""Fine-tuning of stacked models on one task: a head fitted by ridge regression, then all weights by Adam.

The head is fitted first, and all weights after it, as linear probing then fine-tuning does (Kumar et al.,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022). Every model sees the
same batches, whatever it starts from.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int64

from wsrl.data import normalize
from wsrl.zoo.bank import EVALUATION_BATCH, ImageBank
from wsrl.zoo.models import MOMENTUM, Classifier, Images
from wsrl.zoo.stacked import Tree, train_models

SEGMENT = 5  # steps of one call of the training program; accuracies are recorded at multiples of it
SCHEDULE = 300  # steps after which the learning rate has come down to zero
BATCH = 32  # images
HEAD_IMAGES = 512  # of the training part that the head is fitted to, at most
FEWEST_IMAGES = 64  # of a program that reads features; more are padded to the next power of two
PENALTIES = 10.0 ** np.arange(-3, 2)  # of the ridge regression, relative to the mean variance of a feature
SHARPNESS = 2.0 ** np.arange(-2, 9)  # factors on the ridge regression's outputs
SMALL = 1e-8  # added to the penalty, for features that are all constant
VALIDATION = 0.2  # share of a task's training images


class Part(NamedTuple):
    """Labeled images: rows of a bank and the class of each."""

    rows: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]


class TaskData(NamedTuple):
    """The images of one task: two parts of its training images, and its held-out images."""

    train: Part
    validation: Part
    test: Part


class Curves(NamedTuple):
    """Accuracies of fine-tuned models, 0 to 1, and what the fine-tuning cost.

    Attributes:
      validation, test: at each recorded step.
      head_seconds: of fitting one head; the whole stack's time over its models.
      step_seconds: of one training step of one model, likewise.
    """

    validation: Float[np.ndarray, "models rates recorded"]
    test: Float[np.ndarray, "models rates recorded"]
    head_seconds: float
    step_seconds: float


def split_task(bank: ImageBank, task: str, seed: int, most: int | None = None) -> TaskData:
    """Splits a task's training images at random; the validation part has no more images than the held-out one.

    Args:
      bank: the images.
      task: its id.
      seed: of the order.
      most: training images, those of the validation part included; None takes all.
    """
    rows, labels = bank.train[task]
    test = Part(*bank.test[task])
    order = np.random.default_rng([seed, 4]).permutation(len(rows))[:most]
    cut = min(max(1, round(VALIDATION * len(order))), len(test.rows))
    train, validation = (Part(rows[chosen], labels[chosen]) for chosen in (order[cut:], order[:cut]))
    return TaskData(train, validation, test)


def read_features(model: Classifier, variables: Tree, images: Images) -> Float[Array, "batch features"]:
    """What the last linear layer of a model reads, with the stored statistics of its batch normalization."""
    return _features(model, variables, images)


def _features(model: Classifier, variables: Tree, images: Images, **options: Any) -> Any:
    def take(call: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        return args[0] if context.method_name == "head" else call(*args, **kwargs)

    with nn.intercept_methods(take):
        return model.apply(variables, images, **options)


def adapt_statistics(model: Classifier, variables: Tree, images: Images) -> Tree:
    """A model whose batch normalization has the statistics of some images (Li et al., "Revisiting Batch Normalization
    for Practical Domain Adaptation", 2016), which training would drift to within a few steps.
    """
    _, updated = _features(model, variables, images, train=True, mutable=["batch_stats"])
    # An update moves the stored statistics by 1 - MOMENTUM of the way to those of the images.
    statistics = jax.tree.map(
        lambda old, new: (new - MOMENTUM * old) / (1 - MOMENTUM), variables["batch_stats"], dict(updated)["batch_stats"]
    )
    return {**variables, "batch_stats": statistics}


def fit_head(
    features: Float[np.ndarray, "n features"], labels: Int64[np.ndarray, " n"], classes: int
) -> tuple[Float32[np.ndarray, "features classes"], Float32[np.ndarray, " classes"]]:
    """Kernel and bias of a linear classifier by ridge regression on one-hot labels.

    The regression's outputs are multiplied by one of `SHARPNESS`, as logits of a network trained further should be
    calibrated. Of that and of `PENALTIES` those are taken that give the least cross-entropy of images left out, each
    from the fit to the others (Allen 1974, in closed form): logits that fit too well leave nothing to train by.

    Args:
      features: finite; computed with in float64.
      labels: 0 to classes - 1.
      classes: output neurons.
    """
    features, targets = features.astype(np.float64), np.eye(classes)[labels]
    mean, base = features.mean(0), targets.mean(0)
    variance, axes = np.linalg.eigh(np.cov(features.T, bias=True).reshape(features.shape[1], -1))
    variance = np.maximum(variance, 0.0)
    turned = (features - mean) @ axes
    best = np.inf, np.zeros((features.shape[1], classes)), 1.0
    for penalty in PENALTIES * variance.mean() + SMALL:
        kernel = turned.T @ targets / len(labels) / (variance + penalty)[:, None]
        residual = targets - turned @ kernel - base
        leverage = (1 + (turned**2 / (variance + penalty)).sum(1)) / len(labels)
        left_out = targets - residual / np.maximum(1 - leverage, SMALL)[:, None]
        for factor in SHARPNESS:
            entropy = -scipy.special.log_softmax(factor * left_out, 1)[targets > 0].mean()
            best = min(best, (entropy, factor * kernel, factor), key=lambda found: found[0])
    _, kernel, factor = best
    kernel = axes @ kernel
    return kernel.astype(np.float32), (factor * base - mean @ kernel).astype(np.float32)


def with_head(
    variables: Tree, kernel: Float[np.ndarray, "features classes"], bias: Float[np.ndarray, " classes"]
) -> Tree:
    """A model with another last layer, which is the dense layer of the highest number at the top of its tree."""
    name = max((name for name in variables["params"] if name.startswith("Dense_")), key=lambda name: int(name[6:]))
    return {**variables, "params": {**variables["params"], name: {"kernel": kernel, "bias": bias}}}


@functools.partial(jax.jit, static_argnums=0)
def _read_stacked(model: Classifier, variables: Tree, rows: Array, bank: Array) -> Array:
    return jax.vmap(lambda own: read_features(model, own, normalize(bank[rows])[..., None]))(variables)


@functools.partial(jax.jit, static_argnums=0)
def _adapt_stacked(model: Classifier, variables: Tree, rows: Array, bank: Array) -> Tree:
    return jax.vmap(lambda own: adapt_statistics(model, own, normalize(bank[rows])[..., None]))(variables)


class FineTuner:
    """Fine-tunes models on tasks of one bank, in stacks that share their programs and are sharded over the devices.

    Args:
      bank: the images of all tasks.
      stack: models of one program; each learning rate of a start is a model.
    """

    def __init__(self, bank: ImageBank, stack: int = 8):
        self.mesh = Mesh(np.array(jax.local_devices()), ("models",))
        self.stack = -(-stack // self.mesh.size) * self.mesh.size
        self.images = jax.device_put(bank.images, NamedSharding(self.mesh, PartitionSpec()))
        longest = max(len(rows) for rows, _ in bank.test.values())
        self.evaluated = -(-longest // EVALUATION_BATCH) * EVALUATION_BATCH
        self.warm: set[Any] = set()

    def fine_tune(
        self,
        model: Classifier,
        variables: Sequence[Tree],
        data: TaskData,
        rates: Sequence[float],
        recorded: Sequence[int],
        seed: int,
        ridge_head: bool = True,
    ) -> Curves:
        """Fine-tunes models of one architecture at each learning rate, all on the same batches.

        Args:
          model: the architecture.
          variables: of each start.
          data: of the task.
          rates: highest learning rates of Adam; each falls along a cosine to zero after `SCHEDULE` steps.
          recorded: steps, ascending multiples of `SEGMENT`, after which accuracies are measured.
          seed: of the batches.
          ridge_head: fit the last layer first; without it, the last layer stays as it is.
        """
        head_seconds = 0.0
        if ridge_head:
            variables, head_seconds = self._with_heads(model, variables, data.train)
        batches = self._batches(data.train, recorded[-1], seed)
        pairs = [(start, rate) for start in range(len(variables)) for rate in rates]
        found, step_seconds = [], []
        for first in range(0, len(pairs), self.stack):
            chosen = pairs[first : first + self.stack]
            padded = chosen + [chosen[0]] * (self.stack - len(chosen))
            stacked = self._stack([variables[start] for start, _ in padded])
            rates_of = [rate for _, rate in padded]
            runs = {"train": self._runs(rates_of, None)}
            runs |= {part: self._runs(rates_of, getattr(data, part)) for part in ("validation", "test")}
            accuracies, seconds = self._train(model, stacked, batches, runs, recorded)
            found.append(accuracies[: len(chosen)])
            step_seconds.append(seconds / (self.stack * max(recorded[-1], 1)))
        shape = (len(variables), len(rates), len(recorded))
        validation, test = (np.concatenate(found)[:, side].reshape(shape) for side in (0, 1))
        return Curves(validation, test, head_seconds, float(np.mean(step_seconds)))

    def features(
        self, model: Classifier, variables: Sequence[Tree], rows: Int64[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "models n features"], float]:
        """What the last layers of models of one architecture read of some images, and the seconds that it took."""
        found, seconds = self._map(_read_stacked, model, variables, rows)
        return np.stack(found)[:, : len(rows)], seconds

    def linear_probe(
        self, model: Classifier, variables: Sequence[Tree], train: Part, held_out: Part
    ) -> Float[np.ndarray, " models"]:
        """Held-out accuracies of heads fitted to models of one architecture, which otherwise stay as they are."""
        variables, _ = self._adapted(model, variables, train.rows)
        features, _ = self.features(model, variables, np.concatenate([train.rows, held_out.rows]))
        found = []
        for own in features:
            kernel, bias = fit_head(own[: len(train.rows)], train.labels, model.num_classes)
            answers = (own[len(train.rows) :] @ kernel + bias).argmax(1)
            found.append(np.mean(answers == held_out.labels))
        return np.array(found)

    def _adapted(
        self, model: Classifier, variables: Sequence[Tree], rows: Int64[np.ndarray, " n"]
    ) -> tuple[Sequence[Tree], float]:
        """Models with the batch statistics of some images, if they have any, and the seconds that the models took."""
        return self._map(_adapt_stacked, model, variables, rows) if variables[0]["batch_stats"] else (variables, 0.0)

    def _with_heads(self, model: Classifier, variables: Sequence[Tree], part: Part) -> tuple[list[Tree], float]:
        """Models with statistics and heads of some images, and the seconds that one model took."""
        rows, labels = part.rows[:HEAD_IMAGES], part.labels[:HEAD_IMAGES]
        variables, adapting = self._adapted(model, variables, rows)
        features, reading = self.features(model, variables, rows)
        started = time.perf_counter()
        heads = [fit_head(own, labels, model.num_classes) for own in features]
        seconds = adapting + reading + time.perf_counter() - started
        pairs = zip(variables, heads, strict=True)
        return [with_head(own, *head) for own, head in pairs], seconds / len(variables)

    def _map(
        self, program: Any, model: Classifier, variables: Sequence[Tree], rows: Int64[np.ndarray, " n"]
    ) -> tuple[list[Any], float]:
        """What a program makes of each model and some images, and the seconds that the models took.

        Tasks share programs, so images are repeated in turn up to a power of two.
        """
        found, seconds = [], 0.0
        rows = np.resize(rows, max(FEWEST_IMAGES, 1 << (len(rows) - 1).bit_length()))
        for first in range(0, len(variables), self.stack):
            chosen = variables[first : first + self.stack]
            stacked = self._stack([*chosen, *[chosen[0]] * (self.stack - len(chosen))])
            block, spent = self._timed(program, model, stacked, rows)
            block = jax.device_get(block)
            found += [jax.tree.map(lambda leaf, i=i: leaf[i], block) for i in range(len(chosen))]
            seconds += spent * len(chosen) / self.stack
        return found, seconds

    def _train(
        self, model: Classifier, stacked: Tree, batches: Tree, runs: dict[str, Tree], recorded: Sequence[int]
    ) -> tuple[Float[np.ndarray, "models parts recorded"], float]:
        zeros = jax.tree.map(jnp.zeros_like, stacked["params"])
        state = {"variables": stacked, "first": zeros, "second": zeros}
        state |= {"step": self._shard(np.zeros(self.stack, np.int32))}
        none = jax.tree.map(lambda x: x[:, :0], batches)
        accuracies, seconds = [], 0.0
        for step in range(0, recorded[-1] + 1, SEGMENT):
            if step:
                segment = jax.tree.map(lambda x, step=step: x[:, step - SEGMENT : step], batches)
                (state, _), spent = self._timed(train_models, model, state, segment, runs["train"])
                seconds += spent
            if step in recorded:
                accuracies.append(
                    [train_models(model, state, none, runs[part], self.images)[1] for part in ("validation", "test")]
                )
        return np.moveaxis(np.array(accuracies), 0, 2).swapaxes(0, 1), seconds

    def _timed(self, program: Any, model: Classifier, *arguments: Any) -> tuple[Any, float]:
        """Result and wall-clock seconds of a program; the first call of each, which compiles, is not the one timed."""
        key = (program, model, jax.tree.structure(arguments), tuple(leaf.shape for leaf in jax.tree.leaves(arguments)))
        if key not in self.warm:
            jax.block_until_ready(program(model, *arguments, self.images))
            self.warm.add(key)
        started = time.perf_counter()
        result = jax.block_until_ready(program(model, *arguments, self.images))
        return result, time.perf_counter() - started

    def _stack(self, trees: Sequence[Tree]) -> Tree:
        return self._shard(jax.tree.map(lambda *leaves: np.stack(leaves), *trees))

    def _shard(self, tree: Tree) -> Tree:
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec("models")))

    def _batches(self, part: Part, steps: int, seed: int) -> tuple[jax.Array, jax.Array]:
        """Rows and classes [models, steps, batch] to train on, the same for every model, drawn with replacement."""
        drawn = np.random.default_rng([seed, 5]).integers(0, len(part.rows), (steps, BATCH))
        same = [np.broadcast_to(values[drawn].astype(np.int32), (self.stack, steps, BATCH)) for values in part]
        return self._shard(tuple(same))

    def _runs(self, rates: Sequence[float], part: Part | None) -> Tree:
        """What `train_models` wants to know of each run; without a part, accuracies are not measured."""
        rows = np.zeros(0, np.int64) if part is None else part.rows
        labels = rows if part is None else part.labels
        padding = (0, 0 if part is None else self.evaluated - len(rows))
        same = {
            "seed": np.uint32(0),
            "adaptive": np.float32(1),
            "decoupled": np.float32(0),
            "weight_decay": np.float32(0),
            "dropout": np.float32(0),
            "steps": np.float32(SCHEDULE),
            "test_count": np.int32(max(len(rows), 1)),
            "test_images": np.pad(rows, padding).astype(np.int32),
            "test_labels": np.pad(labels, padding, constant_values=-1).astype(np.int32),
        }
        runs = [{**same, "learning_rate": np.float32(rate)} for rate in rates]
        return self._stack(runs)

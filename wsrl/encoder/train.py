"""Training of an encoder: the step, and the loop around it."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float
from orbax.checkpoint import v1 as ocp
from tensorboard.summary import Writer
from tqdm import tqdm

from wsrl.encoder.encoder import Encoding
from wsrl.encoder.losses import contrastive
from wsrl.encoder.sampling import Targets
from wsrl.files import write_atomically

AXIS = "devices"
Params = Any
Apply = Callable[[Params, Any], Encoding]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to go on: parameters, the optimizer's state and the steps done."""

    params: Params
    opt_state: optax.OptState
    step: Array


class Metrics(NamedTuple):
    """Of one step: the whole loss, its two parts and the norm of the gradient before clipping."""

    loss: Float[Array, ""]
    contrastive: Float[Array, ""]
    accuracy_loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam with warm-up, cosine decay and clipping; the learned inputs have a learning rate of their own."""

    def adam(peak: float) -> optax.GradientTransformation:
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup_steps, config.steps, peak / 100)
        return optax.adamw(schedule, weight_decay=config.weight_decay)

    def label(params: Params) -> Params:
        return {name: jax.tree.map(lambda _: "inputs" if name == "inputs" else "rest", p) for name, p in params.items()}

    rates = {"inputs": adam(config.input_learning_rate), "rest": adam(config.learning_rate)}
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.multi_transform(rates, label))


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, config: ml_collections.ConfigDict
) -> Callable[[TrainState, Sequence[Any], Targets], tuple[TrainState, Metrics]]:
    """Returns one training step over all devices.

    Every device encodes its own networks; embeddings are gathered, so each is compared with those of all devices.
    Gathering sums the gradients of all devices' equal losses, and their mean is the gradient of the global batch.

    Args:
      apply: (params, batch) -> Encoding.
      optimizer: of the parameters.
      config: loss, temperature (or margin) and accuracy_weight.
    """
    scale = config.margin if config.loss == "margin" else config.temperature

    def loss_fn(params: Params, batches: Sequence[Any], targets: Targets) -> tuple[Array, tuple[Array, Array]]:
        encodings = [apply(params, batch) for batch in batches]
        encoded = Encoding(*(jnp.concatenate(parts) for parts in zip(*encodings, strict=True)))
        encoded, target = jax.lax.all_gather((encoded, targets), AXIS, tiled=True)
        loss = contrastive(config.loss, encoded.embedding, target.label, target.lineage, scale)
        exists = target.label >= 0
        error = jnp.where(exists, jnp.square(encoded.accuracy - target.accuracy), 0.0)
        accuracy_loss = error.sum() / jnp.maximum(exists.sum(), 1)
        return loss + config.accuracy_weight * accuracy_loss, (loss, accuracy_loss)

    def step(state: TrainState, batches: Sequence[Any], targets: Targets) -> tuple[TrainState, Metrics]:
        (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batches, targets)
        grads = jax.lax.pmean(grads, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, *parts, optax.global_norm(grads))
        return TrainState(params, opt_state, state.step + 1), jax.lax.pmean(metrics, AXIS)

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=(None, None))


def train(
    state: TrainState,
    step_fn: Callable[[TrainState, Sequence[Any], Targets], tuple[TrainState, Metrics]],
    sample: Callable[[int], tuple[Sequence[Any], Targets]],
    validate: Callable[[Params], float],
    config: ml_collections.ConfigDict,
    directory: Path,
    name: str,
    seconds: float | None = None,
) -> tuple[Params, list[dict[str, float]]]:
    """Trains to the last step, or for `seconds`, and returns the parameters that validated best.

    Goes on where an earlier call with the same directory stopped, to the same losses. Writes Orbax checkpoints,
    `metrics.jsonl` and TensorBoard events.

    Args:
      state: the initial state.
      step_fn: from `make_train_step`.
      sample: draws the batch of a step.
      validate: score of parameters on held-out tasks, higher is better.
      config: steps, validate_every.
      directory: of this run; made if missing.
      name: in the progress line.
      seconds: stop training after this time; validation does not count.

    Returns:
      The best parameters and the rows of `metrics.jsonl`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    history = directory / "metrics.jsonl"
    best, rows = state.params, []
    with ocp.training.Checkpointer(directory.resolve() / "checkpoints", **_LATEST) as checkpointer, ThreadPoolExecutor(1) as prefetch:
        if checkpointer.latest is not None:
            saved = checkpointer.load(checkpointer.latest, abstract_state={"state": state, "best": best})
            state, best = saved["state"], saved["best"]
            lines = history.read_text().splitlines()[: int(state.step)]
            rows = [json.loads(line) for line in lines]
        best_score = max((row["validation"] for row in rows if "validation" in row), default=-np.inf)
        spent = sum(row["seconds"] for row in rows[1:])
        first = int(state.step)
        writer = Writer(str(directory / "tensorboard"))
        progress = tqdm(total=config.steps, initial=first, desc=name, unit="step", mininterval=1.0)
        upcoming = prefetch.submit(sample, first)
        for step in range(first, config.steps):
            start = time.perf_counter()
            batches, targets = upcoming.result()
            upcoming = prefetch.submit(sample, step + 1)
            state, metrics = step_fn(state, batches, targets)
            row = {key: float(value) for key, value in metrics._asdict().items()}
            row |= {"step": step + 1, "models": int((targets.label >= 0).sum()), "seconds": time.perf_counter() - start}
            spent += row["seconds"] if step > first else 0.0  # the first step compiles
            last = step + 1 == config.steps or (seconds is not None and spent >= seconds)
            if last or (step + 1) % config.validate_every == 0:
                row["validation"] = validate(state.params)
                if row["validation"] > best_score:
                    best, best_score = state.params, row["validation"]
            rows.append(row)
            for key, value in row.items():
                writer.add_scalar(key, value, step + 1)
            progress.set_postfix(loss=f"{row['loss']:.3f}", models_per_s=f"{row['models'] / row['seconds']:.0f}")
            progress.update()
            if "validation" in row:
                write_atomically(history, "".join(json.dumps(row) + "\n" for row in rows).encode())
                checkpointer.save(step + 1, {"state": state, "best": best})
            if last:
                break
        progress.close()
        writer.close()
    return best, rows

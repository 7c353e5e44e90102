"""Training of an encoder: the step, and the loop around it."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from orbax.checkpoint import v1 as ocp
from tqdm import tqdm

from wsrl.annotations import Config
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.files import write_atomically
from wsrl.training.hosts import ALONE, AXIS, Hosts
from wsrl.training.losses import contrastive
from wsrl.training.sampling import Targets

LATEST: Any = ocp.training.preservation_policies.LatestN(1)
Params = Any
Apply = Callable[[Params, Any, Array], Array]
Step = Callable[["TrainState", Sequence[Any], Targets], tuple["TrainState", "Metrics"]]


@flax.struct.dataclass
class TrainState:
    """Everything a run needs to go on: parameters, the optimizer's state and the steps done."""

    params: Params
    opt_state: optax.OptState
    step: Any  # int32 array; what stands for it while JAX maps over the tree


class Metrics(NamedTuple):
    """Of one step: the loss, and the norm of the gradient before clipping."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and clipping; the inputs have a learning rate of their own.

    Args:
      config: the section `encoder`; an `input_learning_rate` of zero keeps the inputs as they are.
    """

    def adam(peak: float) -> optax.GradientTransformation:
        end = max(config.steps, config.warmup_steps + 1)  # a schedule must fall, even where no step is done
        schedule = optax.warmup_cosine_decay_schedule(0.0, peak, config.warmup_steps, end, peak / 100)
        return optax.adamw(schedule, weight_decay=config.weight_decay)

    def label(params: Params) -> Params:
        return {
            key: jax.tree.map(lambda _, key=key: "inputs" if key == "inputs" else "rest", value)
            for key, value in params.items()
        }

    inputs = adam(config.input_learning_rate) if config.input_learning_rate else optax.set_to_zero()
    rates: dict[Any, optax.GradientTransformation] = {
        "inputs": inputs,
        "rest": adam(config.learning_rate),
    }
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.multi_transform(rates, label))


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, config: Config, hosts: Hosts = ALONE
) -> Step:
    """Returns one training step over all devices, whose arrays have an axis of all of them, also of other processes.

    Every device encodes its own networks; embeddings are gathered, so each is compared with those of all devices.
    Gathering sums the gradients of all devices' equal losses, and their mean is the gradient of the global batch.

    Args:
      apply: (params, batch, class maps) -> embeddings [networks, dim].
      optimizer: of the parameters.
      config: loss, temperature (or margin), hard_negatives.
      hosts: whose devices.
    """
    scale = config.margin if config.loss == "margin" else config.temperature

    def loss_fn(params: Params, inputs: Sequence[Any], targets: Targets) -> Array:
        embedding = jnp.concatenate([apply(params, batch, class_map) for batch, class_map in inputs])
        embedding, target = jax.lax.all_gather((embedding, targets), AXIS, tiled=True)
        return contrastive(config.loss, embedding, target, scale, config.hard_negatives)

    def step(state: TrainState, inputs: Sequence[Any], targets: Targets) -> tuple[TrainState, Metrics]:
        loss, grads = jax.value_and_grad(loss_fn)(state.params, inputs, targets)
        grads = jax.lax.pmean(grads, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(loss, optax.tree.norm(grads))
        return TrainState(params, opt_state, state.step + 1), jax.lax.pmean(metrics, AXIS)

    spread = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, 0), out_axes=(None, None), devices=hosts.devices)
    return lambda state, inputs, targets: spread(state, *hosts.own((inputs, targets)))


def train(
    state: TrainState,
    step_fn: Step,
    sample: Callable[[int], tuple[Sequence[Any], Targets]],
    validate: Callable[[Params], float],
    config: Config,
    directory: Path,
    name: str,
    seconds: float | None = None,
    hosts: Hosts = ALONE,
) -> tuple[Params, list[dict[str, float]]]:
    """Trains to the last step, or for `seconds`, and returns the parameters that validated best.

    Goes on where an earlier call with the same directory stopped, to the same losses. Writes Orbax checkpoints,
    `metrics.jsonl` and TensorBoard events.

    Args:
      state: the initial state.
      step_fn: from `make_train_step`.
      sample: draws the inputs and targets of a step.
      validate: score of parameters on held-out tasks, higher is better.
      config: steps, validate_every.
      directory: of this run; made if missing.
      name: in the progress line.
      seconds: stop training after this time; compilation and validation do not count.
      hosts: as of the step; all of their processes call this, with one directory.

    Returns:
      The best parameters, on no device, and the rows of `metrics.jsonl`.

    Raises:
      InputError: the directory's checkpoint cannot be restored.
    """
    history = directory / "metrics.jsonl"
    directory.mkdir(parents=True, exist_ok=True)
    hosts.meet()
    initial, state = state.params, hosts.replicate(state)
    best, rows = state.params, []
    with (
        ocp.training.Checkpointer(str(directory.resolve() / "checkpoints"), preservation_policy=LATEST) as checkpointer,
        ThreadPoolExecutor(1) as prefetch,
        _events(directory / "tensorboard", hosts) as add_scalar,
    ):
        if checkpointer.latest is not None:
            shape = {"state": state, "best": best, "score": np.zeros(())}
            try:
                saved = checkpointer.load(checkpointer.latest, abstract_state=hosts.savable(shape))
            except (KeyError, ValueError, OSError) as error:
                reason = f"cannot be restored ({type(error).__name__}), perhaps of another version of wsrl"
                fix = "delete it to train again, or name another --workdir"
                raise InputError(directory / "checkpoints", reason, fix) from error
            state, best, best_score = saved["state"], saved["best"], float(saved["score"])
            rows = [json.loads(line) for line in history.read_text().splitlines()[: int(state.step)]]
        else:
            best_score = validate(initial)  # what training starts from may be the best
        spent = sum(row["seconds"] for row in rows[1:])
        first = int(state.step)
        state = hosts.replicate(state)
        if first >= config.steps or (seconds is not None and spent >= seconds):
            return jax.device_get(best), rows
        upcoming = prefetch.submit(sample, first)
        progress = tqdm(total=config.steps, initial=first, desc=name, unit="step", mininterval=1.0)
        for step in range(first, config.steps):
            start = time.perf_counter()
            inputs, targets = upcoming.result()
            upcoming = prefetch.submit(sample, step + 1)
            state, metrics = step_fn(state, inputs, targets)
            row = {key: float(value) for key, value in metrics._asdict().items()}
            row |= {"step": step + 1, "models": int((targets.label >= 0).sum()), "seconds": time.perf_counter() - start}
            spent += row["seconds"] if step > first else 0.0  # the first step compiles
            last = step + 1 == config.steps or (seconds is not None and spent >= seconds)
            if last or (step + 1) % config.validate_every == 0:
                row["validation"] = validate(state.params)
                if row["validation"] > best_score:
                    best, best_score = state.params, row["validation"]
            rows.append(row)
            for key in row.keys() - {"step"}:
                add_scalar(key, row[key], step + 1)
            progress.set_postfix(loss=f"{row['loss']:.3f}", models_per_s=f"{row['models'] / row['seconds']:.0f}")
            progress.update()
            if "validation" in row:
                if hosts.writes:
                    write_atomically(history, "".join(json.dumps(row) + "\n" for row in rows).encode())
                saved = {"state": state, "best": best, "score": np.array(best_score)}
                checkpointer.save(step + 1, hosts.savable(saved))
            if last:
                break
        progress.close()
    return jax.device_get(best), rows


@contextlib.contextmanager
def _events(directory: Path, hosts: Hosts) -> Iterator[Callable[[str, float, int], None]]:
    """Gives a function that adds a number to a curve of TensorBoard, or does nothing where another process does it."""
    if not hosts.writes:
        yield lambda name, value, step: None
        return
    with contextlib.closing(require("tensorboard.summary", "train").Writer(str(directory))) as writer:
        yield writer.add_scalar

"""The base of a tree: trained here on the classes of several sets at once."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from experiments.trees.layers import Architecture
from experiments.trees.texts import TextSet
from wsrl.data import ImageSet
from wsrl.zoo.stacked import optimizer_update

BATCH, CHUNK = 64, 50  # images, and steps of one call
RATE, ADAM = 2e-3, {"adaptive": 1, "decoupled": 1, "weight_decay": 0.05}


def train_base(
    architecture: Architecture, sets: Sequence[ImageSet | TextSet], steps: int, seed: int
) -> tuple[dict[str, np.ndarray], float]:
    """Trains the base to tell the classes of all sets, and returns its weights and its accuracy.

    Images are shifted by up to two pixels, texts by two tokens. Accuracy is that of held-out inputs, over the classes
    of all sets.
    """
    first = np.cumsum([0, *(own.classes for own in sets)])
    inputs = np.concatenate([own.x for own in sets])
    labels = np.concatenate([own.y + start for own, start in zip(sets, first, strict=False)])
    held_out = np.concatenate([own.held_out for own in sets])
    each = np.concatenate([np.full(len(own.y), 1 / np.sqrt(len(own.y))) for own in sets]) * ~held_out
    rng = np.random.default_rng([seed, 57])
    drawing = np.random.default_rng([seed, 51])
    drawn = architecture.initial(drawing) | architecture.new_head(drawing, int(first[-1]))
    params = {name: jnp.asarray(values) for name, values in drawn.items()}
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros, jnp.int32(0))
    bank = jnp.asarray(inputs)
    with tqdm(total=steps, desc="base", unit="step") as bar:
        for start in range(0, steps, CHUNK):
            count = min(CHUNK, steps - start)
            rows = rng.choice(len(inputs), (count, BATCH), p=each / each.sum())
            shifts = rng.integers(-2, 3, (count, BATCH, 2))
            batches = (jnp.asarray(own) for own in (rows, labels[rows], shifts))
            state, losses = _train(architecture, bank, state, *batches, steps)
            bar.set_postfix(loss=f"{float(losses.mean()):.2f}")
            bar.update(count)
    found = jax.device_get(state[0])
    tested = np.flatnonzero(held_out)
    answers = [
        np.asarray(_answers(architecture, found, bank[rows]))
        for rows in np.array_split(tested, max(len(tested) // 500, 1))
    ]
    accuracy = float((np.concatenate(answers) == labels[tested]).mean())
    return {name: np.asarray(values) for name, values in found.items()}, accuracy


@partial(jax.jit, static_argnums=(0, 6))
def _train(
    architecture: Architecture,
    bank: Array,
    state: tuple,
    rows: Int[Array, "steps batch"],
    labels: Int[Array, "steps batch"],
    shifts: Int[Array, "steps batch 2"],
    total: int,
) -> tuple[tuple, Float[Array, " steps"]]:
    def loss(params: dict, inputs: Array, labels: Array) -> Float[Array, ""]:
        chances = jax.nn.log_softmax(architecture.logits(params, inputs))
        return -jnp.take_along_axis(chances, labels[:, None], -1).mean()

    def step(state: tuple, batch: tuple) -> tuple[tuple, Float[Array, ""]]:
        params, first, second, count = state
        rows, labels, shifts = batch
        inputs = jax.vmap(architecture.jitter)(bank[rows], shifts)
        value, gradients = jax.value_and_grad(loss)(params, inputs, labels)
        rate = RATE * jnp.minimum(1.0, (count + 1) / 100) * 0.5 * (1 + jnp.cos(jnp.pi * count / total))
        return (*optimizer_update(gradients, params, first, second, count, ADAM | {"rate": rate}), count + 1), value

    return jax.lax.scan(step, state, (rows, labels, shifts))


@partial(jax.jit, static_argnums=0)
def _answers(architecture: Architecture, params: dict, inputs: Array) -> Int[Array, " batch"]:
    return architecture.logits(params, inputs).argmax(-1)

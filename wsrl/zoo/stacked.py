"""Training of stacked models: one program for many models of an architecture.

The training of one model is written down once and vmapped. Hyper-parameters, data subsets and seeds are
arrays along the models' axis, so that runs on different tasks, with different optimizers, share a program.
A model's random numbers come from its own seed alone, whichever models it is trained beside.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int, UInt8

from wsrl.data import normalize
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.models import Classifier

WARMUP = 0.05  # share of the steps in which the learning rate rises
TRUNCATED_DEVIATION = 0.87962566  # of a unit normal cut at two deviations

Tree = Any  # nested dictionaries of arrays


def initialize(model: Classifier, image_size: int, seed: int, init_scale: float) -> Tree:
    """Draw the Flax variables of one model, as NumPy arrays, kernels multiplied by `init_scale`.

    The distributions are Flax's own (LeCun normal kernels, orthogonal recurrent ones, zero biases, unit scales);
    drawing them on the host saves a compiled program for each architecture. Recurrent kernels are not multiplied:
    at another scale states would vanish or explode over the steps.
    """
    rng = np.random.default_rng([seed, 0])
    low, high = scipy.special.ndtr([-2, 2])

    def draw(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        module, name = path[-2].key, path[-1].key
        if name in ("scale", "var"):
            return np.ones(shape.shape, np.float32)
        if name in ("bias", "mean"):
            return np.zeros(shape.shape, np.float32)
        if name == "pos_embedding":
            return (0.02 * rng.standard_normal(shape.shape)).astype(np.float32)
        if module == "h":  # of a recurrent cell
            q, r = np.linalg.qr(rng.standard_normal(shape.shape))
            return (q * np.sign(np.diag(r))).astype(np.float32)
        heads_last = module in ("query", "key", "value")  # kernels [d, heads, d_head]
        fan_in = shape.shape[0] if heads_last else math.prod(shape.shape[:-1])
        normal = scipy.special.ndtri(rng.uniform(low, high, shape.shape))
        return (normal * init_scale / (TRUNCATED_DEVIATION * math.sqrt(fan_in))).astype(np.float32)

    shapes = _shapes(model, image_size)  # pyright: ignore[reportArgumentType]
    return {"batch_stats": {}} | jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _shapes(model: Classifier, image_size: int) -> Tree:
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 1), jnp.float32)
    return dict(jax.eval_shape(model.init, jax.random.key(0), image))


def optimizer_update(
    gradients: Tree,
    params: Tree,
    first: Tree,
    second: Tree,
    step: Int[Array, ""],
    coefficients: Mapping[str, Any],
) -> tuple[Tree, Tree, Tree]:
    """One step of sgd with momentum, Adam or AdamW, chosen by the coefficients; returns params and moments.

    The coefficient `adaptive` is 1 for Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019)
    and 0 for sgd, `decoupled` is 1 for AdamW; `rate` is the learning rate of this step. Momentum is an
    average of gradients in all three; sgd divides by 1 - momentum to match its usual form.
    """
    c = coefficients
    beta, beta_square = 0.9, 0.999
    gradients = jax.tree.map(lambda g, p: g + (1 - c["decoupled"]) * c["weight_decay"] * p, gradients, params)
    first = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, first, gradients)
    second = jax.tree.map(lambda v, g: beta_square * v + (1 - beta_square) * g * g, second, gradients)
    adaptive = c["adaptive"] == 1
    gain = jnp.where(adaptive, 1 / (1 - beta ** (step + 1.0)), 1 / (1 - beta))
    correction = 1 / (1 - beta_square ** (step + 1.0))

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        scale = jnp.where(adaptive, jnp.sqrt(v * correction) + 1e-8, 1)
        return p * (1 - c["rate"] * c["decoupled"] * c["weight_decay"]) - c["rate"] * gain * m / scale

    return jax.tree.map(update, params, first, second), first, second


def train_model(
    model: Classifier,
    state: Tree,
    batches: tuple[Int[Array, "steps batch"], Int[Array, "steps batch"]],
    run: Mapping[str, jax.Array],
    bank: UInt8[Array, "n h w"],
) -> tuple[Tree, Float[Array, ""]]:
    """Train one model over some batches and measure its accuracy.

    Args:
        model: the architecture.
        state: `variables`, moments `first` and `second`, and `step`.
        batches: rows of the bank and output units to train on.
        run: arrays of the run, as `run_arrays` makes them.
        bank: the images of all tasks.

    Returns the state and the accuracy on the run's held-out images.
    """

    def body(state: Tree, batch: tuple[jax.Array, jax.Array]) -> tuple[Tree, None]:
        step = state["step"]
        images, labels = normalize(bank[batch[0]])[..., None], batch[1]

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state["variables"]["batch_stats"]},
                images,
                train=True,
                dropout=run["dropout"],
                rngs={"dropout": jax.random.fold_in(jax.random.key(run["seed"]), step)},
                mutable=["batch_stats"],
            )
            return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, model.num_classes)).sum(-1).mean(), updated

        gradients, updated = jax.grad(loss, has_aux=True)(state["variables"]["params"])
        progress = step / run["steps"]
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        rate = run["learning_rate"] * jnp.minimum(cosine, (progress + 1 / run["steps"]) / WARMUP)
        coefficients = {key: run[key] for key in ("adaptive", "decoupled", "weight_decay")} | {"rate": rate}
        params, first, second = optimizer_update(
            gradients, state["variables"]["params"], state["first"], state["second"], step, coefficients
        )
        variables = {"batch_stats": {}} | dict(updated) | {"params": params}
        return {"variables": variables, "first": first, "second": second, "step": step + 1}, None

    state, _ = jax.lax.scan(body, state, batches)

    def correct(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits: Any = model.apply(state["variables"], normalize(bank[block[0]])[..., None])
        return (logits.argmax(-1) == block[1]).sum()

    blocks = (
        run["test_images"].reshape(-1, EVALUATION_BATCH),
        run["test_labels"].reshape(-1, EVALUATION_BATCH),
    )
    return state, jax.lax.map(correct, blocks).sum() / run["test_count"]


@functools.partial(jax.jit, static_argnums=0)
def train_models(
    model: Classifier, state: Tree, batches: Tree, runs: Tree, bank: UInt8[Array, "n h w"]
) -> tuple[Tree, Float[Array, " models"]]:
    """Train stacked models, `train_model` of each."""
    return jax.vmap(functools.partial(train_model, model), (0, 0, 0, None))(state, batches, runs, bank)

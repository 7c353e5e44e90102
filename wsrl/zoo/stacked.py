"""Training of stacked models: one program for many models of an architecture.

The training of one model is written down once and vmapped. Hyper-parameters, data subsets and seeds are
arrays along the models' axis, so that runs on different tasks, with different optimizers, share a program.
A model's random numbers come from its own seed alone, so it does not matter which models it is trained beside.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from wsrl.data import normalize
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.models import Classifier

WARMUP = 0.05  # share of the steps in which the learning rate rises

Tree = Any  # nested dictionaries of arrays


def initialise(model: Classifier, image_size: int, seed: jax.Array, init_scale: jax.Array) -> Tree:
    """Draw the Flax variables of one model, kernels multiplied by `init_scale`."""
    variables = model.init(jax.random.key(seed), jnp.zeros((1, image_size, image_size, 1)))
    scaled = jax.tree.map(lambda w: w * init_scale if w.ndim > 1 else w, variables["params"])
    return {"batch_stats": {}} | dict(variables) | {"params": scaled}


def optimizer_update(
    gradients: Tree,
    params: Tree,
    first: Tree,
    second: Tree,
    step: Int[Array, ""],
    coefficients: Mapping[str, Any],
) -> tuple[Tree, Tree, Tree]:
    """One step of sgd with momentum, Adam or AdamW, chosen by the coefficients; returns params and moments.

    The coefficient `adaptive` is 1 for Adam (Kingma and Ba, 2015) and AdamW (Loshchilov and Hutter, 2019) and 0
    for sgd, `decoupled` is 1 for AdamW; `rate` is the learning rate of this step. Momentum is an average of
    gradients in all three; sgd divides by 1 - momentum to match its usual form.
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
    run: Mapping[str, jax.Array],
    bank: UInt8[Array, "n h w"],
    steps: int,
    batch: int,
) -> tuple[Tree, Float[Array, ""]]:
    """Train one model for `steps` steps and measure its accuracy.

    Args:
        model: the architecture.
        state: `variables`, moments `first` and `second`, and `step`.
        run: arrays of the run, as `run_arrays` makes them.
        bank: the images of all tasks.
        steps, batch: number of steps from here, images a step.

    Returns the state and the accuracy on the run's held-out images.
    """

    def body(state: Tree, _: None) -> tuple[Tree, None]:
        step = state["step"]
        batch_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(run["seed"]), step + 1))
        drawn = jax.random.randint(batch_key, (batch,), 0, run["train_count"])
        images = normalize(bank[run["train_images"][drawn]])[..., None]
        labels = run["train_labels"][drawn]

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state["variables"]["batch_stats"]},
                images,
                train=True,
                dropout=run["dropout"],
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, model.num_classes)).sum(
                -1
            ).mean(), updated

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

    state, _ = jax.lax.scan(body, state, length=steps)

    def correct(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = model.apply(state["variables"], normalize(bank[block[0]])[..., None])
        return (logits.argmax(-1) == block[1]).sum()

    blocks = (
        run["test_images"].reshape(-1, EVALUATION_BATCH),
        run["test_labels"].reshape(-1, EVALUATION_BATCH),
    )
    return state, jax.lax.map(correct, blocks).sum() / run["test_count"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def initialise_models(model: Classifier, image_size: int, seeds: jax.Array, init_scales: jax.Array) -> Tree:
    """Draw the variables of stacked models."""
    return jax.vmap(functools.partial(initialise, model, image_size))(seeds, init_scales)


@functools.partial(jax.jit, static_argnums=(0, 4, 5), donate_argnums=1)
def train_models(
    model: Classifier, state: Tree, runs: Tree, bank: jax.Array, steps: int, batch: int
) -> tuple[Tree, jax.Array]:
    """Train stacked models, `train_model` of each; the state is given away."""
    train = functools.partial(train_model, model, steps=steps, batch=batch)
    return jax.vmap(lambda state, run: train(state, run, bank))(state, runs)

"""What networks of the zoo predict, many of an architecture at a time."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Int, Int32, UInt8

from wsrl.data import normalize
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import Tree

STACK = 8  # networks at a time, so that each architecture is compiled once


def predict(
    models: Sequence[Classifier],
    variables: Sequence[Tree],
    rows: Sequence[Int[np.ndarray, "_"]],
    bank: UInt8[Array, "n h w"],
) -> list[Int32[np.ndarray, "_"]]:
    """The output unit with the largest logit, of each network for images of its own.

    Args:
        models: the architecture of each network.
        variables: its Flax variables.
        rows: its images, rows of the bank, for each network as many as it likes.
        bank: images on the devices.
    """
    found: dict[int, np.ndarray] = {}
    for model in dict.fromkeys(models):
        places = [i for i, other in enumerate(models) if other == model]
        for start in range(0, len(places), STACK):
            part = places[start : start + STACK]
            padded = part + part[:1] * (STACK - len(part))
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[variables[i] for i in padded])
            stacked = jax.device_put(stacked, bank.sharding)
            blocks = -(-max(len(rows[i]) for i in part) // EVALUATION_BATCH)
            images = np.zeros((STACK, blocks, EVALUATION_BATCH), np.int32)
            for n, i in enumerate(padded):
                images[n].flat[: len(rows[i])] = rows[i]
            units = [
                np.asarray(_predict(model, stacked, jax.device_put(images[:, block], bank.sharding), bank))
                for block in range(blocks)
            ]
            for n, i in enumerate(part):
                found[i] = np.concatenate([block[n] for block in units])[: len(rows[i])]
    return [found[i] for i in range(len(models))]


@functools.partial(jax.jit, static_argnums=0)
def _predict(
    model: Classifier, variables: Tree, rows: Int[Array, "models images"], bank: UInt8[Array, "n h w"]
) -> Int32[Array, "models images"]:
    def one(variables: Tree, rows: jax.Array) -> jax.Array:
        return model.apply(variables, normalize(bank[rows])[..., None]).argmax(-1)  # pyright: ignore

    return jax.vmap(one)(variables, rows)

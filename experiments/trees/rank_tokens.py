"""A token transformer on canonical ranks, as a baseline (after W2T, arXiv 2603.15990; own implementation).

Each change is decomposed into singular triples (u, sigma, v), which are the same for B M and M^-1 A. A triple is a
token: two projections, of u and of v, that belong to the changed module, and log sigma. A transformer layer mixes the
tokens of a module, attention pools them, a second one mixes the modules, attention pools these. u and v are free up to
a common sign, which is chosen so that a fixed random direction of u is positive. Trained by the supervised contrastive
loss (Khosla et al. 2020).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int
from tqdm import tqdm

from wsrl.training.losses import supervised_contrastive
from wsrl.training.sampling import Targets

RANKS = 4  # triples of a module, the leading ones
WIDTH, HEADS, EMBEDDING = 64, 4, 128
TEMPERATURE, RATE, DROPOUT = 0.1, 2e-3, 0.1
TASKS, EACH = 12, 4  # of a batch

Tokens = Mapping[str, np.ndarray]


def tokens(
    changes: Sequence[Mapping[str, np.ndarray]], modules: Sequence[str]
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Returns `u` and `v` [children, modules, ranks, longest], `sigma` [children, modules, ranks]; zeros fill up.

    Args:
      changes: of each child the matrices [outputs, inputs] by module.
      modules: in the order of the tokens.
    """
    longest = max(max(matrix.shape) for own in changes for matrix in own.values())
    shape = (len(changes), len(modules), RANKS)
    u, v = np.zeros((*shape, longest), np.float32), np.zeros((*shape, longest), np.float32)
    sigma = np.zeros(shape, np.float32)
    direction = np.random.default_rng(66).standard_normal(longest)
    for i, own in enumerate(changes):
        for j, module in enumerate(modules):
            if module in own:
                left, values, right = np.linalg.svd(own[module], full_matrices=False)
                n = min(RANKS, int((values > 1e-5 * values[0]).sum())) if values[0] else 0
                sign = np.where(direction[: len(left)] @ left[:, :n] < 0, -1.0, 1.0)[:, None]
                u[i, j, :n, : len(left)], v[i, j, :n, : right.shape[1]] = sign * left.T[:n], sign * right[:n]
                sigma[i, j, :n] = values[:n]
    return {"u": u, "v": v, "sigma": sigma}


class RankTransformer(nn.Module):
    """Singular triples of all modules become one unit vector."""

    modules: int

    @nn.compact
    def __call__(
        self, u: Float[Array, "n m r d"], v: Float[Array, "n m r d"], sigma: Float[Array, "n m r"], train: bool
    ) -> Float[Array, "n dim"]:
        """Embeds children."""
        drawn = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        shape = (self.modules, u.shape[-1], WIDTH)
        sides = [jnp.einsum("nmrd,mdw->nmrw", x, self.param(n, drawn, shape)) for n, x in (("u", u), ("v", v))]
        exists = sigma > 0
        level = jnp.log(jnp.maximum(sigma, 1e-6))[..., None]
        x = nn.Dense(WIDTH)(jnp.concatenate([nn.relu(nn.LayerNorm()(side)) for side in sides] + [level], -1))
        x = _mix(nn.gelu(nn.LayerNorm()(x)), exists, train)
        x = _pool(x, exists)
        x = x + self.param("place", nn.initializers.normal(0.02), (self.modules, WIDTH))
        there = exists.any(-1)
        x = _pool(_mix(x, there, train), there)
        x = nn.Dense(EMBEDDING)(nn.gelu(nn.Dense(2 * EMBEDDING)(x)))
        return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _mix(x: Float[Array, "... tokens width"], exists: Bool[Array, "... tokens"], train: bool) -> Array:
    mask = exists[..., None, None, :]
    y = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(HEADS, dropout_rate=DROPOUT, deterministic=not train)(y, y, mask=mask)
    return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x))))


def _pool(x: Float[Array, "... tokens width"], exists: Bool[Array, "... tokens"]) -> Array:
    chances = jax.nn.softmax(jnp.where(exists, nn.Dense(1)(nn.tanh(nn.Dense(WIDTH)(x)))[..., 0], -1e9))
    return (chances[..., None] * x).sum(-2)


def fit_rank_transformer(
    given: Tokens, task: Int[np.ndarray, " n"], training: Int[np.ndarray, " m"], steps: int, seed: int
) -> Float32[np.ndarray, "n dim"]:
    """Trains on some children and embeds all.

    Args:
      given: what `tokens` returns.
      task: label of each child.
      training: places of the children to train on.
      steps: of AdamW.
      seed: of weights and draws.
    """
    model = RankTransformer(given["u"].shape[1])
    data = {name: jnp.asarray(values) for name, values in given.items()}
    params = model.init(jax.random.key(seed), *(data[name][:1] for name in ("u", "v", "sigma")), False)
    optimizer = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 10 + 1, steps + 1), weight_decay=0.05
    )
    state = optimizer.init(params)
    rng = np.random.default_rng([seed, 62])

    @jax.jit
    def step(params: Any, state: Any, rows: Any, label: Any, key: Array) -> tuple[Any, Any, Array]:
        def loss(params: Any) -> Float[Array, ""]:
            own = data["u"][rows], data["v"][rows], data["sigma"][rows]
            embedding = jnp.asarray(model.apply(params, *own, True, rngs={"dropout": key}))
            targets = Targets(label=label, lineage=rows, architecture=np.zeros(len(rows), int))
            return supervised_contrastive(embedding, targets, TEMPERATURE, 1.0)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    members = [training[task[training] == label] for label in np.unique(task[training])]
    bar = tqdm(range(steps), desc="token transformer", unit="step")
    for number in bar:
        drawn = rng.permutation(len(members))[:TASKS]
        rows = np.concatenate([rng.permutation(members[i])[:EACH] for i in drawn])
        rows = np.resize(rows, TASKS * EACH)
        params, state, loss = step(params, state, rows, task[rows], jax.random.fold_in(jax.random.key(seed), number))
        if number % 20 == 19:
            bar.set_postfix(loss=f"{float(loss):.2f}")
    embed = jax.jit(lambda *own: model.apply(params, *own, False))
    parts = [[data[name][i : i + 64] for name in ("u", "v", "sigma")] for i in range(0, len(task), 64)]
    return np.concatenate([np.asarray(embed(*part)) for part in parts])

"""A small language model like Llama, in JAX, and the training of several at once: for zoos of known answers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wsrl.zoo.stacked import optimizer_update

VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS, LENGTH, BATCH = 96, 64, 128, 3, 4, 32, 16
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
ADAM = {"adaptive": 1, "decoupled": 1, "weight_decay": 0.01}

Params = Mapping[str, Any]  # arrays of JAX or NumPy


def initial(seed: int) -> dict[str, np.ndarray]:
    """Draws the weights, under the names of Hugging Face."""
    rng = np.random.default_rng([seed, 31])

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    tensors = {"model.embed_tokens.weight": draw(VOCABULARY, WIDTH), "lm_head.weight": draw(VOCABULARY, WIDTH)}
    for i in range(LAYERS):
        name = f"model.layers.{i}"
        tensors |= {f"{name}.self_attn.{part}_proj.weight": draw(WIDTH, WIDTH) for part in "qkvo"}
        tensors |= {f"{name}.mlp.{part}_proj.weight": draw(HIDDEN, WIDTH) for part in ("gate", "up")}
        tensors[f"{name}.mlp.down_proj.weight"] = draw(WIDTH, HIDDEN)
        tensors |= {
            f"{name}.{norm}.weight": np.ones(WIDTH, np.float32)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
    return tensors | {"model.norm.weight": np.ones(WIDTH, np.float32)}


def logits(params: Params, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length words"]:
    """Runs the model."""
    x = params["model.embed_tokens.weight"][tokens]
    for i in range(sum(name.endswith("mlp.up_proj.weight") for name in params)):
        name = f"model.layers.{i}"
        y = _norm(x, params[f"{name}.input_layernorm.weight"])
        q, k, v = (_heads(y @ params[f"{name}.self_attn.{part}_proj.weight"].T) for part in "qkv")
        scores = jnp.einsum("bqhd,bkhd->bhqk", _rotated(q), _rotated(k)) / np.sqrt(WIDTH // HEADS)
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape)
        x = x + mixed @ params[f"{name}.self_attn.o_proj.weight"].T
        y = _norm(x, params[f"{name}.post_attention_layernorm.weight"])
        gate, up = (y @ params[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (jax.nn.silu(gate) * up) @ params[f"{name}.mlp.down_proj.weight"].T
    return _norm(x, params["model.norm.weight"]) @ params["lm_head.weight"].T


def _norm(x: Float[Array, "..."], gain: Float[Array, " width"]) -> Float[Array, "..."]:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * gain


def _heads(x: Float[Array, "batch length width"]) -> Float[Array, "batch length heads dim"]:
    return x.reshape(*x.shape[:2], HEADS, -1)


def _rotated(x: Float[Array, "batch length heads dim"]) -> Float[Array, "batch length heads dim"]:
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def text(language: int, seed: int, steps: int) -> Int[np.ndarray, "steps batch length"]:
    """Draws text of a Markov chain; a language is its transition matrix."""
    chances = np.random.default_rng([language, 32]).dirichlet(np.full(VOCABULARY, 0.05), VOCABULARY).cumsum(1)
    rng = np.random.default_rng([seed, 33])
    tokens = np.empty((steps, BATCH, LENGTH), np.int64)
    tokens[..., 0] = rng.integers(VOCABULARY, size=(steps, BATCH))
    for t in range(1, LENGTH):
        drawn = rng.random((steps, BATCH, 1))
        tokens[..., t] = np.minimum((chances[tokens[..., t - 1]] < drawn).sum(-1), VOCABULARY - 1)
    return tokens


def train(
    starts: Sequence[dict[str, np.ndarray]], language: int, seeds: Sequence[int], steps: int, rate: float
) -> list[dict[str, np.ndarray]]:
    """Trains several models from their starts with AdamW, each on text of its own seed."""
    stacked = {name: jnp.stack([start[name] for start in starts]) for name in starts[0]}
    batches = jnp.asarray(np.stack([text(language, seed, steps) for seed in seeds]))
    trained = _train(stacked, batches, jnp.float32(rate))
    return [{name: np.asarray(values[i]) for name, values in trained.items()} for i in range(len(starts))]


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, None))
def _train(params: Params, batches: Int[Array, "steps batch length"], rate: Float[Array, ""]) -> Params:
    def loss(params: Params, tokens: Int[Array, "batch length"]) -> Float[Array, ""]:
        chances = jax.nn.log_softmax(logits(params, tokens[:, :-1]))
        return -jnp.take_along_axis(chances, tokens[:, 1:, None], -1).mean()

    def step(state, tokens):
        params, first, second, count = state
        gradients = jax.grad(loss)(params, tokens)
        return (*optimizer_update(gradients, params, first, second, count, ADAM | {"rate": rate}), count + 1), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(step, (params, zeros, zeros, 0), batches)[0][0]

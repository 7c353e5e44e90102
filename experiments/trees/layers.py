"""What the architectures of trees are made of: layers in JAX on dictionaries of tensors under Hugging Face's names.

Matrices are [outputs, inputs], so that files of a tree look like those that people have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

HEAD = ("classifier.weight", "classifier.bias")

Params = Mapping[str, Array]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Architecture:
    """A kind of transformer that a tree can be made of.

    Attributes:
      config: content of `config.json`.
      width: inputs of the head.
      linear: the dense modules that adapters may change, with outputs and inputs.
      initial: draws all tensors but the head.
      logits: runs a model on a batch of inputs.
      jitter: moves one input a little, by two numbers from -2 to 2, which leaves its class as it is.
      ruled: makes a task that needs no classes: returns inputs, their labels, and which of the given ones they are.
    """

    config: Mapping[str, Any]
    width: int
    linear: Mapping[str, tuple[int, int]]
    initial: Callable[[np.random.Generator], Tensors]
    logits: Callable[[Params, Array], Array]
    jitter: Callable[[Array, Array], Array]
    ruled: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def new_head(self, rng: np.random.Generator, classes: int) -> Tensors:
        """Draws the head as Hugging Face does: normal of deviation 0.02, biases of 0."""
        weight = 0.02 * rng.standard_normal((classes, self.width)).astype(np.float32)
        return {HEAD[0]: weight, HEAD[1]: np.zeros(classes, np.float32)}


def drawn(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, "..."]:
    """Draws a weight: normal of deviation 0.02, or as large as keeps the variance where that is more."""
    deviation = max(0.02, 0.7 / np.sqrt(int(np.prod(shape[1:]))))
    return (rng.standard_normal(shape) * deviation).astype(np.float32)


def drawn_layers(
    rng: np.random.Generator, linear: Mapping[str, tuple[int, int]], norms: Sequence[str], width: int
) -> Tensors:
    """Draws dense modules with biases of 0, and norms that change nothing."""
    tensors = {}
    for name, shape in linear.items():
        tensors |= {f"{name}.weight": drawn(rng, *shape), f"{name}.bias": np.zeros(shape[0], np.float32)}
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    return tensors


def attention(
    params: Params, inner: str, output: str, heads: int, x: Float[Array, "batch tokens width"]
) -> Float[Array, "batch tokens width"]:
    """Self-attention; the modules query, key and value stand below `inner`."""
    q, k, v = (
        dense(params, f"{inner}.{part}", x).reshape(*x.shape[:2], heads, -1) for part in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    return dense(params, output, jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape))


def feed_forward(params: Params, name: str, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
    """The two dense modules of a layer, with a GELU between them."""
    return dense(params, f"{name}.output.dense", jax.nn.gelu(dense(params, f"{name}.intermediate.dense", x)))


def dense(params: Params, name: str, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    """A matrix and a bias."""
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def norm(params: Params, name: str, x: Float[Array, "... width"], epsilon: float) -> Float[Array, "... width"]:
    """Layer normalization."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon) * params[f"{name}.weight"] + params[f"{name}.bias"]

"""A small vision transformer in JAX with the tensors that `transformers.ViTForImageClassification` has.

Weights are a plain dictionary under the names of Hugging Face, matrices [outputs, inputs], so that files of the tree
look like those that people have.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

PIXELS, PATCH, WIDTH, HIDDEN, LAYERS, HEADS = 28, 7, 64, 256, 4, 4
PATCHES = (PIXELS // PATCH) ** 2
CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "image_size": PIXELS,
    "intermediate_size": HIDDEN,
    "layer_norm_eps": 1e-6,
    "num_attention_heads": HEADS,
    "num_channels": 1,
    "num_hidden_layers": LAYERS,
    "patch_size": PATCH,
    "qkv_bias": True,
}
HEAD = ("classifier.weight", "classifier.bias")

Params = Mapping[str, Array]


def block(layer: int) -> str:
    """Returns how the names of a layer's tensors begin."""
    return f"vit.encoder.layer.{layer}"


def linear_shapes(layer: int) -> dict[str, tuple[int, int]]:
    """Returns the dense modules of a layer with outputs and inputs."""
    name = block(layer)
    attention = {f"{name}.attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    return attention | {
        f"{name}.attention.output.dense": (WIDTH, WIDTH),
        f"{name}.intermediate.dense": (HIDDEN, WIDTH),
        f"{name}.output.dense": (WIDTH, HIDDEN),
    }


def initial(seed: int, classes: int) -> dict[str, np.ndarray]:
    """Draws the weights: normal of deviation 0.02, or as large as keeps the variance where that is more."""
    rng = np.random.default_rng([seed, 51])

    def draw(*shape: int) -> np.ndarray:
        fan_in = int(np.prod(shape[1:]))
        return (rng.standard_normal(shape) * max(0.02, 0.7 / np.sqrt(fan_in))).astype(np.float32)

    tensors = {
        "vit.embeddings.cls_token": 0.02 * rng.standard_normal((1, 1, WIDTH)).astype(np.float32),
        "vit.embeddings.position_embeddings": 0.02 * rng.standard_normal((1, PATCHES + 1, WIDTH)).astype(np.float32),
        "vit.embeddings.patch_embeddings.projection.weight": draw(WIDTH, 1, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": np.zeros(WIDTH, np.float32),
    }
    norms = ["vit.layernorm"]
    for layer in range(LAYERS):
        for name, shape in linear_shapes(layer).items():
            tensors |= {f"{name}.weight": draw(*shape), f"{name}.bias": np.zeros(shape[0], np.float32)}
        norms += [f"{block(layer)}.layernorm_before", f"{block(layer)}.layernorm_after"]
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}
    return tensors | new_head(rng, classes)


def new_head(rng: np.random.Generator, classes: int) -> dict[str, np.ndarray]:
    """Draws the head as Hugging Face does: normal of deviation 0.02, biases of 0."""
    weight = 0.02 * rng.standard_normal((classes, WIDTH)).astype(np.float32)
    return {HEAD[0]: weight, HEAD[1]: np.zeros(classes, np.float32)}


def logits(params: Params, images: Float[Array, "batch pixels pixels"]) -> Float[Array, "batch classes"]:
    """Runs the model on images whose pixels lie in -1..1."""
    side = PIXELS // PATCH
    patches = images.reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(-1, PATCHES, PATCH**2)
    kernel = params["vit.embeddings.patch_embeddings.projection.weight"].reshape(WIDTH, -1)
    x = patches @ kernel.T + params["vit.embeddings.patch_embeddings.projection.bias"]
    first = jnp.broadcast_to(params["vit.embeddings.cls_token"], (len(x), 1, WIDTH))
    x = jnp.concatenate([first, x], 1) + params["vit.embeddings.position_embeddings"]
    for layer in range(LAYERS):
        name = block(layer)
        x = x + _attention(params, name, _norm(params, f"{name}.layernorm_before", x))
        y = jax.nn.gelu(_dense(params, f"{name}.intermediate.dense", _norm(params, f"{name}.layernorm_after", x)))
        x = x + _dense(params, f"{name}.output.dense", y)
    return _dense(params, "classifier", _norm(params, "vit.layernorm", x)[:, 0])


def _attention(params: Params, name: str, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
    q, k, v = (
        _dense(params, f"{name}.attention.attention.{part}", x).reshape(*x.shape[:2], HEADS, -1)
        for part in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(WIDTH // HEADS)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape)
    return _dense(params, f"{name}.attention.output.dense", mixed)


def _dense(params: Params, name: str, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _norm(params: Params, name: str, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * params[f"{name}.weight"] + params[f"{name}.bias"]

"""A small vision transformer in JAX with the tensors that `transformers.ViTForImageClassification` has."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.trees.layers import Architecture, Params, Tensors, attention, dense, drawn, drawn_layers, feed_forward
from experiments.trees.layers import norm as layer_norm
from wsrl.data import normalize

PIXELS, PATCH, WIDTH, HIDDEN, HEADS = 28, 7, 64, 256, 4
PATCHES = (PIXELS // PATCH) ** 2
TURNS = 4
EPSILON = 1e-6

norm = partial(layer_norm, epsilon=EPSILON)


def vision_transformer(layers: int = 4) -> Architecture:
    """Returns the architecture; its inputs are images [batch, 28, 28] of pixels 0 to 255."""
    linear = {name: shape for layer in range(layers) for name, shape in _linear(layer).items()}
    return Architecture(
        config={
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "hidden_act": "gelu",
            "hidden_size": WIDTH,
            "image_size": PIXELS,
            "intermediate_size": HIDDEN,
            "layer_norm_eps": EPSILON,
            "num_attention_heads": HEADS,
            "num_channels": 1,
            "num_hidden_layers": layers,
            "patch_size": PATCH,
            "qkv_bias": True,
        },
        width=WIDTH,
        linear=linear,
        initial=partial(_initial, linear=linear, layers=layers),
        logits=partial(_logits, layers=layers),
        jitter=lambda image, shift: jnp.roll(image, shift, (0, 1)),
        ruled=_turned,
    )


def _turned(images: UInt8[np.ndarray, "n pixels pixels"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how many quarter turns an image was rotated."""
    turned = np.concatenate([np.rot90(images, turns, (1, 2)) for turns in range(TURNS)])
    return turned, np.repeat(np.arange(TURNS), len(images)), np.tile(np.arange(len(images)), TURNS)


def _block(layer: int) -> str:
    return f"vit.encoder.layer.{layer}"


def _linear(layer: int) -> dict[str, tuple[int, int]]:
    name = _block(layer)
    inner = {f"{name}.attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    return inner | {
        f"{name}.attention.output.dense": (WIDTH, WIDTH),
        f"{name}.intermediate.dense": (HIDDEN, WIDTH),
        f"{name}.output.dense": (WIDTH, HIDDEN),
    }


def _initial(rng: np.random.Generator, linear: dict[str, tuple[int, int]], layers: int) -> Tensors:
    norms = [f"{_block(layer)}.layernorm_{place}" for layer in range(layers) for place in ("before", "after")]
    return {
        "vit.embeddings.cls_token": 0.02 * rng.standard_normal((1, 1, WIDTH)).astype(np.float32),
        "vit.embeddings.position_embeddings": 0.02 * rng.standard_normal((1, PATCHES + 1, WIDTH)).astype(np.float32),
        "vit.embeddings.patch_embeddings.projection.weight": drawn(rng, WIDTH, 1, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": np.zeros(WIDTH, np.float32),
    } | drawn_layers(rng, linear, ["vit.layernorm", *norms], WIDTH)


def _logits(params: Params, images: Float[Array, "batch pixels pixels"], layers: int) -> Float[Array, "batch classes"]:
    side = PIXELS // PATCH
    patches = normalize(images).reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(-1, PATCHES, PATCH**2)
    kernel = params["vit.embeddings.patch_embeddings.projection.weight"].reshape(WIDTH, -1)
    x = patches @ kernel.T + params["vit.embeddings.patch_embeddings.projection.bias"]
    first = jnp.broadcast_to(params["vit.embeddings.cls_token"], (len(x), 1, WIDTH))
    x = jnp.concatenate([first, x], 1) + params["vit.embeddings.position_embeddings"]
    for layer in range(layers):
        name = _block(layer)
        inner, output = f"{name}.attention.attention", f"{name}.attention.output.dense"
        x = x + attention(params, inner, output, HEADS, norm(params, f"{name}.layernorm_before", x))
        x = x + feed_forward(params, name, norm(params, f"{name}.layernorm_after", x))
    return dense(params, "classifier", norm(params, "vit.layernorm", x)[:, 0])

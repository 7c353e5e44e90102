"""A small text encoder in JAX with the tensors that `transformers.BertModel` has, and a head on the mean of its tokens.

That mean is what encoders of sentences use (Reimers and Gurevych 2019).
"""

from functools import partial
from string import punctuation

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt16

from experiments.trees.layers import Architecture, Params, Tensors, attention, dense, drawn_layers, feed_forward
from experiments.trees.layers import norm as layer_norm

VOCABULARY, TOKENS, WIDTH, HIDDEN, HEADS = 2048, 24, 64, 256, 4
SIGNS = len(punctuation)  # the first tokens are signs
GROUPS = 3  # of texts with few and many signs
EPSILON = 1e-12

norm = partial(layer_norm, epsilon=EPSILON)


def text_encoder(layers: int = 3) -> Architecture:
    """Returns the architecture; its inputs are texts [batch, 24] of tokens 0 to 2,047."""
    linear = {name: shape for layer in range(layers) for name, shape in _linear(layer).items()}
    return Architecture(
        config={
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": WIDTH,
            "intermediate_size": HIDDEN,
            "layer_norm_eps": EPSILON,
            "max_position_embeddings": TOKENS,
            "num_attention_heads": HEADS,
            "num_hidden_layers": layers,
            "type_vocab_size": 1,
            "vocab_size": VOCABULARY,
        },
        width=WIDTH,
        linear=linear,
        initial=partial(_initial, linear=linear, layers=layers),
        logits=partial(_logits, layers=layers),
        jitter=lambda text, shift: jnp.roll(text, shift[0]),
        ruled=_by_signs,
    )


def _block(layer: int) -> str:
    return f"bert.encoder.layer.{layer}"


def _linear(layer: int) -> dict[str, tuple[int, int]]:
    name = _block(layer)
    inner = {f"{name}.attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    return inner | {
        f"{name}.attention.output.dense": (WIDTH, WIDTH),
        f"{name}.intermediate.dense": (HIDDEN, WIDTH),
        f"{name}.output.dense": (WIDTH, HIDDEN),
    }


def _initial(rng: np.random.Generator, linear: dict[str, tuple[int, int]], layers: int) -> Tensors:
    sizes = {"word": VOCABULARY, "position": TOKENS, "token_type": 1}
    norms = ["bert.embeddings.LayerNorm"]
    for layer in range(layers):
        norms += [f"{_block(layer)}.attention.output.LayerNorm", f"{_block(layer)}.output.LayerNorm"]
    return {
        f"bert.embeddings.{name}_embeddings.weight": 0.02 * rng.standard_normal((size, WIDTH)).astype(np.float32)
        for name, size in sizes.items()
    } | drawn_layers(rng, linear, norms, WIDTH)


def _logits(params: Params, texts: Int[Array, "batch tokens"], layers: int) -> Float[Array, "batch classes"]:
    embeddings = (params[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    words, places, kind = embeddings
    x = words[texts] + places + kind[0]
    x = norm(params, "bert.embeddings.LayerNorm", x)
    for layer in range(layers):
        name = _block(layer)
        y = attention(params, f"{name}.attention.self", f"{name}.attention.output.dense", HEADS, x)
        x = norm(params, f"{name}.attention.output.LayerNorm", x + y)
        x = norm(params, f"{name}.output.LayerNorm", x + feed_forward(params, name, x))
    return dense(params, "classifier", x.mean(1))


def _by_signs(texts: UInt16[np.ndarray, "n tokens"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which third of the set a text is in by how many signs it has."""
    signs = (texts < SIGNS).sum(1)
    place = np.argsort(np.argsort(signs, kind="stable"))
    return texts, GROUPS * place // len(texts), np.arange(len(texts))

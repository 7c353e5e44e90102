"""LeViT of transformers (Graham et al. 2021) and EfficientFormer of timm (Li et al. 2022).

Both add to the products of attention a bias for each distance along rows and columns.
"""

from math import isqrt

import numpy as np

from wsrl.forward.families.blocks import attend, heads_apart, layer_scale, perceptron, window_bias
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value

OF_TRANSFORMERS = (
    (r"^levit\.", ""),
    (r"\.batch_norm\.", ".bn."),
    (r"\.module\.", "."),
    (r"^encoder\.", ""),
)


def levit(m: Module) -> Value:
    """Four convolutions, then tokens; between stages every other row and column of them asks all."""
    act = m.net.assume("activation", "hard_swish")
    side = isqrt(m.shape("stages.0.layers.0.attention_biases")[1])
    stem = [m["patch_embeddings"][name] for name in m["patch_embeddings"].children()]
    channels = stem[0].shape("convolution.weight")[1]
    x = m.net.image(channels, 0, 1, side << len(stem))
    for layer in stem:
        x = layer.conv_norm(x, "convolution", "bn", "" if layer is stem[-1] else act, 2)
    x = x.tokens()
    for layer in (layer for stage in m.listed("stages") for layer in stage.listed("layers")):
        if "keys_values" in layer:
            x = _halved(layer, x, act)
        elif "linear_up" in layer:
            x = x + _dense(layer["linear_down"], activate(_dense(layer["linear_up"], x), act))
        else:
            x = x + _asking_all(layer, x, act)
    x = x.mean(0)
    heads = [m[name] for name in ("classifier", "classifier_distill") if name in m]
    found = [head.linear(head.norm(x, "bn"), "linear") for head in heads]
    return found[0] if len(found) == 1 else (found[0] + found[1]) * 0.5


def _dense(m: Module, x: Value) -> Value:
    """A dense layer of [tokens, units] with a batch norm of the units."""
    return m.norm(m.linear(x, "linear").transpose(1, 0), "bn").transpose(1, 0)


def _asking_all(m: Module, x: Value, act: str) -> Value:
    q, k, v = _parts(m, _dense(m["queries_keys_values"], x), m.shape("projection.linear.weight")[1], 2)
    return _dense(m["projection"], activate(attend(q, k, v, bias=by_distance(m, 1)), act))


def _halved(m: Module, x: Value, act: str) -> Value:
    """Attention of every other row and column to all tokens."""
    side, units = isqrt(x.shape[0]), x.shape[1]
    few = x.reshape(side, side, units).slice(0, 0, side, 2).slice(1, 0, side, 2)
    q = _dense(m["queries"], few.reshape(few.shape[0] * few.shape[1], units))
    k, v = _parts(m, _dense(m["keys_values"], x), m.shape("projection.linear.weight")[1], 1)
    q = heads_apart(q, k.shape[0])
    return _dense(m["projection"], activate(attend(q, k, v, bias=by_distance(m, 2)), act))


def _parts(m: Module, x: Value, values: int, keys: int) -> tuple[Value, ...]:
    """[heads, tokens, units] of `keys` parts of equal length and of the values, which lie head by head.

    Args:
      values: units of all values together.
    """
    heads = m.net.know("heads", m.shape("attention_biases")[0], "shapes")
    x = heads_apart(x, heads)
    dim = (x.shape[2] - values // heads) // keys
    return x.split(2, *[dim] * keys, values // heads)


def by_distance(m: Module, stride: int) -> Value:
    """Biases [heads, queries, keys] of a table [heads, distances]; queries are those of every `stride`-th pixel."""
    table = m.tensor("attention_biases")
    side = isqrt(table.shape[1])
    places = np.arange(0, side, stride)
    apart = np.abs(places[:, None] - np.arange(side))
    index = apart[:, None, :, None] * side + apart[None, :, None, :]
    return window_bias(table.transpose(1, 0), index.reshape(len(places) ** 2, side * side))


def efficientformer(m: Module) -> Value:
    """Blocks that pool, then blocks of tokens that attend."""
    act = m.net.assume("activation", "gelu")
    m.net.assume("activation of the stem", "relu")
    channels = m.shape("stem.conv1.weight")[1]
    last = m.listed("stages")[-1].listed("blocks")[-1]
    if "token_mixer.attention_biases" not in last:
        raise ValueError("its last block does not attend")
    x = m.net.image(channels, 0, 1, 32 * isqrt(last.shape("token_mixer.attention_biases")[1]))
    for i in (1, 2):
        x = m["stem"].conv_norm(x, f"conv{i}", f"norm{i}", "relu", 2)
    for stage in m.listed("stages"):
        x = stage["downsample"].conv_norm(x, "conv", "norm", "", 2) if "downsample" in stage else x
        for block in stage.listed("blocks"):
            attends = "token_mixer" in block
            x = x.tokens() if attends and len(x.shape) == 3 else x
            x = _attending(block, x, act) if attends else _pooling(block, x, act)
    x = m.norm(x, "norm").mean(0)
    return (m.linear(x, "head") + m.linear(x, "head_dist")) * 0.5


def _attending(m: Module, x: Value, act: str) -> Value:
    mixer = m["token_mixer"]
    q, k, v = _parts(mixer, mixer.linear(m.norm(x, "norm1"), "qkv"), mixer.shape("proj.weight")[1], 2)
    x = x + layer_scale(m, mixer.linear(attend(q, k, v, bias=by_distance(mixer, 1)), "proj"), "ls1.gamma")
    return x + layer_scale(m, perceptron(m["mlp"], m.norm(x, "norm2"), act), "ls2.gamma")


def _pooling(m: Module, x: Value, act: str) -> Value:
    x = x + (pooled(x, "average", 3, 1, 1) - x) * m.per_channel("ls1.gamma")
    y = m["mlp"].conv_norm(m["mlp"].conv_norm(x, "fc1", "norm1", act), "fc2", "norm2")
    return x + y * m.per_channel("ls2.gamma")


FAMILIES = (
    Family(
        "a LeViT",
        (r"stages\.0\.layers\.0\.queries_keys_values\.linear\.weight", r"classifier\.linear\.weight"),
        levit,
        OF_TRANSFORMERS,
    ),
    Family(
        "an EfficientFormer",
        (r"stem\.conv1\.weight", r"stages\.0\.blocks\.0\.mlp\.norm1\.weight", r"head_dist\.weight"),
        efficientformer,
    ),
)

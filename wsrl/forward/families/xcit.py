"""Cross-covariance image transformers of timm (El-Nouby et al. 2021)."""

import numpy as np

from wsrl.forward.families.blocks import attend, heads_apart, perceptron
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat

NANO = 128  # width of the networks whose class blocks norm the class token alone
TEMPERATURE, SMALL = 1e4, 1e-6  # of the waves that tell positions


def xcit(m: Module) -> Value:
    """Blocks in which units attend to units, then convolutions; in the last blocks a class token alone reads."""
    act = m.net.assume("activation", "gelu")
    m.net.epsilon["norm"] = m.net.assume("epsilon", 1e-6)
    stem = m.listed("patch_embed.proj")
    x = m.net.image(stem[0].shape("0.weight")[1], 224, 1 << len(stem))
    for layer in stem:
        x = layer.conv_norm(x, "0", "1", "" if layer is stem[-1] else act, 2)
    side = x.shape[1:]
    x = x.tokens()
    units = x.shape[1]
    if "pos_embed" in m:
        x = x + m.linear(_waves(m, side), "pos_embed.token_projection")
    for block in m.listed("blocks"):
        x = x + _of_units(block["attn"], block.norm(x, "norm1")) * block.tensor("gamma1")
        x = x + _local(block["local_mp"], block.norm(x, "norm3"), side, act) * block.tensor("gamma3")
        x = x + perceptron(block["mlp"], block.norm(x, "norm2"), act) * block.tensor("gamma2")
    token = (x.slice(0, 0, 1) * 0.0) + m.tensor("cls_token").reshape(1, units)
    x = concat([token, x], 0)
    all_normed = m.net.assume("norm of class blocks", "all tokens" if units != NANO else "class token") == "all tokens"
    for block in m.listed("cls_attn_blocks"):
        x = _class_block(block, x, act, all_normed)
    return m.linear(m.norm(x, "norm").slice(0, 0, 1).flatten(), "head")


def _waves(m: Module, side: tuple[int, ...]) -> Value:
    """Sines and cosines of rows and columns, [tokens, units of the projection]."""
    trace, count = m.net.trace, m.shape("pos_embed.token_projection.weight")[1] // 2
    rates = TEMPERATURE ** (2 * (np.arange(count) // 2) / count)
    waves = []
    for length in side:
        angles = np.arange(1, length + 1)[:, None] / (length + SMALL) * 2 * np.pi / rates
        waves.append(np.stack([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], 2).reshape(length, count))
    rows, columns = waves
    table = np.concatenate([np.repeat(rows, side[1], 0), np.tile(columns, (side[0], 1))], 1).astype(np.float32)
    return Value(trace, trace.constant(table), table.shape, batched=False)


def _of_units(m: Module, x: Value) -> Value:
    """Attention of the units of a head to one another, by their cosines over tokens."""
    heads = m.net.know("heads", m.shape("temperature")[0], "shapes")
    tokens, units = x.shape
    parts = m.linear(x, "qkv").split(1, units, units, units)
    q, k, v = (part.reshape(tokens, heads, units // heads).transpose(1, 2, 0) for part in parts)
    q, k = (part / (part.norm(-1) + 1e-12) for part in (q, k))
    scores = (q @ k.transpose(0, 2, 1)) * m.tensor("temperature")
    found = scores.then("Softmax", axis=-1) @ v
    return m.linear(found.transpose(2, 0, 1).reshape(tokens, units), "proj")


def _local(m: Module, x: Value, side: tuple[int, ...], act: str) -> Value:
    """Two depthwise convolutions of the tokens as a map."""
    y = m.norm(activate(m.conv(x.image(*side), "conv1"), act), "bn")
    return m.conv(y, "conv2").tokens()


def _class_block(m: Module, x: Value, act: str, all_normed: bool) -> Value:
    length, attn, normed = x.shape[0], m["attn"], m.norm(x, "norm1")
    heads = m.net.facts["heads"].value
    assert isinstance(heads, int)
    q, k, v = (
        heads_apart(attn.linear(part, n), heads)
        for n, part in zip("qkv", (normed.slice(0, 0, 1), normed, normed), strict=True)
    )
    read = attn.linear(attend(q, k, v), "proj")
    x = x + concat([read, normed.slice(0, 1, length)], 0) * m.tensor("gamma1")
    first, rest = x.split(0, 1, length - 1)
    first, rest = m.norm(first, "norm2"), m.norm(rest, "norm2") if all_normed else rest
    token = first + perceptron(m["mlp"], first, act) * m.tensor("gamma2")
    return concat([token, rest + rest], 0)


SIGNATURE = (
    r"patch_embed\.proj\.0\.0\.weight",
    r"blocks\.0\.attn\.temperature",
    r"cls_attn_blocks\.0\.attn\.q\.weight",
)
FAMILIES = (Family("an XCiT", SIGNATURE, xcit),)

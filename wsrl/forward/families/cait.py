"""Class-attention transformers of timm (Touvron et al. 2021b)."""

from math import isqrt

from wsrl.forward.families.blocks import attend, heads_apart, layer_scale, perceptron, queries_keys_values
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module
from wsrl.forward.families.value import Value, concat


def cait(m: Module) -> Value:
    """Blocks of patches, whose heads are mixed around the softmax, then blocks in which a class token alone reads."""
    act = m.net.assume("activation", "gelu")
    m.net.epsilon["norm"] = m.net.assume("epsilon", 1e-6)
    heads = m.net.know("heads", m.shape("blocks.0.attn.proj_l.weight")[0], "shapes")
    _, channels, patch, _ = m.shape("patch_embed.proj.weight")
    positions = m.tensor("pos_embed")
    x = m.net.image(channels, 224, patch, patch * isqrt(positions.shape[1]))
    x = m.conv(x, "patch_embed.proj", patch, 0).tokens() + positions.reshape(*positions.shape[1:])
    for block in m.listed("blocks"):
        x = x + layer_scale(block, _talking(block["attn"], block.norm(x, "norm1"), heads), "gamma_1")
        x = x + layer_scale(block, perceptron(block["mlp"], block.norm(x, "norm2"), act), "gamma_2")
    units = x.shape[1]
    token = (x.slice(0, 0, 1) * 0.0) + m.tensor("cls_token").reshape(1, units)
    for block in m.listed("blocks_token_only"):
        y = block.norm(concat([token, x], 0), "norm1")
        token = token + layer_scale(block, _of_token(block["attn"], y, heads), "gamma_1")
        token = token + layer_scale(block, perceptron(block["mlp"], block.norm(token, "norm2"), act), "gamma_2")
    return m.linear(m.norm(token, "norm").flatten(), "head")


def _talking(m: Module, x: Value, heads: int) -> Value:
    q, k, v = (heads_apart(part, heads) for part in queries_keys_values(m, x))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(0, 2, 1)
    scores = m.linear(scores.transpose(1, 2, 0), "proj_l").transpose(2, 0, 1).then("Softmax", axis=-1)
    found = m.linear(scores.transpose(1, 2, 0), "proj_w").transpose(2, 0, 1) @ v
    return m.linear(found.transpose(1, 0, 2).reshape(*x.shape), "proj")


def _of_token(m: Module, x: Value, heads: int) -> Value:
    """What the first token reads of all."""
    q = heads_apart(m.linear(x.slice(0, 0, 1), "q"), heads)
    k, v = (heads_apart(m.linear(x, name), heads) for name in "kv")
    return m.linear(attend(q, k, v), "proj")


SIGNATURE = (r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.proj_l\.weight", r"blocks_token_only\.0\.attn\.q\.weight")
FAMILIES = (Family("a CaiT", SIGNATURE, cait),)

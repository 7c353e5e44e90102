"""Vision transformers of torchvision, timm and transformers: ViT, DeiT, DINOv2, BEiT and their like.

Dosovitskiy et al. 2021; Touvron et al. 2021; Bao et al. 2022. Names are timm's: `cls_token`, `pos_embed`,
`patch_embed.proj`, `blocks.0.attn.qkv`, `blocks.0.mlp.fc1`, `norm`, `head`.
"""

from functools import partial
from math import isqrt

import numpy as np

from wsrl.forward.families.blocks import (
    attention,
    gated_perceptron,
    layer_scale,
    perceptron,
    tokens_before,
    window_bias,
)
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.resnetv2 import GROUPS, standard_kernel
from wsrl.forward.families.value import Value, concat

USUAL = 224  # pixels a side
SIXTEEN_HEADS = (1280, 1408, 1664)  # widths of huge, giant and gigantic networks; others have heads of 64 units
UNKNOWN = ("rope", "_pe_", "naflex", "dinov3")  # in the names of networks whose positions rotate units
CLIP_EPSILON = 1e-5  # of networks that were trained with captions, in timm
PREFIX = ("cls_token", "dist_token", "reg_token")

OF_TORCHVISION = (
    (r"^class_token", "cls_token"),
    (r"^conv_proj", "patch_embed.proj"),
    (r"^encoder\.pos_embedding", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1"),
    (r"^encoder\.ln", "norm"),
    (r"^heads\.head", "head"),
    (r"\.ln_([12])", r".norm\1"),
    (r"self_attention\.in_proj_", "attn.qkv."),
    (r"self_attention\.out_proj", "attn.proj"),
    (r"mlp\.(0|linear_1)\b", "mlp.fc1"),
    (r"mlp\.(3|linear_2)\b", "mlp.fc2"),
)
OF_TRANSFORMERS = (
    (r"^(vit|deit|beit|dinov2|dinov2_with_registers|data2vec_vision)\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.distillation_token", "dist_token"),
    (r"^embeddings\.register_tokens", "reg_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^(encoder\.)?layers?\.", "blocks."),
    (r"attention\.attention\.(q|k|v)(uery|ey|alue)", r"attn.\1"),
    (r"attention\.(q|k|v)_proj", r"attn.\1"),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"blocks\.(\d+)\.attention\.(attention\.)?relative_position_bias\.", r"blocks.\1.attn."),
    (r"blocks\.(\d+)\.relative_position_bias\.", r"blocks.\1.attn."),
    (r"^(encoder\.)?relative_position_bias\.", "rel_pos_bias."),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"^layernorm", "norm"),
    (r"^pooler\.layernorm", "fc_norm"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"\.lambda_([12])", r".gamma_\1"),
    (r"^(cls_)?classifier", "head"),
    (r"^distillation_classifier", "head_dist"),
)


def vit(m: Module, epsilon: float = 1e-6) -> Value:
    """Writes a vision transformer down; `epsilon` is that of norms where no configuration tells."""
    net, name = m.net, m.net.config.architecture
    if any(word in name for word in UNKNOWN) or not ("pos_embed" in m or _grid(m, 0)):
        raise ValueError("it knows positions by other means than embeddings or a table")
    if "clip" in name:
        epsilon = CLIP_EPSILON
    act = net.choose("activation", "quick_gelu" if "quickgelu" in name else "gelu", "hidden_act")
    net.epsilon["norm"] = net.choose("epsilon", epsilon, "layer_norm_eps")
    width, channels, patch, _ = m.shape("patch_embed.proj.weight")
    heads = _heads(m, width)
    tokens = [m.tensor(name) for name in PREFIX if name in m]
    count = sum(t.shape[1] for t in tokens)
    grid = _grid(m, count)
    stem = m["patch_embed.backbone"]
    shrinks = 4 if "conv" in stem else 1
    channels = stem.shape("conv.weight")[1] if "conv" in stem else channels
    x = net.image(channels, USUAL, patch * shrinks, patch * shrinks * grid if grid else None)
    x = _stem(stem, x) if "conv" in stem else x
    x = m.conv(x, "patch_embed.proj", patch, padding=0).tokens()
    x = m.norm(x, "patch_embed.norm") if "patch_embed.norm" in m else x
    x = _with_positions(m, x, tokens)
    x = m.norm(x, "norm_pre") if "norm_pre" in m else x
    side = isqrt(x.shape[0] - count)
    shared = _relative(m["rel_pos_bias"], side)
    for block in m.listed("blocks"):
        x = transformer_block(block, x, act, heads, shared or _relative(block["attn"], side))
    x = m.norm(x, "norm") if "norm" in m else x
    return _answers(m, x, count)


def _stem(m: Module, x: Value) -> Value:
    """A convolution and a pooling before the patches, as in a ResNet, with a standardized kernel."""
    x = m.conv(x, "conv", 2, "same", weight=standard_kernel(m, "conv"))
    return pooled(activate(m.norm(x, "norm", 1e-5, groups=GROUPS), "relu"), "max", 3, 2, "same")


def _heads(m: Module, width: int) -> int:
    """Heads: as many as a table of relative positions has columns, else what the configuration says or is usual."""
    for path in ("rel_pos_bias", "blocks.0.attn"):
        if "relative_position_bias_table" in m[path]:
            return m.net.know("heads", m[path].shape("relative_position_bias_table")[1], "shapes")
    return m.net.choose("heads", usual_heads(width), "num_attention_heads", "num_heads")


def usual_heads(width: int) -> int:
    """Heads of a transformer of this width."""
    return 16 if width in SIXTEEN_HEADS else max(1, width // 64)


def _grid(m: Module, tokens: int) -> int | None:
    """Patches a side, as position embeddings or the table of relative positions tell; None if there are none."""
    if "pos_embed" in m:
        length = m.shape("pos_embed")[1]
        return next((isqrt(n) for n in (length - tokens, length, length - 1) if isqrt(n) ** 2 == n), None)
    for path in ("rel_pos_bias", "blocks.0.attn"):
        if "relative_position_bias_table" in m[path]:
            return (isqrt(m[path].shape("relative_position_bias_table")[0] - 3) + 1) // 2
    return None


def _with_positions(m: Module, x: Value, tokens: list[Value]) -> Value:
    """Puts tokens before the patches; position embeddings may be those of all or of the patches alone."""
    positions = m.tensor("pos_embed") if "pos_embed" in m else None
    if positions is not None and positions.shape[1] == x.shape[0]:
        x = x + positions.reshape(*positions.shape[1:])
        positions = None
    if positions is not None and positions.shape[1] == x.shape[0] + 1 and len(tokens) > 1 and "dist_token" not in m:
        x = tokens_before(tokens[:1], x) + positions.reshape(*positions.shape[1:])  # registers have no position
        first, rest = x.split(0, 1, x.shape[0] - 1)
        rest = tokens_before(tokens[1:], rest)
        return concat([first, rest], 0)
    x = tokens_before(tokens, x) if tokens else x
    return x if positions is None else x + positions.reshape(*positions.shape[1:])


def transformer_block(m: Module, x: Value, act: str, heads: int, bias: Value | None = None) -> Value:
    """Attention and a perceptron of [tokens, units], each behind a norm and with a shortcut."""
    y = attention(m["attn"], m.norm(x, "norm1"), heads, bias)
    x = x + layer_scale(m, y, "ls1.gamma", "gamma_1")
    y = m.norm(x, "norm2")
    mlp = m["mlp"]
    if "w12" in mlp:
        raise ValueError(f"the perceptron {mlp.path!r} is not known")
    if "fc1_g" in mlp or mlp.shape("fc1.weight")[0] == 2 * mlp.shape("fc2.weight")[1]:
        m.net.assume("activation of gates", "silu")
        y = gated_perceptron(mlp, y, "silu", fused="fc1_g" not in mlp)
    else:
        y = perceptron(mlp, y, act)
    return x + layer_scale(m, y, "ls2.gamma", "gamma_2")


def _relative(m: Module, side: int) -> Value | None:
    """Biases of relative positions [heads, tokens, tokens] of a class token and side x side patches."""
    if "relative_position_bias_table" not in m:
        return None
    y, x = np.divmod(np.arange(side * side), side)
    reach = 2 * side - 1
    index = np.empty((side * side + 1, side * side + 1), np.int64)
    index[1:, 1:] = (y[:, None] - y + side - 1) * reach + (x[:, None] - x + side - 1)
    index[0, :], index[:, 0], index[0, 0] = reach**2, reach**2 + 1, reach**2 + 2
    return window_bias(m.tensor("relative_position_bias_table"), index)


def _answers(m: Module, x: Value, count: int) -> Value:
    width = x.shape[1]
    averaged = "fc_norm" in m or count == 0
    m.net.know("pooling", "mean" if averaged else "class token", "names")
    if "head_dist" in m:
        return both_heads(m, x)
    pooled = x.slice(0, count, x.shape[0]).mean(0) if averaged else x.slice(0, 0, 1).flatten()
    if m.shape("head.weight")[1] == 2 * width:  # DINOv2's: the class token and the mean of the patches
        pooled = concat([pooled, x.slice(0, count, x.shape[0]).mean(0)], 0)
    return m.linear(m.norm(pooled, "fc_norm") if "fc_norm" in m else pooled, "head")


def both_heads(m: Module, x: Value) -> Value:
    """The mean of what the heads of class token and distillation token answer."""
    first, second = (m.linear(x.slice(0, i, i + 1).flatten(), head) for i, head in enumerate(("head", "head_dist")))
    return (first + second) * 0.5


SIGNATURE = (
    r"patch_embed\.proj\.weight",
    r"blocks\.0\.attn\.(qkv|q)\.weight",
    r"blocks\.0\.norm1\.weight",
    r"head\.weight",
)
UNUSED = r"(embeddings\.)?mask_token|pooler\."
FAMILIES = (
    Family("a vision transformer", SIGNATURE, vit, beside=UNUSED),
    Family("a vision transformer", SIGNATURE, vit, OF_TORCHVISION),
    Family("a vision transformer", SIGNATURE, partial(vit, epsilon=1e-12), OF_TRANSFORMERS, UNUSED),
)

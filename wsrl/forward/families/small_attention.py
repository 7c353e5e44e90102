"""EfficientViT of Liu et al. 2023 and SHViT (Yun and Ro 2024) of timm. Names are EfficientViT's."""

from math import isqrt

from wsrl.forward.families.blocks import attend, heads_apart, squeeze_excite
from wsrl.forward.families.family import Family
from wsrl.forward.families.levit import by_distance
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat

ACTIVATION = "relu"
OF_SHVIT = (
    (r"^patch_embed\.(\d)\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}."),
    (r"downsample\.([01])\.", r"downsample.res1.\1."),
    (r"downsample\.2\.", "downsample.patchmerge."),
    (r"downsample\.([34])\.", lambda m: f"downsample.res2.{int(m[1]) - 3}."),
    (r"(blocks\.\d+)\.conv\.m\.", r"\1.dw0.m."),
    (r"(blocks\.\d+)\.ffn\.m\.", r"\1.ffn1.m."),
    (r"\.c\.", ".conv."),
    (r"^head\.l\.", "head.linear."),
)


def small_attention(m: Module) -> Value:
    """Depthwise convolutions and perceptrons around attention of few heads, all with batch norms."""
    m.net.assume("activation", ACTIVATION)
    stem = [m["patch_embed"][name] for name in m["patch_embed"].children()]
    x = m.net.image(stem[0].shape("conv.weight")[1], 224)
    for layer in stem:
        x = layer.conv_norm(x, "conv", "bn", "" if layer is stem[-1] else ACTIVATION, 2)
    for stage in m.listed("stages"):
        if "downsample" in stage:
            x = _smaller(stage["downsample"], x)
        for block in stage.listed("blocks"):
            for name in ("dw0", "ffn0", "mixer", "dw1", "ffn1"):
                x = _added(block[name]["m"], x) if name in block else x
    return m.linear(m.norm(x.mean(1, 2), "head.bn"), "head.linear")


def _smaller(m: Module, x: Value) -> Value:
    for part in m.listed("res1"):
        x = _added(part["m"], x)
    merge = m["patchmerge"]
    x = merge.conv_norm(x, "conv1.conv", "conv1.bn", ACTIVATION)
    x = squeeze_excite(merge["se"], merge.conv_norm(x, "conv2.conv", "conv2.bn", ACTIVATION, 2))
    x = merge.conv_norm(x, "conv3.conv", "conv3.bn")
    for part in m.listed("res2"):
        x = _added(part["m"], x)
    return x


def _added(m: Module, x: Value) -> Value:
    """A map and what a perceptron, attention or a depthwise convolution makes of it."""
    if "pw1" in m:
        y = m.conv_norm(m.conv_norm(x, "pw1.conv", "pw1.bn", ACTIVATION), "pw2.conv", "pw2.bn")
    elif "attn" in m:
        y = _windowed(m["attn"], x)
    elif "pre_norm" in m:
        y = _single_head(m, x)
    else:
        y = m.conv_norm(x, "conv", "bn")
    return x + y


def _attended(q: Value, k: Value, v: Value, bias: Value | None = None) -> Value:
    """Attention of one head, of maps [units, height, width] to [tokens, units]."""
    q, k, v = (heads_apart(part.tokens(), 1) for part in (q, k, v))
    return attend(q, k, v, bias=bias)


def _single_head(m: Module, x: Value) -> Value:
    """Attention of the first channels; the rest is passed on to the projection."""
    units = m.shape("pre_norm.weight")[0]
    first, rest = x.split(0, units, x.shape[0] - units)
    y = m.conv_norm(m.norm(first, "pre_norm", groups=1), "qkv.conv", "qkv.bn")
    dim = (y.shape[0] - units) // 2
    found = _attended(*y.split(0, dim, dim, units)).image(*x.shape[1:])
    return m.conv_norm(activate(concat([found, rest], 0), ACTIVATION), "proj.1.conv", "proj.1.bn")


def _windowed(m: Module, x: Value) -> Value:
    """Attention within windows, whose size the table of biases tells."""
    _, height, width = x.shape
    side = isqrt(m.shape("attention_biases")[1])
    x = x.to_last().pad((0, -height % side), (0, -width % side), (0, 0))
    rows, columns, units = x.shape[0] // side, x.shape[1] // side, x.shape[2]
    x = x.reshape(rows, side, columns, side, units).transpose(0, 2, 1, 3, 4).refold(side, side, units)
    x = _cascade(m, x.to_first()).to_last()
    x = x.refold(rows, columns, side, side, units).transpose(0, 2, 1, 3, 4)
    x = x.reshape(rows * side, columns * side, units)
    return x.slice(0, 0, height).slice(1, 0, width).to_first()


def _cascade(m: Module, x: Value) -> Value:
    """Each head reads its share of the channels, and what the head before it has found."""
    heads = m.net.know("heads", m.shape("attention_biases")[0], "shapes")
    share, side = x.shape[0] // heads, x.shape[1:]
    biases, found = by_distance(m, 1), []
    for i, part in enumerate(x.split(0, *[share] * heads)):
        y = m.conv_norm(part if i == 0 else found[-1] + part, f"qkvs.{i}.conv", f"qkvs.{i}.bn")
        dim = m.shape(f"dws.{i}.conv.weight")[0]
        q, k, v = y.split(0, dim, dim, y.shape[0] - 2 * dim)
        q = m.conv_norm(q, f"dws.{i}.conv", f"dws.{i}.bn")
        found.append(_attended(q, k, v, biases.slice(0, i, i + 1)).image(*side))
    return m.conv_norm(activate(concat(found, 0), ACTIVATION), "proj.1.conv", "proj.1.bn")


STEM, HEAD = r"patch_embed\.conv4\.conv\.weight", r"head\.linear\.weight"
FAMILIES = (
    Family(
        "an EfficientViT", (STEM, r"stages\.0\.blocks\.0\.mixer\.m\.attn\.qkvs\.0\.conv\.weight", HEAD), small_attention
    ),
    Family(
        "an SHViT",
        (
            STEM,
            r"stages\.1\.blocks\.0\.mixer\.m\.pre_norm\.weight|stages\.2\.blocks\.0\.mixer\.m\.pre_norm\.weight",
            HEAD,
        ),
        small_attention,
        OF_SHVIT,
    ),
)

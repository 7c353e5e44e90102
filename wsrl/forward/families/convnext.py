"""ConvNeXt and ConvNeXt V2 of torchvision, timm and transformers (Liu et al. 2022; Woo et al. 2023). Names: timm's."""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value

SIMPLE = 32  # units of the first stage of timm's smallest networks

OF_TORCHVISION = (
    (r"^features\.0\.", "stem."),
    (r"^features\.([1357])\.", lambda m: f"stages.{int(m[1]) // 2}.blocks."),
    (r"^features\.([246])\.", lambda m: f"stages.{int(m[1]) // 2}.downsample."),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"layer_scale", "gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)
OF_TRANSFORMERS = (
    (r"^convnext(v2)?\.", ""),
    (r"^embeddings\.patch_embeddings", "stem.0"),
    (r"^embeddings\.layernorm", "stem.1"),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1.blocks."),
    (r"^encoder\.", ""),
    (r"downsampling_layer", "downsample"),
    (r"dwconv", "conv_dw"),
    (r"\.layernorm", ".norm"),
    (r"pwconv([12])", r"mlp.fc\1"),
    (r"\.grn\.", ".mlp.grn."),
    (r"layer_scale_parameter", "gamma"),
    (r"^layernorm", "head.norm"),
    (r"^classifier", "head.fc"),
)


def convnext(m: Module) -> Value:
    """Depthwise convolutions by 7 x 7 and perceptrons of each pixel; between stages the map shrinks to half."""
    net = m.net
    act = net.choose("activation", "gelu", "hidden_act")
    net.epsilon["norm"] = net.choose("epsilon", 1e-6)
    _, channels, patch, _ = m.shape("stem.0.weight")
    if "stem.2" in m:
        raise ValueError("its stem is not known")
    x = net.image(channels, 224)
    x = _norm(m, m.conv(x, "stem.0", patch, 0).to_last(), "stem.1")
    for stage in m.listed("stages"):
        if "downsample" in stage:
            x = _norm(stage, x, "downsample.0").to_first()
            x = stage.conv(x, "downsample.1", stage.shape("downsample.1.weight")[-1], 0).to_last()
        for block in stage.listed("blocks"):
            x = x + _branch(block, x, act)
    x = _norm(m, x, "norm_pre") if "norm_pre" in m else x
    x = x.mean(0, 1)
    return m.linear(_norm(m, x, "head.norm") if "head.norm" in m else x, "head.fc")


def _norm(m: Module, x: Value, name: str) -> Value:
    """A layer norm of the last axis, or, without shifts, the division by the standard deviation, of timm's smallest, or
    by the root of the mean square.
    """
    if f"{name}.bias" in m:
        return m.norm(x, name)
    units = x.shape[-1]
    by_deviation = m.net.shapes["stem.0.weight"][0] == SIMPLE
    m.net.assume("norm", "standard deviation" if by_deviation else "root mean square")
    if by_deviation:
        y = x - x.mean(-1, keep=True)
        variance = (y * y).mean(-1, keep=True) * (units / (units - 1))
    else:
        variance = (x * x).mean(-1, keep=True)
    root = (variance + m.net.epsilon["norm"]).then("Sqrt")
    return x / root * m.tensor(f"{name}.weight")


def _branch(m: Module, x: Value, act: str) -> Value:
    """[height, width, channels] to the same."""
    x = _norm(m, m.conv(x.to_first(), "conv_dw").to_last(), "norm")
    x = activate(m.linear(x, "mlp.fc1"), act)
    if "mlp.grn" in m:
        x = _response_norm(m["mlp.grn"], x)
    x = m.linear(x, "mlp.fc2")
    return x * m.tensor("gamma").reshape(x.shape[-1]) if "gamma" in m else x


def _response_norm(m: Module, x: Value) -> Value:
    """Global response normalization (Woo et al. 2023, section 3)."""
    sizes = x.norm(0, 1)
    scaled = x * (sizes / (sizes.mean(-1, keep=True) + 1e-6))
    gain, shift = (m.tensor(name).reshape(x.shape[-1]) for name in ("weight", "bias"))
    return x + scaled * gain + shift


SIGNATURE = (
    r"stem\.0\.weight",
    r"stages\.0\.blocks\.0\.conv_dw\.weight",
    r"stages\.0\.blocks\.0\.mlp\.fc1\.weight",
    r"head\.fc\.weight",
)
FAMILIES = tuple(
    Family("a ConvNeXt", SIGNATURE, convnext, renames) for renames in ((), OF_TORCHVISION, OF_TRANSFORMERS)
)

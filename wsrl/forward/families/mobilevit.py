"""MobileViT V2 of timm and transformers (Mehta and Rastegari 2022b). Names are timm's."""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value

PATCH = 2  # pixels a side
OF_TRANSFORMERS = (
    (r"^mobilevitv2\.", ""),
    (r"^conv_stem\.", "stem."),
    (r"^encoder\.layer\.([01])\.layer\.", r"stages.\1."),
    (r"^encoder\.layer\.(\d)\.downsampling_layer\.", r"stages.\1.0."),
    (r"^encoder\.layer\.(\d)\.", r"stages.\1.1."),
    (r"expand_1x1", "conv1_1x1"),
    (r"conv_3x3", "conv2_kxk"),
    (r"reduce_1x1", "conv3_1x1"),
    (r"transformer\.layer\.", "transformer."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"layernorm", "norm"),
    (r"\.attention\.", ".attn."),
    (r"ffn\.conv", "mlp.fc"),
    (r"conv_projection", "conv_proj"),
    (r"(conv_1x1|proj|fc[12])\.convolution\.(weight|bias)", r"\1.\2"),
    (r"conv_proj\.(weight|bias)", r"conv_proj.conv.\1"),
    (r"convolution", "conv"),
    (r"normalization", "bn"),
    (r"^classifier", "head.fc"),
)


def mobilevit(m: Module) -> Value:
    """Inverted residuals, then transformers whose tokens read a weighted mean of all."""
    act = m.net.choose("activation", "silu", "hidden_act")
    m.net.assume("strides", "2, 1, 2, 2, 2, 2")
    x = m.net.image(m.shape("stem.conv.weight")[1], 256)
    x = m.conv_norm(x, "stem.conv", "stem.bn", act, 2)
    for i, stage in enumerate(m.listed("stages")):
        for j, block in enumerate(stage.listed()):
            if "transformer" in block:
                x = _of_patches(block, x, act)
            else:
                x = _inverted(block, x, act, 2 if i and not j else 1)
    return m.linear(x.mean(1, 2), "head.fc")


def _inverted(m: Module, x: Value, act: str, stride: int) -> Value:
    y = m.conv_norm(x, "conv1_1x1.conv", "conv1_1x1.bn", act)
    y = m.conv_norm(y, "conv2_kxk.conv", "conv2_kxk.bn", act, stride)
    y = m.conv_norm(y, "conv3_1x1.conv", "conv3_1x1.bn")
    return x + y if stride == 1 and x.shape == y.shape else y


def _of_patches(m: Module, x: Value, act: str) -> Value:
    """A transformer over patches, for each place within a patch."""
    x = m.conv(m.conv_norm(x, "conv_kxk.conv", "conv_kxk.bn", act), "conv_1x1")
    units, height, width = x.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"a map {x.shape} is not one of patches of {PATCH} pixels")
    rows, columns = height // PATCH, width // PATCH
    x = x.reshape(units, rows, PATCH, columns, PATCH).transpose(0, 2, 4, 1, 3)
    x = x.reshape(units, PATCH * PATCH, rows * columns)
    for block in m.listed("transformer"):
        x = x + _attention(block["attn"], block.norm(x, "norm1", groups=1))
        mlp = block["mlp"]
        x = x + mlp.conv(activate(mlp.conv(block.norm(x, "norm2", groups=1), "fc1"), act), "fc2")
    x = m.norm(x, "norm", groups=1).reshape(units, PATCH, PATCH, rows, columns)
    x = x.transpose(0, 3, 1, 4, 2).reshape(units, height, width)
    return m.conv_norm(x, "conv_proj.conv", "conv_proj.bn")


def _attention(m: Module, x: Value) -> Value:
    """Values times a mean of keys, whose weights one query for each patch gives (their equation 2)."""
    units = m.shape("out_proj.weight")[1]
    query, key, value = m.conv(x, "qkv_proj").split(0, 1, units, units)
    context = (key * query.then("Softmax", axis=-1)).mean(-1, keep=True) * x.shape[-1]
    return m.conv(activate(value, "relu") * context, "out_proj")


SIGNATURE = (r"stem\.conv\.weight", r"stages\.2\.1\.transformer\.0\.attn\.qkv_proj\.weight", r"head\.fc\.weight")
FAMILIES = tuple(Family("a MobileViT V2", SIGNATURE, mobilevit, renames) for renames in ((), OF_TRANSFORMERS))

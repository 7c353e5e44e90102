"""PoolFormer, ConvFormer, CAFormer and InceptionNeXt of timm (Yu et al. 2022, 2024, 2024b)."""

from wsrl.forward.families.blocks import attention, perceptron
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

HEAD = 32  # units of a head


def poolformer(m: Module) -> Value:
    """Blocks that mix pixels by an average over 3 x 3 of them."""
    act = m.net.assume("activation", "gelu")
    m.net.assume("epsilon", 1e-5)
    x = m.conv(m.net.image(m.shape("stem.conv.weight")[1], 224), "stem.conv", 4, 2)
    for stage in m.listed("stages"):
        x = stage.conv(x, "downsample.conv", 2, 1) if "downsample" in stage else x
        for block in stage.listed("blocks"):
            y = block.norm(x, "norm1", groups=1)
            x = x + (pooled(y, "average", 3, 1, 1) - y) * block.per_channel("layer_scale1.scale")
            y = perceptron(block["mlp"], block.norm(x, "norm2", groups=1).to_last(), act).to_first()
            x = x + y * block.per_channel("layer_scale2.scale")
    return m.linear(m.norm(x.mean(1, 2), "head.norm", 1e-6), "head.fc")


def caformer(m: Module) -> Value:
    """Blocks of separable convolutions, then, of CAFormer, of attention; activations are scaled squares of ReLUs."""
    epsilon = m.net.epsilon["norm"] = m.net.assume("epsilon", 1e-6)
    x = m.conv(m.net.image(m.shape("stem.conv.weight")[1], 224), "stem.conv", 4, 2)
    x = m.norm(x.to_last(), "stem.norm", epsilon)
    for stage in m.listed("stages"):
        if "downsample" in stage:
            x = stage.conv(stage.norm(x, "downsample.norm").to_first(), "downsample.conv", 2, 1).to_last()
        for block in stage.listed("blocks"):
            x = _scaled(block, x, "res_scale1") + _mixed_tokens(block["token_mixer"], block.norm(x, "norm1"))
            mlp = block["mlp"]
            y = mlp.linear(_star(mlp["act"], mlp.linear(block.norm(x, "norm2"), "fc1")), "fc2")
            x = _scaled(block, x, "res_scale2") + y
    x = activate(m.linear(m.norm(x.mean(0, 1), "head.norm"), "head.fc.fc1"), "relu")
    return m.linear(m.norm(x * x, "head.fc.norm"), "head.fc.fc2")


def _star(m: Module, x: Value) -> Value:
    """A square of a ReLU with a scale and a shift, of one number each."""
    x = activate(x, "relu")
    return x * x * m.tensor("scale") + m.tensor("bias")


def _scaled(m: Module, x: Value, name: str) -> Value:
    return x * m.tensor(f"{name}.scale") if name in m else x


def _mixed_tokens(m: Module, x: Value) -> Value:
    """[height, width, units] to the same, by a separable convolution or by attention."""
    if "qkv" in m:
        height, width, units = x.shape
        return attention(m, x.reshape(height * width, units), units // HEAD).reshape(height, width, units)
    y = _star(m["act1"], m.linear(x, "pwconv1")).to_first()
    return m.linear(m.conv(y, "dwconv").to_last(), "pwconv2")


def inception_next(m: Module) -> Value:
    """Blocks in which some channels are convolved along rows, some along columns, some in squares, and most not."""
    act = m.net.assume("activation", "gelu")
    patch = m.shape("stem.0.weight")[-1]
    x = m.net.image(m.shape("stem.0.weight")[1], 224)
    x = m.norm(m.conv(x, "stem.0", patch, 0), "stem.1")
    for stage in m.listed("stages"):
        if "downsample" in stage:
            x = stage.conv(stage.norm(x, "downsample.0"), "downsample.1", 2, 0)
        for block in stage.listed("blocks"):
            y = block.norm(_mixed(block["token_mixer"], x), "norm")
            y = perceptron(block["mlp"], y.to_last(), act).to_first()
            x = x + y * block.per_channel("gamma")
    x = activate(m.linear(x.mean(1, 2), "head.fc1"), act)
    return m.linear(m.norm(x, "head.norm", 1e-6), "head.fc2")


def _mixed(m: Module, x: Value) -> Value:
    names = ("dwconv_hw", "dwconv_w", "dwconv_h")
    sizes = [m.shape(f"{name}.weight")[0] for name in names]
    kept, *parts = x.split(0, x.shape[0] - sum(sizes), *sizes)
    return concat([kept, *(m.conv(part, name) for name, part in zip(names, parts, strict=True))], 0)


STAR = r"stages\.0\.blocks\.0\.mlp\.act\.scale"
FAMILIES = (
    Family("a ConvFormer or CAFormer", (r"stem\.conv\.weight", STAR, r"head\.fc\.fc2\.weight"), caformer),
    Family(
        "a PoolFormer",
        (r"stem\.conv\.weight", r"stages\.0\.blocks\.0\.layer_scale1\.scale", r"head\.fc\.weight"),
        poolformer,
    ),
    Family(
        "an InceptionNeXt",
        (r"stem\.0\.weight", r"stages\.0\.blocks\.0\.token_mixer\.dwconv_hw\.weight", r"head\.fc2\.weight"),
        inception_next,
    ),
)

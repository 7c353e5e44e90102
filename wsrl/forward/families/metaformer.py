"""PoolFormer and InceptionNeXt of timm (Yu et al. 2022, 2024)."""

from wsrl.forward.families.blocks import perceptron
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat


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


FAMILIES = (
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

"""ShuffleNet V2 of torchvision (Ma et al. 2018)."""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, pooled
from wsrl.forward.families.value import Value, concat


def shufflenet(m: Module) -> Value:
    """Blocks that change half of the channels and shuffle them; the first of a stage shrinks the map."""
    m.net.assume("activation", "relu")
    x = m.net.image(m.shape("conv1.0.weight")[1], 224)
    x = pooled(m.conv_norm(x, "conv1.0", "conv1.1", "relu", 2), "max", 3, 2, 1)
    for stage in ("stage2", "stage3", "stage4"):
        for block in m[stage].listed():
            half = x.shape[0] // 2
            if "branch1" in block:
                y = block["branch1"].conv_norm(x, "0", "1", "", 2)
                x = concat([block["branch1"].conv_norm(y, "2", "3", "relu"), _branch(block["branch2"], x, 2)], 0)
            else:
                first, second = x.split(0, half, half)
                x = concat([first, _branch(block["branch2"], second, 1)], 0)
            channels, height, width = x.shape
            x = x.reshape(2, channels // 2, height, width).transpose(1, 0, 2, 3).reshape(channels, height, width)
    x = m.conv_norm(x, "conv5.0", "conv5.1", "relu")
    return m.linear(x.mean(1, 2), "fc")


def _branch(m: Module, x: Value, stride: int) -> Value:
    x = m.conv_norm(m.conv_norm(x, "0", "1", "relu"), "3", "4", "", stride)
    return m.conv_norm(x, "5", "6", "relu")


SIGNATURE = (r"conv1\.0\.weight", r"stage2\.0\.branch1\.0\.weight", r"conv5\.0\.weight", r"fc\.weight")
FAMILIES = (Family("a ShuffleNet V2", SIGNATURE, shufflenet),)

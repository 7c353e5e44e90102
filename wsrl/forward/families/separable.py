"""More networks of separable convolutions, of timm: Xception, ReXNet and StarNet.

Chollet 2017; Han et al. 2021; Ma et al. 2024.
"""

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

REXNET_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (5, 2))  # blocks and stride


def xception(m: Module) -> Value:
    """Blocks of separable convolutions that may end in a pooling, which their shortcut matches by its stride."""
    m.net.assume("activation", "relu")
    x = m.net.image(m.shape("conv1.weight")[1], 299)
    x = activate(m.norm(m.conv(x, "conv1", 2, 0), "bn1"), "relu")
    x = activate(m.norm(m.conv(x, "conv2", 1, 0), "bn2"), "relu")
    for block in (m[name] for name in m.children() if name.startswith("block")):
        skip = block.conv_norm(x, "skip", "skipbn", "", 2) if "skip" in block else x
        for layer in block.listed("rep"):
            if "pointwise" in layer:
                x = x if layer.path.endswith("rep.0") else activate(x, "relu")
                x = layer.conv(layer.conv(x, "conv1"), "pointwise")
            else:
                x = layer.norm(x)
        x = (pooled(x, "max", 3, 2, 1) if "skip" in block else x) + skip
    for i in (3, 4):
        layer = m[f"conv{i}"]
        x = activate(m.norm(layer.conv(layer.conv(x, "conv1"), "pointwise"), f"bn{i}"), "relu")
    return m.linear(x.mean(1, 2), "fc")


def rexnet(m: Module) -> Value:
    """Blocks whose shortcut is added to the first of their channels."""
    m.net.assume("activation", "silu, relu6")
    x = m.conv_norm(m.net.image(m.shape("stem.conv.weight")[1], 224), "stem.conv", "stem.bn", "silu", 2)
    *blocks, last = m.listed("features")
    strides = [stride if i == 0 else 1 for count, stride in REXNET_STAGES for i in range(count)]
    if len(strides) != len(blocks):
        raise ValueError(f"the stages of its {len(blocks)} blocks are not known")
    for block, stride in zip(blocks, strides, strict=True):
        y = block.conv_norm(x, "conv_exp.conv", "conv_exp.bn", "silu") if "conv_exp" in block else x
        y = block.conv_norm(y, "conv_dw.conv", "conv_dw.bn", "", stride)
        y = _excited(block["se"], y) if "se" in block else y
        y = block.conv_norm(activate(y, "relu6"), "conv_pwl.conv", "conv_pwl.bn")
        old, new = x.shape[0], y.shape[0]
        if stride == 1 and old < new:
            first, rest = y.split(0, old, new - old)
            y = concat([first + x, rest], 0)
        elif stride == 1 and old == new:
            y = y + x
        x = y
    return m.linear(last.conv_norm(x, "conv", "bn", "silu").mean(1, 2), "head.fc")


def _excited(m: Module, x: Value) -> Value:
    """Squeeze and excitation with a norm."""
    scale = activate(m.norm(m.conv(x.mean(1, 2, keep=True), "fc1"), "bn"), "relu")
    return x * activate(m.conv(scale, "fc2"), "sigmoid")


def starnet(m: Module) -> Value:
    """Blocks that multiply two dense layers of each pixel; the stem and each stage halve the map."""
    m.net.assume("activation", "relu6")
    x = m.net.image(m.shape("stem.0.conv.weight")[1], 224)
    x = activate(m.conv_norm(x, "stem.0.conv", "stem.0.bn", "", 2), "relu6")
    for stage in m.listed("stages"):
        for block in stage.listed():
            if "dwconv" in block:
                y = block.conv_norm(x, "dwconv.conv", "dwconv.bn")
                y = activate(block.conv(y, "f1.conv"), "relu6") * block.conv(y, "f2.conv")
                x = x + block.conv(block.conv_norm(y, "g.conv", "g.bn"), "dwconv2.conv")
            else:
                x = block.conv_norm(x, "conv", "bn", "", 2)
    return m.linear(m.norm(x, "norm").mean(1, 2), "head")


FAMILIES = (
    Family("an Xception", (r"conv1\.weight", r"block1\.rep\.0\.pointwise\.weight", r"fc\.weight"), xception),
    Family("a ReXNet", (r"stem\.conv\.weight", r"features\.0\.conv_dw\.conv\.weight", r"head\.fc\.weight"), rexnet),
    Family("a StarNet", (r"stem\.0\.conv\.weight", r"stages\.0\.1\.dwconv\.conv\.weight", r"head\.weight"), starnet),
)

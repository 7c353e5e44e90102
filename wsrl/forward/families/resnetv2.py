"""Residual networks whose norms and activations come first, of timm: ResNet V2 and BiT.

He et al. 2016b; Kolesnikov et al. 2020, whose kernels are standardized (Qiao et al. 2019).
"""

from math import prod

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value

GROUPS = 32
STANDARD_EPSILON = 1e-8  # of the variance of kernels


def resnetv2(m: Module) -> Value:
    """The first norm of a block is also read by its shortcut, where that is a convolution."""
    m.net.assume("activation", "relu")
    deep, batch = "stem.conv1" in m, "norm.running_var" in m
    standardized = not batch and not deep
    m.net.assume("kernels", "standardized" if standardized else "as they are")
    first = "stem.conv1" if deep else "stem.conv"
    x = m.net.image(m.shape(f"{first}.weight")[1], 224)
    x = _conv(m, x, first, 2, standardized)
    for i in (2, 3) if deep else ():
        x = _conv(m, _norm(m, x, f"stem.norm{i - 1}"), f"stem.conv{i}", 1, standardized)
    x = pooled(x.pad((0, 0), (1, 1), (1, 1)), "max", 3, 2) if standardized else pooled(x, "max", 3, 2, 1)
    for i, stage in enumerate(m.listed("stages")):
        for j, block in enumerate(stage.listed("blocks")):
            x = _block(block, x, 2 if i and not j else 1, deep, standardized)
    x = _norm(m, x, "norm").mean(1, 2)
    return m.linear(x, "head.fc")


def _norm(m: Module, x: Value, name: str) -> Value:
    return activate(m.norm(x, name, groups=0 if f"{name}.running_var" in m else GROUPS), "relu")


def _conv(m: Module, x: Value, name: str, stride: int, standardized: bool) -> Value:
    return m.conv(x, name, stride, weight=standard_kernel(m, name) if standardized else None)


def standard_kernel(m: Module, name: str) -> Value:
    """A kernel whose weights of each unit have mean 0 and deviation 1."""
    weight = m.tensor(f"{name}.weight")
    flat = weight.reshape(weight.shape[0], prod(weight.shape[1:]))
    flat = flat - flat.mean(1, keep=True)
    flat = flat / ((flat * flat).mean(1, keep=True) + STANDARD_EPSILON).then("Sqrt")
    return flat.reshape(*weight.shape)


def _block(m: Module, x: Value, stride: int, averages: bool, standardized: bool) -> Value:
    convs = [name for name in ("conv1", "conv2", "conv3") if name in m]
    shrinks = convs[-2]  # the first of two, the second of three
    y = _norm(m, x, "norm1")
    if "downsample" in m:
        x = pooled(y, "average", 2, 2, ceil=True) if averages and stride > 1 else y
        x = _conv(m, x, "downsample.conv", 1 if averages else stride, standardized)
    for name in convs:
        y = y if name == "conv1" else _norm(m, y, f"norm{name[-1]}")
        y = _conv(m, y, name, stride if name == shrinks else 1, standardized)
    return x + y


SIGNATURE = (r"stem\.conv1?\.weight", r"stages\.0\.blocks\.0\.norm1\.weight", r"stages\.0\.blocks\.0\.conv2\.weight")
FAMILIES = (Family("a ResNet V2", (*SIGNATURE, r"norm\.weight", r"head\.fc\.weight"), resnetv2),)

"""Networks that are lists of modules, whose numbers show where modules without tensors lie: VGG, AlexNet, SqueezeNet.

Simonyan and Zisserman 2015; Krizhevsky et al. 2012; Iandola et al. 2016. Names are torchvision's: `features.0`, ...
"""

from itertools import zip_longest
from math import isqrt

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate, pooled
from wsrl.forward.families.value import Value, concat

USUAL = 224  # pixels a side


def alike_vgg(m: Module) -> Value:
    """Convolutions by 3 x 3 with pooling by 2 x 2 where two numbers are left out, then dense layers."""
    stages = _stages(m)
    head = _dense_layers(m)
    pooling = sum(pools for *_, pools in stages)
    channels = m.shape(f"features.{stages[-1][0]}.weight")[0]
    grid = _grid(m, head[0] if head else "pre_logits.fc1", channels)
    x = m.net.image(m.shape("features.0.weight")[1], grid << pooling)
    m.net.assume("pooling", "max 2x2")
    for conv, norm, pools in stages:
        x = m.conv(x, f"features.{conv}")
        x = activate(m.norm(x, f"features.{norm}") if norm is not None else x, "relu")
        x = pooled(x, "max", 2, 2) if pools else x
    if head:
        return _classified(m, _averaged(x, grid).flatten(), head)
    x = activate(m.conv(_averaged(x, grid), "pre_logits.fc1", padding=0), "relu")
    x = activate(m.conv(x, "pre_logits.fc2"), "relu")
    return m.linear(x.mean(1, 2), "head.fc")


def _stages(m: Module) -> list[tuple[int, int | None, bool]]:
    """Numbers of a convolution and its norm, and whether pooling follows; the last map is always pooled."""
    numbers = [int(layer.path.rpartition(".")[2]) for layer in m.listed("features")]
    convs = [n for n in numbers if len(m.shape(f"features.{n}.weight")) == 4]
    found = []
    for n, following in zip_longest(convs, convs[1:]):
        norm = n + 1 if n + 1 in numbers and n + 1 not in convs else None
        last = n if norm is None else norm
        found.append((n, norm, following is None or following - last > 2))
    return found


def _dense_layers(m: Module) -> list[str]:
    return [layer.path for layer in m.listed("classifier")]


def _grid(m: Module, first: str, channels: int) -> int:
    """Pixels a side of the map that the first dense layer reads."""
    shape = m.shape(f"{first}.weight")
    return shape[-1] if len(shape) == 4 else isqrt(shape[1] // channels)


def _averaged(x: Value, grid: int) -> Value:
    """The map shrunk to a grid by averages, as torchvision's networks do for images of other sizes."""
    factor = x.shape[1] // grid
    if x.shape[1:] != (grid * factor, grid * factor):
        raise ValueError(f"a map {x.shape} does not shrink to {grid} x {grid}")
    return x if factor == 1 else pooled(x, "average", factor, factor)


def _classified(m: Module, x: Value, layers: list[str]) -> Value:
    for name in layers:
        x = m.linear(x if name == layers[0] else activate(x, "relu"), name)
    return x


def alexnet(m: Module) -> Value:
    """Five convolutions, pooled by 3 x 3 where two numbers are left out; the first has the stride 4."""
    x = m.net.image(m.shape("features.0.weight")[1], USUAL)
    m.net.assume("pooling", "max 3x3 by 2")
    for conv, _, pools in _stages(m):
        x = m.conv(x, f"features.{conv}", 4, 2) if conv == 0 else m.conv(x, f"features.{conv}")
        x = activate(x, "relu")
        x = pooled(x, "max", 3, 2) if pools else x
    layers = _dense_layers(m)
    return _classified(m, _averaged(x, _grid(m, layers[0], x.shape[0])).flatten(), layers)


def squeezenet(m: Module) -> Value:
    """Modules that squeeze and expand; pooling where a number is left out between them."""
    x = m.net.image(m.shape("features.0.weight")[1], USUAL)
    m.net.assume("pooling", "max 3x3 by 2")
    x = activate(m.conv(x, "features.0", 2, 0), "relu")
    before = 1
    for fire in m.listed("features")[1:]:
        number = int(fire.path.rpartition(".")[2])
        x = pooled(x, "max", 3, 2, ceil=True) if number - before > 1 else x
        x = activate(fire.conv(x, "squeeze"), "relu")
        x = activate(concat([fire.conv(x, "expand1x1"), fire.conv(x, "expand3x3")], 0), "relu")
        before = number
    return activate(m.conv(x, "classifier.1"), "relu").mean(1, 2)


CONV = r"features\.0\.weight"
FAMILIES = (
    Family("a SqueezeNet", (CONV, r"features\.3\.squeeze\.weight", r"classifier\.1\.weight"), squeezenet),
    Family("an AlexNet", (CONV, r"features\.10\.weight", r"classifier\.1\.weight"), alexnet),
    Family("a VGG", (CONV, r"features\.[34]\.weight", r"classifier\.0\.weight"), alike_vgg),
    Family("a VGG", (CONV, r"features\.[34]\.weight", r"pre_logits\.fc1\.weight"), alike_vgg),
)

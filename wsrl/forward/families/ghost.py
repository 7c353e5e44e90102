"""GhostNet of timm (Han et al. 2020), and RepGhostNet (Chen et al. 2022) with the branches that training has."""

from wsrl.forward.families.blocks import squeeze_excite
from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat


def ghostnet(m: Module) -> Value:
    """Bottlenecks of two modules that make part of their channels by cheap convolutions of the others."""
    m.net.assume("activation", "relu")
    x = m.conv_norm(m.net.image(m.shape("conv_stem.weight")[1], 224), "conv_stem", "bn1", "relu", 2)
    *stages, last = m.listed("blocks")
    for stage in stages:
        for block in stage.listed():
            x = _bottleneck(block, x)
    x = last[0].conv_norm(x, "conv", "bn1", "relu").mean(1, 2)
    return m.linear(activate(m.linear(x, "conv_head"), "relu"), "classifier")


def _bottleneck(m: Module, x: Value) -> Value:
    stride = 2 if "conv_dw" in m else 1
    y = _ghost(m["ghost1"], x, "relu")
    y = m.conv_norm(y, "conv_dw", "bn_dw", "", stride) if stride == 2 else y
    y = squeeze_excite(m["se"], y, "conv_reduce", "conv_expand", gate="hard_sigmoid") if "se" in m else y
    y = _ghost(m["ghost2"], y, "")
    if "shortcut" in m:
        x = m["shortcut"].conv_norm(x, "0", "1", "", stride)
        x = m["shortcut"].conv_norm(x, "2", "3")
    return x + y


def _ghost(m: Module, x: Value, act: str) -> Value:
    """Channels of a convolution beside cheap ones made of them; of RepGhost, their sum, to which norms are added."""
    if "fusion_bn" not in m:
        x = m["primary_conv"].conv_norm(x, "0", "1", act)
        return concat([x, m["cheap_operation"].conv_norm(x, "0", "1", act)], 0)
    x = m["primary_conv"].conv_norm(x, "0", "1", act)
    y = m["cheap_operation"].conv_norm(x, "0", "1")
    for branch in m.listed("fusion_bn"):
        y = y + branch.norm(x)
    return activate(y, act)


SIGNATURE = (r"conv_stem\.weight", r"blocks\.0\.0\.ghost1\.primary_conv\.0\.weight", r"classifier\.weight")
FAMILIES = (Family("a GhostNet", SIGNATURE, ghostnet),)

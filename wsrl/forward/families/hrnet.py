"""High-resolution networks of timm (Wang et al. 2020), with the head that classifies."""

from functools import reduce
from operator import add

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.resnet import residual_block
from wsrl.forward.families.value import Value

ACTIVATION = "relu"


def hrnet(m: Module) -> Value:
    """Maps of several sizes side by side, each of which is made of all others at the end of a module."""
    m.net.assume("activation", ACTIVATION)
    x = m.conv_norm(m.net.image(m.shape("conv1.weight")[1], 224, 32), "conv1", "bn1", ACTIVATION, 2)
    x = m.conv_norm(x, "conv2", "bn2", ACTIVATION, 2)
    maps = [_chain(m["layer1"], x)]
    for n in (2, 3, 4):
        maps = _with_smaller(m[f"transition{n - 1}"], maps, m[f"stage{n}.0.branches"])
        for module in m[f"stage{n}"].listed():
            maps = [_chain(branch, x) for branch, x in zip(module.listed("branches"), maps, strict=True)]
            maps = [_fused(module["fuse_layers"][i], maps, i) for i in range(len(maps))]
    wider = [_chain(module, x) for module, x in zip(m.listed("incre_modules"), maps, strict=True)]
    x = wider[0]
    for layer, following in zip(m.listed("downsamp_modules"), wider[1:], strict=True):
        x = following + layer.conv_norm(x, "0", "1", ACTIVATION, 2)
    x = m["final_layer"].conv_norm(x, "0", "1", ACTIVATION)
    return m.linear(x.mean(1, 2), "classifier")


def _chain(m: Module, x: Value) -> Value:
    for block in m.listed():
        x = residual_block(block, x, ACTIVATION, 1)
    return x


def _with_smaller(m: Module, maps: list[Value], branches: Module) -> list[Value]:
    """The maps with one more, which is made of the last; others are convolved where their channels change."""
    found = []
    for i in range(len(branches.listed())):
        x = maps[min(i, len(maps) - 1)]
        if f"{i}.0.0" in m and len(m[i].listed()) == 1:
            x = m[i][0].conv_norm(x, "0", "1", ACTIVATION, 2)
        elif str(i) in m:
            x = m[i].conv_norm(x, "0", "1", ACTIVATION)
        found.append(x)
    return found


def _fused(m: Module, maps: list[Value], own: int) -> Value:
    """The sum of all maps, brought to the size of one."""
    parts = []
    for j, x in enumerate(maps):
        if j > own:
            x = m[j].conv_norm(x, "0", "1").enlarged(2 ** (j - own))
        elif j < own:
            *first, last = m[j].listed()
            for layer in first:
                x = layer.conv_norm(x, "0", "1", ACTIVATION, 2)
            x = last.conv_norm(x, "0", "1", "", 2)
        parts.append(x)
    return activate(reduce(add, parts), ACTIVATION)


SIGNATURE = (r"stage2\.0\.fuse_layers\.0\.1\.0\.weight", r"incre_modules\.0\.0\.conv1\.weight", r"classifier\.weight")
FAMILIES = (Family("an HRNet", SIGNATURE, hrnet),)

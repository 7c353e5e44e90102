"""GoogLeNet and Inception v3 of torchvision and timm (Szegedy et al. 2015, 2016)."""

import re
from itertools import groupby

from wsrl.forward.families.family import Family
from wsrl.forward.families.module import Module, Padding, pooled
from wsrl.forward.families.value import Value, concat

EPSILON = 1e-3
GOOGLENET_POOLING = {"conv1": 3, "conv3": 3, "inception3b": 3, "inception4e": 2}  # after a module: pixels a side
BRANCHES = ("branch1x1", "branch5x5", "branch3x3", "branch7x7", "branch3x3dbl", "branch7x7dbl", "branch7x7x3")
BEFORE_MIXED = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")


def _unit(m: Module, x: Value, stride: int = 1, padding: Padding = None) -> Value:
    return m.conv_norm(x, "conv", "bn", "relu", stride, padding=padding)


def googlenet(m: Module) -> Value:
    """Four branches a module: 1 x 1, two with a larger kernel, and one that pools first."""
    m.net.epsilon["batch norm"] = m.net.assume("epsilon", EPSILON)
    x = m.net.image(m.shape("conv1.conv.weight")[1], 224)
    names = ["conv1", "conv2", "conv3", *(name for name in m.children() if name.startswith("inception"))]
    for name in names:
        module = m[name]
        x = _unit(module, x, 2 if name == "conv1" else 1) if "conv" in module else _four_branches(module, x)
        if size := GOOGLENET_POOLING.get(name):
            x = pooled(x, "max", size, 2, ceil=True)
    return m.linear(x.mean(1, 2), "fc")


def _four_branches(m: Module, x: Value) -> Value:
    parts = [_unit(m["branch1"], x)]
    parts += [_unit(m[branch][1], _unit(m[branch][0], x)) for branch in ("branch2", "branch3")]
    return concat([*parts, _unit(m["branch4"][1], pooled(x, "max", 3, 1, 1))], 0)


def inception(m: Module) -> Value:
    """Modules of branches; those without a branch that pools first shrink the map."""
    m.net.epsilon["batch norm"] = m.net.assume("epsilon", EPSILON)
    x = m.net.image(m.shape("Conv2d_1a_3x3.conv.weight")[1], 299)
    for name in BEFORE_MIXED:
        x = _unit(m[name], x, 2 if "1a" in name else 1, 1 if "2b" in name else 0)
        x = pooled(x, "max", 3, 2) if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3") else x
    for name in m.children():
        if name.startswith("Mixed"):
            x = _mixed(m[name], x)
    return m.linear(x.mean(1, 2), "fc")


def _mixed(m: Module, x: Value) -> Value:
    shrinks = "branch_pool" not in m
    chains = {key: list(names) for key, names in groupby(m.children(), key=lambda n: re.sub(r"_\d[ab]?$", "", n))}
    found = []
    for branch in BRANCHES:
        y, beside = x, []
        for name in chains.get(branch, ()):
            if name[-1] in "ab":  # two convolutions that read the same
                beside.append(_unit(m[name], y))
            else:
                last = shrinks and name == chains[branch][-1]
                y = _unit(m[name], y, 2 if last else 1, 0 if last else None)
        found += [concat(beside, 0)] if beside else [y] if branch in chains else []
    if shrinks:
        return concat([*found, pooled(x, "max", 3, 2)], 0)
    average = pooled(x, "average", 3, 1, 1, count_include_pad=1)
    return concat([*found, _unit(m["branch_pool"], average)], 0)


FAMILIES = (
    Family(
        "a GoogLeNet",
        (r"conv1\.conv\.weight", r"inception3a\.branch1\.conv\.weight", r"fc\.weight"),
        googlenet,
        beside=r"aux[12]\.",
    ),
    Family(
        "an Inception v3",
        (r"Conv2d_1a_3x3\.conv\.weight", r"Mixed_5b\.branch1x1\.conv\.weight", r"fc\.weight"),
        inception,
        beside=r"AuxLogits\.",
    ),
)

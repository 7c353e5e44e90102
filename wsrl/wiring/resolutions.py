"""Networks that keep maps of several resolutions side by side and add each to all (Wang et al., HRNet, 2019)."""

from wsrl.wiring.course import Course, Misfit, kind
from wsrl.wiring.dims import Value
from wsrl.wiring.order import numbered
from wsrl.wiring.tree import Node, sorted_children


def _network(run: Course, node: Node, value: Value) -> Value:
    """The stem, stages of parallel maps, and a head that adds them from fine to coarse."""
    parts = node.children
    for number in "12":
        value = run.norm(parts[f"bn{number}"], run.layer(parts[f"conv{number}"], value))
    maps = [_blocks(run, parts["layer1"], value)]
    stage = 2
    while f"stage{stage}" in parts:
        maps = _transition(run, parts[f"transition{stage - 1}"], maps)
        for module in sorted_children(parts[f"stage{stage}"]):
            maps = _exchange(run, module, maps)
        stage += 1
    widened = parts["incre_modules"].children
    found = _blocks(run, widened["0"], maps[0])
    for i, other in enumerate(maps[1:], 1):
        down = run.stack(parts["downsamp_modules"].children[str(i - 1)], found)
        found = run.add(_blocks(run, widened[str(i)], other), down)
    value = run.stack(parts["final_layer"], found)
    return run.layer(parts["classifier"], value) if "classifier" in parts else value


def _transition(run: Course, node: Node, maps: list[Value]) -> list[Value]:
    """Convolutions of the maps that are there, and coarser maps made of the coarsest."""
    count = 1 + max(int(name) for name in node.children)
    found = []
    for i in range(max(count, len(maps))):
        module = node.children.get(str(i))
        if module is None:
            found.append(maps[i])
        elif i < len(maps):
            found.append(run.stack(module, maps[i]))
        else:
            found.append(run.stack(module, maps[-1]))
    return found


def _exchange(run: Course, node: Node, maps: list[Value]) -> list[Value]:
    """Blocks on each map, then sums of all maps brought to each resolution."""
    branches = sorted_children(node.children["branches"])
    if len(branches) != len(maps):
        raise Misfit
    maps = [_blocks(run, branch, value) for branch, value in zip(branches, maps, strict=True)]
    fused = node.children["fuse_layers"].children
    found = []
    for i, value in enumerate(maps):
        others = fused[str(i)].children if str(i) in fused else {}
        brought = [run.stack(others[name], maps[int(name)]) for name in sorted(others)]
        found.append(run.add(value, *brought))
    return found


def _blocks(run: Course, node: Node, value: Value) -> Value:
    """Residual blocks, one after the other."""
    for block in sorted_children(node) if numbered(node) else [node]:
        found, parts = value, block.children
        for number in range(1, 1 + sum(name.startswith("conv") for name in parts)):
            found = run.norm(parts[f"bn{number}"], run.layer(parts[f"conv{number}"], found))
        if "downsample" in parts:
            value = run.stack(parts["downsample"], value)
        value = run.add(found, value)
    return value


KINDS = (kind("transition1 stage2 incre_modules", "conv1", _network),)

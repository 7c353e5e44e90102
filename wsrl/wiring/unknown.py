"""Modules of a kind that is not known."""

from wsrl.wiring.dims import fix
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env


def run_unknown(flow: Flow, node: Node, env: Env) -> bool:
    """Fixes whatever a module of an unknown kind may read; its own modules are not looked at."""
    sizes = {n for leaf in node.leaves() for _, shape in leaf.tensors.values() for n in shape if n > 1}
    found = [e for size in sorted(sizes) for e in env.everywhere(size)]
    if not found and not env.is_unknown():
        layers = (leaf for leaf in node.leaves() if leaf.kind in ("linear", "conv"))
        flow.wanted += [(leaf.fan_in, leaf) for leaf in layers]
        return False
    for entry in found:
        fix(entry.value)
        entry.read = True
    flow.unknown_sizes |= sizes
    flow.not_understood.append(node)
    flow.warnings.append(f"{node.dotted} is not understood")
    last = env.last()
    if last is not None:
        env.add(last.value, spatial=last.spatial)
    return True

"""Layers side by side that read what several stages have returned, one each: necks and heads over a pyramid of maps."""

from itertools import pairwise

from wsrl.wiring.course import Course, Misfit
from wsrl.wiring.dims import Dim, Value
from wsrl.wiring.flow import Flow
from wsrl.wiring.order import FAR, numbered
from wsrl.wiring.tree import Node, sorted_children
from wsrl.wiring.values import Entry, Env


def run_gathering(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a list of such layers; None for any other module.

    Whatever has the length that a layer reads and left a stage may be what it reads, so all of it is tied.
    """
    if not numbered(node) or len(node.children) < 2 or not FAR.search(node.dotted) or env.is_unknown():
        return None
    members = sorted_children(node)
    layers = [[leaf for leaf in member.leaves() if leaf.kind in ("conv", "linear")] for member in members]
    if any(len(found) != 1 for found in layers):
        return None
    ends = [(found[0].fan_in, found[0].units) for found in layers]
    if len({units for _, units in ends}) > 1 or all(before[1] == after[0] for before, after in pairwise(ends)):
        return None  # they may run one after the other
    if not all(_fits(member, fan_in) for member, (fan_in, _) in zip(members, ends, strict=True)):
        return None
    sources = [env.visible(fan_in) or _returned(env, fan_in) for fan_in, _ in ends]
    if not all(sources):
        return None
    for member, source in zip(members, sources, strict=True):
        flow.read(env, source)
        env.add(Course(flow).stack(member, source[-1].value), spatial=True, returned=True)
    return True


def _fits(member: Node, size: int) -> bool:
    try:
        Course(None).stack(member, (Dim(size),))
    except Misfit:
        return False
    return True


def _returned(env: Env, size: int) -> list[Entry]:
    """What stages have returned of a length, inputs of the network aside."""
    found = [e for e in env.made if e.returned and e.size == size and not e.heads]
    return [e for e in found if all(dim.find()[0].role == "hidden" for dim in e.value)]


def reassemble(run: Course, node: Node, value: Value) -> list[Value]:
    """Tokens of several layers, each joined with the first token or not, become maps of several resolutions (Ranftl et
    al., DPT, 2021)."""
    joined = node.children.get("readout_projects")
    found = []
    for stage in sorted_children(node.children["layers"]):
        through = value
        if joined is not None:
            through = run.stack(joined.children[stage.name], (*value, *value))
        through = run.layer(stage.children["projection"], through)
        if "resize" in stage.children:  # transposed or not, which nothing tells
            through = run.add(through, run.layer(stage.children["resize"], through))
        found.append(through)
    return found

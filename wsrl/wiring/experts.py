"""Experts with stacked weights: `gate_up_proj` [experts, 2 x hidden, in], `down_proj` [experts, out, hidden]."""

from wsrl.wiring.dims import Dim, fix, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env


def run_experts(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a container of stacked experts; None for any other module."""
    down, up = node.children.get("down_proj"), node.children.get("gate_up_proj") or node.children.get("up_proj")
    if down is None or up is None or len(up.shape("value") or ()) != 3 or len(down.shape("value") or ()) != 3:
        return None
    (up_name, (_, a, b)), (down_name, (_, c, d)) = up.tensors["value"], down.tensors["value"]
    rows = [(b, a, d, c)] if b == c and a % d == 0 else []  # [out, in] as in a dense layer
    columns = [(a, b, c, d)] if a == d and b % c == 0 else []
    choices = rows + columns
    if not choices:
        return None
    width, gated, hidden, _ = choices[0]
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    unit = Dim(hidden, fixed=len(choices) > 1)
    bias = node.children.get("gate_up_proj_bias") or node.children.get("up_proj_bias")
    factor = gated // hidden
    # with biases the gates lie between the others' units (gpt-oss), without one they follow them
    inner = view(unit, inner=factor) if bias is not None else view(unit, outer=factor)
    if len(choices) > 1:
        fix(entry.value)
    else:
        in_axis = 2 if rows else 1
        flow.reads(up_name, in_axis, entry.value)
        flow.writes(up_name, 3 - in_axis, (inner,))
        flow.reads(down_name, in_axis, (unit,))
        flow.writes(down_name, 3 - in_axis, entry.value)
        if bias is not None:
            flow.writes(bias.tensors["value"][0], 1, (inner,))
        out_bias = node.children.get("down_proj_bias")
        if out_bias is not None:
            flow.writes(out_bias.tensors["value"][0], 1, entry.value)
    for child in node.children.values():
        flow.note(child, "experts")
    return True

"""State-space layers with one decay a head (Dao and Gu, Mamba-2, 2024): `in_proj`, `conv1d`, `A_log`, `out_proj`."""

from collections.abc import Mapping
from math import gcd

from wsrl.wiring.attention_config import told
from wsrl.wiring.dims import Dim, Value, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

PARTS = ("in_proj", "conv1d", "dt_bias", "A_log", "D", "norm", "out_proj")  # in order


def run_dual_state_space(config: Mapping, flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a container that is a state-space layer with scalar decays; None for any other module.

    `in_proj` returns gates, units, the state vectors B and C of each group, and the step of each head, one after the
    other; `conv1d` runs over units, B and C. Heads are blocks of units, groups are blocks of heads that share B and C.
    Where the number of groups is known, the heads within each group permute, alike for all of them, and so do the
    entries of the state. Else the units of a head do, and the entries of the smallest state that is possible.

    Args:
      config: `config.json`, or empty.
    """
    shapes = {name: node.children[name].own_shape for name in PARTS if name in node.children}
    if set(PARTS) - {"norm"} - shapes.keys() or set(node.children) - set(PARTS):
        return None
    ranks = {"in_proj": 2, "conv1d": 3, "out_proj": 2, "A_log": 1}
    if any(len(shapes[name]) != rank for name, rank in ranks.items()) or node.children["in_proj"].transposed:
        return None
    (rows, width), (out, units), heads = shapes["in_proj"], shapes["out_proj"], shapes["A_log"][-1]
    shared = shapes["conv1d"][0] - units  # entries of B and C of all groups
    plain = shapes["A_log"] == shapes["D"] == shapes["dt_bias"] == (heads,) and shapes.get("norm", (units,)) == (units,)
    if not plain or rows != 2 * units + shared + heads or units % heads or shared < 2 or shared % 2 or out != width:
        return None
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    groups = told(config, "mamba_n_groups", "mamba_ngroups", "n_groups") or 0
    if groups and heads % groups == 0 and shared // 2 % groups == 0 and heads > groups:
        head = Dim(heads // groups)
        unit, step = view(head, outer=groups, inner=units // heads), view(head, outer=groups)
    else:
        groups = gcd(heads, shared // 2)
        unit, step = view(Dim(units // heads), outer=heads), Dim(heads, fixed=True)
    state = view(Dim(shared // 2 // groups), outer=groups)
    mixed: Value = (unit, state, state)
    result: Value = (Dim(out),)
    _put(flow, node, "in_proj", entry.value, (unit, *mixed, step))
    flow.writes_vectors(node.children["conv1d"], mixed)
    flow.passes(node.children["conv1d"].tensors["weight"][0], 0, mixed)
    for name, value in (("dt_bias", (step,)), ("A_log", (step,)), ("D", (step,)), ("norm", (unit,))):
        if name in node.children:
            flow.passes_vectors(node.children[name], value)
    _put(flow, node, "out_proj", (unit,), result)
    for name in PARTS:
        if name in node.children:
            flow.note(node.children[name], "state space").passes = name not in ("in_proj", "out_proj")
    tie_values(entry.value, result)
    env.add(result)
    return True


def _put(flow: Flow, node: Node, name: str, inputs: Value, outputs: Value) -> None:
    weight = node.children[name].tensors["weight"][0]
    flow.reads(weight, 1, inputs)
    flow.writes(weight, 0, outputs)
    flow.writes_vectors(node.children[name], outputs)

"""State-space layers (Gu and Dao, Mamba, 2023): `in_proj`, `conv1d`, `x_proj`, `dt_proj`, `A_log`, `D`, `out_proj`."""

from wsrl.wiring.dims import Dim, Value, fix, tie_values, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.rim import run_rim
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

PARTS = ("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj")  # in order


def run_state_space(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs a container that is a state-space layer; None for any other module.

    The inner units and, for each of them, the entries of the state may be permuted: `x_proj` returns the step size and
    the two state vectors B and C one after the other, `A_log` is [units, state].
    """
    if not all(part in node.children for part in PARTS):
        scan = any(
            name in node.children and node.children[name].kind == "parameter" for name in ("A", "A_log", "A_logs")
        )
        return run_rim(flow, node, env) if scan else None
    shapes = {part: next(iter(node.children[part].tensors.values()))[1] for part in ("A_log", "D")}
    weights = {part: node.children[part].tensors["weight"] for part in PARTS if part not in shapes}
    if len(shapes["A_log"]) != 2 or len(weights["x_proj"][1]) != 2:
        return None
    (units, states), (rows, width) = shapes["A_log"], weights["in_proj"][1]
    rank = weights["dt_proj"][1][1]
    entry = flow.pick(env, width, node)
    if entry is None:
        return False
    if rows != 2 * units or weights["x_proj"][1][0] != rank + 2 * states:
        fix(entry.value)
        env.add((Dim(weights["out_proj"][1][0], fixed=True),))
        return True
    unit, state, step = Dim(units), Dim(states), Dim(rank)
    out = (Dim(weights["out_proj"][1][0]),)
    halves: Value = (view(unit, outer=2),)
    a_log, d = (next(iter(node.children[part].tensors.values()))[0] for part in ("A_log", "D"))
    sides: dict[str, tuple[Value, Value]] = {  # what each part reads and returns
        "in_proj": (entry.value, halves),
        "x_proj": ((unit,), (step, state, state)),
        "dt_proj": ((step,), (unit,)),
        "out_proj": ((unit,), out),
    }
    for part, (inputs, outputs) in sides.items():
        flow.writes(weights[part][0], 0, outputs)
        flow.reads(weights[part][0], 1, inputs)
        if part != "x_proj":
            flow.writes_vectors(node.children[part], outputs)
    flow.passes(weights["conv1d"][0], 0, (unit,))
    flow.writes_vectors(node.children["conv1d"], (unit,))
    flow.passes(a_log, 0, (unit,))
    flow.put(a_log, 1, (state,))
    flow.passes(d, 0, (unit,))
    others = [name for name in node.children if name not in PARTS]
    for name in (*PARTS[:3], *others, *PARTS[3:]):
        child = node.children[name]
        flow.note(child, "state space").passes = name in ("conv1d", "A_log", "D", *others)
        if name in others and child.kind == "norm":
            size = child.tensors["weight"][1][0]
            choices = {"dt": step, "b": state, "c": state}
            value = choices.get(name.split("_")[0].lower())
            if value is not None and value.size == size:
                flow.passes_vectors(child, (value,))
            else:
                fix((unit, state, step))
        elif name in others:
            fix((unit, state, step, *entry.value))
    if width == out[0].size:
        tie_values(entry.value, out)
    env.add(out)
    return True

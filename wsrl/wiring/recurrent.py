"""Recurrent layers, in PyTorch's and Keras' conventions."""

import re

from wsrl.wiring.dims import Dim, Value, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.handed_states import States
from wsrl.wiring.reading import read_value
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

GATE = re.compile(
    r"(?:\w*_)?(?:w|lin|linear|fc|gate)?_?([ifocgzrhn]|forget|input|output|update|reset)_?(?:gate)?", re.I
)
CELLS = ({"i", "f", "o"}, {"z", "r"}, {"forget", "input"}, {"forget", "output"}, {"update", "reset"})


def is_gate(node: Node) -> bool:
    """Whether a dense layer is a gate of a recurrent cell that is written out, which reads input and state together."""
    if node.parent is None or node.fan_in <= node.units or node.kind != "linear":
        return False
    alike = [c.name for c in node.parent.children.values() if c.kind == "linear" and c.weight == node.weight]
    letters = {match[1].lower() for name in alike if (match := GATE.fullmatch(name))}
    return any(cell <= letters for cell in CELLS) and GATE.fullmatch(node.name) is not None


def run_recurrent(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    """PyTorch's RNN, LSTM and GRU: `weight_ih_l0` [gates x hidden, in], `weight_hh_l0` [gates x hidden, hidden]."""
    tensors = node.tensors
    if "recurrent_kernel" in tensors:
        return _keras_recurrent(flow, node, env, newest)
    first = "weight_ih_l0" if "weight_ih_l0" in tensors else "weight_ih"
    value = read_value(flow, node, env, tensors[first][1][1], newest)
    if value is None:
        return False
    given, layer = value, 0
    returned: list[Value] = []
    while True:
        outputs: list[Dim] = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse", "") if layer == 0 else (f"_l{layer}", f"_l{layer}_reverse"):
            if f"weight_ih{suffix}" not in tensors:
                continue
            name_ih, name_hh = tensors[f"weight_ih{suffix}"][0], tensors[f"weight_hh{suffix}"][0]
            rows, width = flow.shapes[name_hh]
            projected = f"weight_hr{suffix}" in tensors
            hidden = Dim(flow.shapes[tensors[f"weight_hr{suffix}"][0]][1] if projected else width)
            if not suffix:  # a cell runs one step: its state may be an input and an output of the network
                hidden.role = "output"
            out = Dim(width) if projected else hidden
            gates = (view(hidden, outer=rows // hidden.size),)
            flow.writes(name_ih, 0, gates)
            flow.reads(name_ih, 1, value)
            flow.writes(name_hh, 0, gates)
            flow.reads(name_hh, 1, (out,))
            for bias in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
                if bias in tensors:
                    flow.writes(tensors[bias][0], 0, gates)
            if projected:
                flow.writes(tensors[f"weight_hr{suffix}"][0], 0, (out,))
                flow.reads(tensors[f"weight_hr{suffix}"][0], 1, (hidden,))
            outputs.append(out)
        if not outputs:
            break
        value = tuple(outputs)
        returned.append(value)
        layer += 1
    flow.note(node, "recurrent", given, value)
    env.add(value).states = tuple(returned[:-1])
    flow.states.append(States(node, tuple(returned)))
    return True


def _keras_recurrent(flow: Flow, node: Node, env: Env, newest: bool) -> bool:
    """Keras' cells: `kernel` [in, gates x hidden], `recurrent_kernel` [hidden, gates x hidden]."""
    kernel, recurrent = node.tensors["weight"][0], node.tensors["recurrent_kernel"][0]
    value = read_value(flow, node, env, flow.shapes[kernel][0], newest)
    if value is None:
        return False
    width, rows = flow.shapes[recurrent]
    hidden = Dim(width)
    gates = (view(hidden, outer=rows // width),)
    flow.reads(kernel, 0, value)
    flow.writes(kernel, 1, gates)
    flow.reads(recurrent, 0, (hidden,))
    flow.writes(recurrent, 1, gates)
    if "bias" in node.tensors:
        bias = node.tensors["bias"][0]
        flow.writes(bias, len(flow.shapes[bias]) - 1, gates)
    flow.note(node, "recurrent", value, (hidden,))
    env.add((hidden,))
    flow.states.append(States(node, ((hidden,),)))
    return True

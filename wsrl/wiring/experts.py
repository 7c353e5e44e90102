"""Experts with stacked weights, [experts, 2 x hidden, in] and [experts, out, hidden], and the routers that choose."""

import re
from collections.abc import Mapping

from wsrl.wiring.attention_config import told
from wsrl.wiring.dims import Dim, Value, fix, size_of, view
from wsrl.wiring.flow import Flow
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

UP = ("gate_up_proj", "up_proj", "input_linear", "fc1")
DOWN = ("down_proj", "output_linear", "fc2")
ROUTER = re.compile(r"router|gate|wg")


class Experts:
    """The rules for stacked experts and their routers.

    Experts may be exchanged together with the rows of the router, within groups where it chooses groups first
    (DeepSeek-AI, DeepSeek-V3, 2024).

    Args:
      config: `config.json`, or empty.
    """

    def __init__(self, config: Mapping):
        self.config = config
        self._chosen: dict[Node, Value] = {}  # experts of a block, by the block that holds the router

    def run(self, flow: Flow, node: Node, env: Env) -> bool | None:
        """Runs a container of stacked experts; None for any other module."""
        down, up = _stack(node, DOWN), _stack(node, UP)
        if down is None or up is None or {len(_tensor(n)[1]) for n in (down, up)} != {3}:
            return None
        (_, (experts, a, b)), (down_name, (_, c, d)) = _tensor(up), _tensor(down)
        rows = [(b, a, d, c)] if b == c and a % d == 0 else []  # [out, in] as in a dense layer
        columns = [(a, b, c, d)] if a == d and b % c == 0 else []
        choices = rows + columns
        gates = [n for name, n in node.children.items() if name == "gate_proj" and up.name == "up_proj"]
        alike = _tensor(down)[1][0] == experts and all(_tensor(gate)[1] == _tensor(up)[1] for gate in gates)
        if not choices or not alike:
            return None
        width, gated, hidden, _ = choices[0]
        entry = flow.pick(env, width, node)
        if entry is None:
            return False
        unit = Dim(hidden, fixed=len(choices) > 1)
        beside = {role: n for n in node.children.values() if (role := _role(n))}
        factor = gated // hidden
        # with biases the gates lie between the others' units (gpt-oss), without one they follow them
        inner = view(unit, inner=factor) if "up bias" in beside else view(unit, outer=factor)
        if len(choices) > 1:
            fix(entry.value)
        else:
            chosen = self._experts(node, experts)
            in_axis = 2 if rows else 1
            for name, value, axis in [(_tensor(n)[0], inner, 3 - in_axis) for n in (up, *gates)]:
                flow.reads(name, in_axis, entry.value)
                flow.writes(name, axis, (value,))
                flow.put(name, 0, chosen)
            flow.reads(down_name, in_axis, (unit,))
            flow.writes(down_name, 3 - in_axis, entry.value)
            flow.put(down_name, 0, chosen)
            biases = [(n.tensors["bias"], (inner,)) for n in (up, *gates) if "bias" in n.tensors]
            biases += [(down.tensors["bias"], entry.value)] if "bias" in down.tensors else []
            roles = (("up bias", (inner,)), ("down bias", entry.value))
            biases += [(_tensor(beside[role]), value) for role, value in roles if role in beside]
            for (name, shape), value in biases:
                if shape == (experts, size_of(value)):
                    flow.writes(name, 1, value)
                    flow.put(name, 0, chosen)
                else:
                    fix((*chosen, *value))
            if "bias" in beside and _tensor(beside["bias"])[1] == (width,):
                flow.writes(_tensor(beside["bias"])[0], 0, entry.value)
        for child in node.children.values():
            flow.note(child, "experts")
            for leaf in child.leaves():
                if child is not leaf or ROUTER.fullmatch(child.name):
                    self._route(flow, leaf, node, entry.value)
        return True

    def run_router(self, flow: Flow, node: Node, env: Env) -> bool | None:
        """Runs a layer that chooses among the stacked experts beside it; None for any other module."""
        beside = node.parent.children.get("experts") if node.parent else None
        if node.kind != "linear" or not ROUTER.fullmatch(node.name) or beside is None or _stack(beside, UP) is None:
            return None
        entry = flow.pick(env, node.fan_in, node)
        if entry is None:
            return False
        self._route(flow, node, beside, entry.value)
        flow.note(node, "linear")
        return True

    def _route(self, flow: Flow, router: Node, experts: Node, value: Value) -> None:
        stack = _stack(experts, UP)
        count = _tensor(stack)[1][0] if stack else 0
        chosen = self._experts(experts, count)
        if router.kind != "linear" or router.units != count or router.fan_in != size_of(value):
            fix(chosen)
            return
        flow.reads(router.tensors["weight"][0], 0 if router.transposed else 1, value)
        flow.writes(router.tensors["weight"][0], 1 if router.transposed else 0, chosen)
        flow.writes_vectors(router, chosen)

    def _experts(self, node: Node, count: int) -> Value:
        """The experts of a container; fixed unless there is a router and it is known how it chooses."""
        if node not in self._chosen:
            block = [*node.children.values(), *(node.parent.children.values() if node.parent else ())]
            routers = [leaf for n in block if ROUTER.fullmatch(n.name) for leaf in n.leaves()]
            corrected = any("correction" in tensor for leaf in routers for tensor, _ in leaf.tensors.values())
            groups = told(self.config, "n_group", "num_expert_group") or 1
            known = any(leaf.kind == "linear" and leaf.units == count for leaf in routers)
            told_all = bool(self.config) or not (corrected or any("shared" in n.name for n in block))
            known = known and count % groups == 0 and told_all  # else experts may be chosen by groups
            group = Dim(count // groups, fixed=not known)
            self._chosen[node] = (view(group, outer=groups),)
        return self._chosen[node]


def _stack(node: Node, names: tuple[str, ...]) -> Node | None:
    return next((node.children[name] for name in names if name in node.children and node.children[name].tensors), None)


def _tensor(node: Node) -> tuple[str, tuple[int, ...]]:
    return node.tensors.get("value") or node.tensors.get("weight") or ("", ())


def _role(node: Node) -> str:
    """Of a bias beside stacked experts, whose it is."""
    if node.name == "bias":
        return "bias"
    stem = node.name.removesuffix("_bias")
    return "" if stem == node.name else "up bias" if stem in UP else "down bias" if stem in DOWN else ""

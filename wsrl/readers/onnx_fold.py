"""Folds what the graph of an ONNX file does to its constants, and takes integers out of it.

The tensor that an operator reads is then what the file's own tensor has become on the way there: cast, transposed,
reshaped, dequantized. Operators on integers (onnx_quantized) are turned into those on real numbers that they stand for;
what only quantizes, dequantizes or scales is dropped. Nothing is computed before its rows are read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.affine import affine
from wsrl.readers.derived import computed, reshaped, transposed
from wsrl.readers.mapped import checked_name
from wsrl.readers.onnx_constants import INDICES, Constant, Constants
from wsrl.readers.onnx_graph import bodies
from wsrl.readers.onnx_layout import LAYOUT, layout_step
from wsrl.readers.onnx_lowering import LOWERED, lower
from wsrl.readers.onnx_scope import PASSED, Scope

MOST_STEPS = 32
FLOATING = (1, 10, 11, 16)  # types that a Cast makes of integers


@dataclass(frozen=True)
class Folded:
    """The result.

    Attributes:
      nodes: of the graph on real numbers; bodies are among their attributes.
      outputs: value of the old graph -> value of the new one, where they differ.
      tensors: by name, all constants that are left; integers that no scale is known for are among them.
      factors: names of scales and zero points, which are not.
      constants: lists of numbers that new nodes read.
      warnings: a sentence each.
    """

    nodes: list[dict]
    outputs: Mapping[str, str]
    tensors: dict[str, LazyTensor]
    factors: tuple[str, ...]
    constants: dict[str, list[int]]
    warnings: tuple[str, ...]


def fold(
    nodes: list[dict],
    outputs: list[str],
    tensors: Mapping[str, LazyTensor],
    numbers: Mapping[str, object],
    path: Path,
) -> Folded:
    """Folds constants and lowers quantized operators.

    Args:
      nodes: of the graph, in an order in which they can be run.
      outputs: names of the graph's outputs.
      tensors: constants by name.
      numbers: values of small integer constants, such as the shape of a Reshape.
      path: for messages.

    Raises:
      CheckpointError: scales do not fit what they scale.
    """
    folding = _Folding(tensors, numbers, path)
    left = folding.run(nodes, Scope(folding.constants.values), outputs)
    return folding.finish(left)


class _Folding:
    """Goes through the nodes once; see fold."""

    def __init__(self, tensors: Mapping[str, LazyTensor], numbers: Mapping[str, object], path: Path):
        self.path = path
        self.numbers = numbers
        self.constants = Constants(tensors, path)
        self.wanted: dict[str, Constant] = {}  # values that the nodes which are left read
        self.outputs: dict[str, str] = {}

    def run(self, nodes: list[dict], around: Scope, outputs: list[str]) -> list[dict]:
        """Returns the nodes that are left of a graph or a body."""
        scope = around.within(nodes)
        left = []
        for node in nodes:
            given = node["inputs"]
            node = {**node, "inputs": [scope.alias.get(name, name) for name in given]}
            for key, body in node["attributes"].items():
                if isinstance(body, dict):
                    names = [value["name"] for value in body["outputs"]]
                    inner = {**body, "nodes": self.run(body["nodes"], scope, names)}
                    renamed = [{**v, "name": self.outputs.get(v["name"], v["name"])} for v in body["outputs"]]
                    node["attributes"] = {**node["attributes"], key: {**inner, "outputs": renamed}}
            kept = list(self._node(node, given, scope))
            left += kept
            for name in (name for node in kept for name in node["inputs"] if name in self.constants.values):
                self.wanted.setdefault(name, self.constants.values[name])
        for name in outputs:
            self.outputs[name] = scope.alias.get(name, name)
            if self.outputs[name] in self.constants.values:
                self.wanted.setdefault(self.outputs[name], self.constants.values[self.outputs[name]])
        return left

    def _node(self, node: dict, given: list[str], scope: Scope) -> Iterator[dict]:
        """Yields what is left of a node, whose inputs had the `given` names in the file."""
        op, inputs, outputs = node["op"], node["inputs"], node["outputs"]
        constant = self.constants.input(inputs, 0)
        role = scope.roles.get(given[0], "") if given else ""
        if op in LOWERED:
            lowered = lower(node, self.constants, scope)
            yield from [node] if lowered is None else lowered
        elif not inputs or not outputs:
            yield node
        elif op == "DynamicQuantizeLinear":
            scope.alias[outputs[0]] = inputs[0]
            scope.roles.update(dict.fromkeys(outputs[1:], "scale"))
        elif op in ("QuantizeLinear", "DequantizeLinear"):
            self._quantize(node, constant, scope)
        elif op != "Mul" and scope.roles.get(outputs[0]) == "scale":  # looked up for a table of integers
            self.constants.add_factors(inputs, [0])
        elif op in ("Cast", "Identity") and role:
            scope.alias[outputs[0]], scope.roles[outputs[0]] = inputs[0], role
        elif op == "Gather" and constant is not None and not constant.is_real:
            yield self._gather(node, constant, scope)
        elif not (self._derive(node, constant) or self._arithmetic(node, given, scope)):
            if role == "unscaled" and op in PASSED:
                scope.roles.update(dict.fromkeys(outputs, role))
            yield node

    def _quantize(self, node: dict, constant: Constant | None, scope: Scope) -> None:
        """Drops QuantizeLinear and DequantizeLinear; a constant of integers is dequantized."""
        inputs, output, attributes = node["inputs"], node["outputs"][0], node["attributes"]
        self.constants.factors |= dict.fromkeys(name for name in inputs[1:] if name in self.constants.tensors)
        scale, zero = (self.constants.input(inputs, place) for place in (1, 2))
        if node["op"] == "DequantizeLinear" and constant is not None and not constant.is_real and scale is not None:
            axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
            axis = axis if isinstance(axis, int) else 1
            block = block if isinstance(block, int) else 0
            self.constants.values[output] = self.constants.scaled(constant, scale, zero, axis, block)
        else:
            scope.alias[output] = inputs[0]

    def _derive(self, node: dict, constant: Constant | None) -> bool:
        """Folds a node that only changes the layout or the type of a constant; returns whether it did."""
        op, output = node["op"], node["outputs"][0]
        if constant is None or len(constant.steps) >= MOST_STEPS:
            return False
        tensor, derived = constant.tensor, self.constants.derived
        if op == "Identity" or (op in ("Cast", "CastLike") and constant.is_real):
            self.constants.values[output] = constant
        elif tensor.dtype in INDICES and not constant.is_real:
            return False
        elif op == "Cast" and node["attributes"].get("to") in FLOATING:
            plain = computed(tensor, lambda rows: np.asarray(rows).astype(np.float32), f"q{tensor.dtype}")
            self.constants.values[output] = derived(constant, ("scale", "Cast"), lambda: plain)
        elif op in LAYOUT:
            try:
                step = layout_step(node, tensor.shape, self.numbers)
                if step is None:
                    return False
                change = transposed if step[0] == "Transpose" else reshaped
                self.constants.values[output] = derived(constant, step, lambda: change(tensor, step[1]))
            except ValueError:  # it does not fit the tensor
                return False
        else:
            return False
        return True

    def _arithmetic(self, node: dict, given: list[str], scope: Scope) -> bool:
        """Takes scales and zero points out of sums and products; returns whether the node is one of those."""
        op, inputs, output = node["op"], node["inputs"], node["outputs"][0]
        if op not in ("Mul", "Add", "Sub", "Div") or len(inputs) != 2:
            return False
        roles = [scope.roles.get(name, "") for name in given]
        constants = [self.constants.values.get(name) for name in inputs]
        if op == "Mul" and (roles[1] == "unscaled" or (roles[1] and not roles[0]) or _codes(constants[1])):
            inputs, given, roles, constants = inputs[::-1], given[::-1], roles[::-1], constants[::-1]
        first, second = constants
        scales = roles[1] == "scale" or second is not None
        if scales and roles[0] == "scale" and op == "Mul":
            scope.roles[output] = "scale"
        elif scales and roles[0] == "unscaled" and op in ("Mul", "Sub", "Div"):
            maker = scope.makers.get(given[1])
            scaled = op != "Sub" and not (maker and maker["op"] == "DynamicQuantizeLinear")
            scope.alias[output], scope.roles[output] = inputs[0], "" if scaled else "unscaled"
        elif first is not None and second is not None and _codes(first) and len(first.steps) < MOST_STEPS:
            self.constants.values[output] = self._scaled_codes(op, first, second)
        else:
            return False
        self.constants.add_factors([second.base] if second else [], [0])
        return True

    def _scaled_codes(self, op: str, codes: Constant, second: Constant) -> Constant:
        factor = second.tensor
        if op in ("Add", "Div"):
            values = np.asarray(factor)
            with np.errstate(divide="ignore"):
                factor = LazyTensor.of(-values if op == "Add" else 1 / values, self.path, second.base)
        one = np.ones(1, np.float32)
        scale, zero = (factor, None) if op in ("Mul", "Div") else (one, factor)
        step = ("scale", op, second.base, second.steps)
        return self.constants.derived(codes, step, lambda: affine(codes.tensor, scale, zero, self.path))

    def _gather(self, node: dict, constant: Constant, scope: Scope) -> dict:
        """A table of integers whose rows are dequantized after they are looked up."""
        inputs, outputs = node["inputs"], node["outputs"]
        after = scope.factors_after(outputs[0], inputs[1:2])
        if constant.tensor.dtype in INDICES or after is None:
            return node
        axis = node["attributes"].get("axis", 0)
        value = f"{outputs[0]}:0"
        self.constants.values[value] = self.constants.scaled(
            constant, after.scale, after.zero, axis if isinstance(axis, int) else 0, 0
        )
        scope.roles[outputs[0]] = "unscaled"
        scope.roles.update(dict.fromkeys(after.made, "scale"))
        return {**node, "inputs": [value, *inputs[1:]]}

    def finish(self, nodes: list[dict]) -> Folded:
        """Names the constants that are left, each after the file's tensor that it is made of.

        A tensor that is read both as it is and, say, transposed, stays one: then the Transpose remains a node.
        """
        by_base: dict[str, dict[tuple, Constant]] = {}
        for constant in self.wanted.values():
            by_base.setdefault(constant.base, {})[constant.steps] = constant
        names: dict[tuple[str, tuple], str] = {}
        tensors: dict[str, LazyTensor] = {}
        first, numbers = [], {}
        for base, forms in by_base.items():
            common = _common([*forms])
            shared = self.constants.made[base, common]
            moved = all(step[0] in LAYOUT for steps in forms for step in steps[len(common) :])
            if len(forms) > 1 and not (shared.is_real and moved):  # codes with several scales
                for i, (steps, form) in enumerate(forms.items()):
                    name = names[base, steps] = base if not i else f"{base}:{i}"
                    if name in tensors or (i and name in self.constants.tensors):
                        raise CheckpointError(self.path, f"tensor {name!r} occurs twice", "export it again")
                    tensors[name] = form.tensor
                continue
            tensors[base] = shared.tensor
            for i, steps in enumerate(forms):
                name = base
                for j, (op, setting) in enumerate(steps[len(common) :]):
                    made = f"{base}:{i}.{j}"
                    attributes = {"perm": list(setting)} if op == "Transpose" else {}
                    extra = [] if op == "Transpose" else [f"{made}:shape"]
                    numbers |= {key: list(setting) for key in extra}
                    fields = {"op": op, "domain": "", "name": made, "inputs": [name, *extra], "outputs": [made]}
                    first.append({**fields, "attributes": attributes})
                    name = made
                names[base, steps] = name
        changed = {value: names[constant.base, constant.steps] for value, constant in self.wanted.items()}
        for name, tensor in self.constants.tensors.items():
            if name not in by_base and name not in self.constants.factors:
                tensors[name] = tensor
        kept = {name: tensors[name] for name in self.constants.tensors if name in tensors} | tensors
        kept = {checked_name(name, self.path): replace(tensor, name=name) for name, tensor in kept.items()}
        outputs = {name: changed.get(value, value) for name, value in self.outputs.items()}
        factors = tuple(name for name in self.constants.factors if name not in kept)
        nodes, warnings = [*first, *_renamed(nodes, changed)], tuple(self.constants.warnings)
        return Folded(nodes, outputs, kept, factors, numbers, warnings)


def _codes(constant: Constant | None) -> bool:
    """Whether a constant is integers cast to floating point, maybe less a zero point, that wait for their scale."""
    last = constant.steps[-1][:2] if constant is not None and constant.steps else ()
    return last in (("scale", "Cast"), ("scale", "Sub"), ("scale", "Add"))


def _common(forms: list[tuple]) -> tuple:
    """The steps that all forms begin with."""
    length = 0
    while all(len(form) > length for form in forms) and len({form[length] for form in forms}) == 1:
        length += 1
    return forms[0][:length]


def _renamed(nodes: list[dict], changed: Mapping[str, str]) -> list[dict]:
    result = []
    for node in nodes:
        node = {**node, "inputs": [changed.get(name, name) for name in node["inputs"]]}
        if bodies(node):
            node["attributes"] = {
                key: _renamed_body(value, changed) if isinstance(value, dict) else value
                for key, value in node["attributes"].items()
            }
        result.append(node)
    return result


def _renamed_body(body: dict, changed: Mapping[str, str]) -> dict:
    outputs = [{**value, "name": changed.get(value["name"], value["name"])} for value in body["outputs"]]
    return {**body, "nodes": _renamed(body["nodes"], changed), "outputs": outputs}

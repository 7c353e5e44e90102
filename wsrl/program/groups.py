"""Neuron groups: sets of units that a network's function does not distinguish.

Layers joined by an identity link (a residual stream, a norm, the query, key and value of attention) share one group:
their units can only be permuted together. So do layers that share weights, the steps of a recurrent network: a unit
keeps its place, scale and sign from step to step. `scale` says which scalings of a unit leave the function unchanged:
positive factors where all activations are positively homogeneous (ReLU), signs where they are odd (tanh) and no largest
value is taken.
"""

from dataclasses import dataclass

from wsrl.checkpoint import Checkpoint
from wsrl.program.layers import Layer, Program, View

HOMOGENEOUS = {"identity", "relu", "leaky_relu"}
ODD = {"identity", "tanh"}


@dataclass(frozen=True)
class Group:
    """A neuron group.

    Attributes:
      members: indices of the layers whose units it holds, in topological order.
      size: interchangeable units; of attention, the heads.
      role: `input`, `hidden` or `output`.
      scale: `positive`, `sign` or `none`.
    """

    id: str
    members: tuple[int, ...]
    size: int
    role: str
    scale: str

    @property
    def permutable(self) -> bool:
        """Whether a permutation of the units leaves the network's outputs as they are."""
        return self.role == "hidden"


def find_groups(program: Program) -> list[Group]:
    """Returns the neuron groups in topological order of their first members."""
    root = list(range(len(program.layers)))
    holder: dict[tuple[str, int], int] = {}  # first layer whose units a matrix computes
    for i, layer in enumerate(program.layers):
        for link in layer.links:
            weight = link.weight
            other = link.source if weight is None else holder.setdefault((weight.tensor, weight.part), i)
            old, new = sorted((root[i], root[other]), reverse=True)
            root = [new if r == old else r for r in root]
    groups = []
    for first in dict.fromkeys(root):
        members = tuple(i for i, r in enumerate(root) if r == first)
        layers = [program.layers[i] for i in members]
        if any(layer.op == "position" for layer in layers):
            continue
        role = "output" if len(program.layers) - 1 in members else layers[0].op
        role = role if role in ("input", "output") else "hidden"
        size = layers[0].heads if any(layer.op == "attention" for layer in layers) else layers[0].units
        groups.append(Group(f"g{len(groups)}", members, size, role, _scale(layers) if role == "hidden" else "none"))
    return groups


def _scale(layers: list[Layer]) -> str:
    activations = {layer.activation for layer in layers}
    if any(layer.op not in ("linear", "pool") for layer in layers):
        return "none"
    if activations <= HOMOGENEOUS:
        return "positive"
    odd = activations <= ODD and not any(layer.op == "pool" and layer.pooling == "max" for layer in layers)
    return "sign" if odd else "none"


def claim(program: Program, checkpoint: Checkpoint) -> dict:
    """Returns the groups and what every axis of every tensor holds, as plain JSON values.

    `{"parameters": n, "groups": {id: {size, role, permutable, scale}}, "tensors": {name: {shape, axes}}, "coverage"}`:
    an axis is None or a list of segments `{group, outer, size, inner, power}`; a segment covers outer x size x inner
    entries; the scale symmetry multiplies them by factor ** power.
    """
    groups = find_groups(program)
    group_of = {member: group for group in groups for member in group.members}
    axes: dict[str, list] = {name: [None] * t.ndim for name, t in checkpoint.tensors.items()}

    def describe(view: View | None, inputs: Group | None, outputs: Group | None, power: int) -> None:
        if view is None:
            return
        for i, names in enumerate(view.axes):
            for name, group, sign in (("in", inputs, -1), ("out", outputs, power)):
                dim = next((n for n in (name, "heads" if name == "out" else "heads_in") if n in names), None)
                if group is None or dim is None:
                    continue
                at = names.index(dim)
                outer, inner = (View("", (part,), view.sizes).shape[0] for part in (names[:at], names[at + 1 :]))
                scaled = sign if group.scale != "none" else 0
                segment = {"group": group.id, "outer": outer, "size": group.size, "inner": inner, "power": scaled}
                axes[view.tensor][i] = [segment]

    for i, layer in enumerate(program.layers):
        out, norm = group_of.get(i), layer.norm
        before = 0 if norm else 1  # a batch norm takes the scale of the weights before it away
        for link in layer.links:
            describe(link.weight, group_of.get(link.source), out, before)
        for bias in layer.biases:
            describe(bias, None, out, before)
        if norm:
            describe(norm.gain, None, out, 1)
            describe(norm.bias, None, out, 1)
            describe(norm.mean, None, out, 0)
            describe(norm.variance, None, out, 0)
    sizes = {name: t.size for name, t in checkpoint.tensors.items()}
    total = sum(sizes.values())
    graph = sum(size for name, size in sizes.items() if any(axes[name])) / total
    return {
        "parameters": total,
        "groups": {
            g.id: {"size": g.size, "role": g.role, "permutable": g.permutable, "scale": g.scale} for g in groups
        },
        "tensors": {n: {"shape": list(t.shape), "axes": axes[n]} for n, t in checkpoint.tensors.items()},
        "coverage": {"graph": graph, "sketch": 0.0, "ignored": 1.0 - graph},
    }

"""Neuron groups: sets of units that a network's function does not distinguish.

Layers joined by an identity link (a residual stream, a norm, the query, key and value of attention) share one group:
their units can only be permuted together. So do layers that share weights, the steps of a recurrent network: a unit
keeps its place, scale and sign from step to step. `scale` says which scalings of a unit leave the function unchanged:
positive factors where all activations are positively homogeneous (ReLU), signs where they are odd (tanh) and no largest
value is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsrl.program.layers import Layer, View
from wsrl.wiring.wiring import Axis, Neurons, Segment, Wiring

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


def find_groups(layers: Sequence[Layer]) -> list[Group]:
    """Returns the neuron groups in topological order of their first members."""
    root = list(range(len(layers)))
    holder: dict[tuple[str, int], int] = {}  # first layer whose units a matrix computes
    for i, layer in enumerate(layers):
        for link in layer.links:
            weight = link.weight
            other = link.source if weight is None else holder.setdefault((weight.tensor, weight.part), i)
            old, new = sorted((root[i], root[other]), reverse=True)
            root = [new if r == old else r for r in root]
    groups = []
    for first in dict.fromkeys(root):
        members = tuple(i for i, r in enumerate(root) if r == first)
        own = [layers[i] for i in members]
        if any(layer.op == "position" for layer in own):
            continue
        role = "output" if len(layers) - 1 in members else own[0].op
        role = role if role in ("input", "output") else "hidden"
        size = own[0].heads if any(layer.op == "attention" for layer in own) else own[0].units
        groups.append(Group(f"g{len(groups)}", members, size, role, _scale(own) if role == "hidden" else "none"))
    return groups


def _scale(layers: list[Layer]) -> str:
    activations = {layer.activation for layer in layers}
    if any(layer.op not in ("linear", "pool") for layer in layers):
        return "none"
    if activations <= HOMOGENEOUS:
        return "positive"
    odd = activations <= ODD and not any(layer.op == "pool" and layer.pooling == "max" for layer in layers)
    return "sign" if odd else "none"


def exact_wiring(layers: Sequence[Layer], inferred: Wiring) -> Wiring:
    """Returns a wiring with the groups that layers show, which are known better than names and shapes tell them.

    Args:
      layers: of a program.
      inferred: the wiring that it was compiled from, whose operations and shapes are kept. Its products are left out.
    """
    groups = find_groups(layers)
    group_of = {member: group for group in groups for member in group.members}
    axes: dict[str, list[Axis]] = {name: [None] * len(shape) for name, shape in inferred.shapes.items()}

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
                axes[view.tensor][i] = (Segment(group.id, group.size, outer, inner, scaled),)

    for i, layer in enumerate(layers):
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
    neurons = {group.id: Neurons(group.size, group.role, group.role == "hidden", group.scale) for group in groups}
    return replace(inferred, groups=neurons, axes={name: tuple(own) for name, own in axes.items()}, products=())

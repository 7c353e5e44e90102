"""The configuration of a Keras model as a graph of nodes, as readers of ONNX and TFLite files return them.

Nodes have TFLite's names where maps have their channels last, as in Keras; weights lie as Keras stores them, see
`keras_rules`. A layer of another kind becomes a node that no rule knows, so that what it reads stays fixed and a
warning names it.
"""

from collections.abc import Mapping, Sequence

from wsrl.wiring.keras_config import BROKEN, MODELS, KerasWalk, all_names, is_of_keras, layer_name
from wsrl.wiring.keras_layer import Layer, activation_op
from wsrl.wiring.keras_layers import LAYERS, MERGING, SLOPE
from wsrl.wiring.keras_sequences import CELLS
from wsrl.wiring.tree import Shape


def keras_graph(config: object, shapes: Mapping[str, Shape]) -> dict | None:
    """Returns `nodes`, `inputs`, `outputs` and `constants` of a model.

    Args:
      config: the model's configuration.
      shapes: of the tensors, which are called after the layers that own them.

    Returns:
      None if there is no configuration or it is not of a known form.
    """
    if not isinstance(config, Mapping) or config.get("class_name") not in MODELS:
        return None
    try:
        translation = _Translation(config, shapes)
        outputs = translation.add_model(config, None, "")
    except BROKEN:
        return None
    if not set(shapes) & {name for node in translation.nodes for name in node["inputs"]}:
        return None
    return {
        "nodes": translation.nodes,
        "inputs": translation.inputs,
        "outputs": [{"name": name} for name in outputs],
        "constants": {},
    }


class _Translation(KerasWalk):
    """Nodes so far, and the shapes of the values that they return, None where they are not known."""

    def __init__(self, config: Mapping, shapes: Mapping[str, Shape]):
        super().__init__()
        self.tensors = shapes
        self.nodes: list[dict] = []
        self.inputs: list[dict] = []
        self.shapes: dict[str, tuple[int | None, ...] | None] = {}
        models, layers = all_names(config)
        self.weights: dict[str, dict[str, str]] = {}
        for name in shapes:
            parts = name.split("/")
            place = next((i for i, part in enumerate(parts) if part in layers and part not in models), None)
            if place is not None and layers[parts[place]] > 1:
                raise ValueError("two layers of one name")
            if place is not None:
                self.weights.setdefault(parts[place], {})["/".join(parts[place + 1 :])] = name

    def pick(self, values: Sequence[str], number: int) -> str:
        """One of the values that a layer returns; of a layer of an unknown kind all are one."""
        return values[0] if self.shapes[values[0]] is None else values[number]

    def feed(self, name: str, shape: object) -> str:
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            raise ValueError("an input of an unknown shape")
        lengths = tuple(n if isinstance(n, int) else None for n in shape)
        self.shapes[name] = lengths
        self.inputs.append({"name": name, "shape": [*[None] * (len(lengths) - 1), lengths[-1]]})
        return name

    def add_layer(self, layer: Mapping, read: list[str], value: str) -> list[str]:
        """Adds the nodes of a layer, or one that no rule knows."""
        kind, config = layer["class_name"], layer["config"]
        owned = self.weights.get(layer_name(layer), {})
        before, rule = len(self.nodes), LAYERS.get(kind) if is_of_keras(layer) else None
        try:
            if rule is None or config.get("data_format", "channels_last") not in ("channels_last", None):
                raise ValueError("a layer of an unknown kind")
            if len(read) > 1 and kind not in MERGING:
                raise ValueError("it reads a mask or a state, too")
            own = Layer(layer_name(layer), config, owned, self.tensors, [self.shapes[name] for name in read])
            ends, shape = read, own.read[0]
            for op, tensors, attributes, returned in rule(own):
                ends, shape = [self._node(op, [*ends, *tensors], own.name, value, attributes)], returned
            if not own.is_used_up():
                raise ValueError("it has weights that are not understood")
        except BROKEN:
            del self.nodes[before:]
            missing = f"Keras {kind}"
            return [self._unknown(missing, [*read, *owned.values()], layer_name(layer), value)]
        (end,) = ends
        told = config.get("activation") if kind not in CELLS else None  # theirs is within
        if told not in (None, "linear"):
            op = activation_op(told)
            if op is None:
                return [self._unknown(f"Keras activation {str(told)[:40]}", [end], own.name, f"{value}/activation")]
            end = self._node(op, [end], own.name, value, {"alpha": SLOPE} if op == "LEAKY_RELU" else {})
        self.shapes[end] = shape
        return [end]

    def _node(self, op: str, inputs: Sequence[str], name: str, value: str, attributes: Mapping) -> str:
        output = f"{value}:{len(self.nodes)}"
        if op == "GATHER":  # which reads the table first
            inputs = [*inputs[1:], inputs[0]]
        self.nodes.append(
            {"op": op, "name": name, "inputs": [*inputs], "outputs": [output], "attributes": {**attributes}}
        )
        return output

    def _unknown(self, op: str, inputs: Sequence[str], name: str, value: str) -> str:
        output = self._node(op, inputs, name, value, {})
        self.shapes[output] = None
        return output

"""The configuration of a Keras model as a graph of nodes, as readers of ONNX and TFLite files return them.

Functional and sequential models of Keras 2 and 3, also within one another, and layers that are called more than once.
Nodes have TFLite's names where maps have their channels last, as in Keras; weights lie as Keras stores them, see
`keras_rules`. A layer of another kind becomes a node that no rule knows, so that what it reads stays fixed and a
warning names it. No layer is built, and no code of a configuration runs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from wsrl.wiring.keras_layer import Layer, activation_op
from wsrl.wiring.keras_layers import LAYERS, MERGING, SLOPE
from wsrl.wiring.keras_sequences import CELLS
from wsrl.wiring.tree import Shape

MODELS = ("Sequential", "Functional", "Model")
INPUT = "InputLayer"
Reference = tuple[str, int, int]  # name of a layer, number of its call, number of the output
MOST_CALLS = 5_000  # of layers: inner models that are called often, in one another, may stand for any number
BROKEN = (
    RecursionError,
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
)  # what a configuration of another form raises


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


class _Translation:
    """Nodes so far, and the shapes of the values that they return, None where they are not known."""

    def __init__(self, config: Mapping, shapes: Mapping[str, Shape]):
        self.tensors = shapes
        self.nodes: list[dict] = []
        self.inputs: list[dict] = []
        self.calls = 0
        self.shapes: dict[str, tuple[int | None, ...] | None] = {}
        models, layers = _all_names(config)
        self.weights: dict[str, dict[str, str]] = {}
        for name in shapes:
            parts = name.split("/")
            place = next((i for i, part in enumerate(parts) if part in layers and part not in models), None)
            if place is not None and layers[parts[place]] > 1:
                raise ValueError("two layers of one name")
            if place is not None:
                self.weights.setdefault(parts[place], {})["/".join(parts[place + 1 :])] = name

    def add_model(self, config: Mapping, given: Sequence[str] | None, path: str) -> list[str]:
        """Adds the layers of a model; returns the values that it returns.

        Args:
          config: of the model.
          given: values that it reads; None where it is the whole network.
          path: what names of its values begin with.
        """
        own = config["config"]
        layers = own["layers"] if isinstance(own, Mapping) else own
        if config["class_name"] == "Sequential":
            return self._add_sequence(own, layers, given, path)
        read = [name for name, _, _ in _references(own["input_layers"], _names(layers))]
        fed = dict(zip(read, given, strict=True)) if given is not None else {}
        calls = {name: _calls(layer, _names(layers)) for layer in layers for name in [_name(layer)]}
        used = [r for each in calls.values() for call in each for r in call]
        returned = list(_references(own["output_layers"], _names(layers)))
        first = _first_calls([*used, *returned], calls)
        values: dict[tuple[str, int], list[str]] = {}
        waiting = [(layer, i) for layer in layers for i in range(len(calls[_name(layer)]))]
        while waiting:
            left = []
            for layer, i in waiting:
                name = _name(layer)
                needed = [(other, call - first[other]) for other, call, _ in calls[name][i]]
                if not all(key in values for key in needed):
                    left.append((layer, i))
                    continue
                read_values = [self._pick(values[key], n) for key, (*_, n) in zip(needed, calls[name][i], strict=True)]
                values[name, i] = self._add(layer, read_values, f"{path}{name}:{i}", fed.get(name))
            if len(left) == len(waiting):
                raise ValueError("layers that read one another")
            waiting = left
        return [self._pick(values[name, call - first[name]], n) for name, call, n in returned]

    def _pick(self, values: Sequence[str], number: int) -> str:
        """One of the values that a layer returns; of a layer of an unknown kind all are one."""
        return values[0] if self.shapes[values[0]] is None else values[number]

    def _add_sequence(self, own: object, layers: Sequence, given: Sequence[str] | None, path: str) -> list[str]:
        value = list(given or ())
        for i, layer in enumerate(layers):
            if not value and layer["class_name"] != INPUT:
                told = own.get("build_input_shape") if isinstance(own, Mapping) else None
                told = _first_shape(layer) or told or layer.get("build_config", {})["input_shape"]
                value = [self._feed(f"{path}input:0", told)]
            if layer["class_name"] != INPUT or not value:
                value = self._add(layer, value, f"{path}{_name(layer)}:{i}", None)
        return value

    def _feed(self, name: str, shape: object) -> str:
        if not isinstance(shape, list | tuple) or len(shape) < 2:
            raise ValueError("an input of an unknown shape")
        lengths = tuple(n if isinstance(n, int) else None for n in shape)
        self.shapes[name] = lengths
        self.inputs.append({"name": name, "shape": [*[None] * (len(lengths) - 1), lengths[-1]]})
        return name

    def _add(self, layer: Mapping, read: list[str], value: str, fed: str | None) -> list[str]:
        """Adds a layer or an inner model that reads values; returns what it returns."""
        kind, config = layer["class_name"], layer["config"]
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise ValueError("too many calls of layers")
        if kind == INPUT:
            return [fed if fed is not None else self._feed(value, config.get("batch_shape", _first_shape(layer)))]
        if kind in MODELS:
            return self.add_model({"class_name": kind, "config": config}, read, f"{value}/")
        owned = self.weights.get(_name(layer), {})
        before, rule = len(self.nodes), LAYERS.get(kind) if _is_of_keras(layer) else None
        try:
            if rule is None or config.get("data_format", "channels_last") not in ("channels_last", None):
                raise ValueError("a layer of an unknown kind")
            if len(read) > 1 and kind not in MERGING:
                raise ValueError("it reads a mask or a state, too")
            own = Layer(_name(layer), config, owned, self.tensors, [self.shapes[name] for name in read])
            ends, shape = read, own.read[0]
            for op, tensors, attributes, returned in rule(own):
                ends, shape = [self._node(op, [*ends, *tensors], own.name, value, attributes)], returned
            if not own.is_used_up():
                raise ValueError("it has weights that are not understood")
        except BROKEN:
            del self.nodes[before:]
            missing = f"Keras {kind}"
            return [self._unknown(missing, [*read, *owned.values()], _name(layer), value)]
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


def _is_of_keras(layer: Mapping) -> bool:
    """Whether a layer is none of a user's own that has the name of one of Keras'."""
    module, registered = layer.get("module") or "keras", layer.get("registered_name")
    return str(module).split(".")[0] in ("keras", "tf_keras", "tensorflow") and registered in (
        None,
        layer["class_name"],
    )


def _name(layer: Mapping) -> str:
    config = layer["config"]
    return str(config["name"] if isinstance(config, Mapping) and "name" in config else layer["name"])


def _names(layers: Sequence[Mapping]) -> set[str]:
    return {_name(layer) for layer in layers}


def _first_shape(layer: Mapping) -> object:
    config = layer["config"]
    if layer["class_name"] in MODELS:
        inner = config["layers"] if isinstance(config, Mapping) else config
        return _first_shape(inner[0])
    return config.get("batch_shape", config.get("batch_input_shape"))


def _references(value: object, names: set[str]) -> Iterator[Reference]:
    """References to layers in what a configuration says of inputs or outputs, in order."""
    if isinstance(value, list | tuple):
        match value:
            case [str(name), int(call), int(output), *rest] if name in names:
                yield name, call, output
                yield from _references(rest, names)
            case _:
                for inner in value:
                    yield from _references(inner, names)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _references(inner, names)


def _calls(layer: Mapping, names: set[str]) -> list[list[Reference]]:
    """What each call of a layer reads."""
    nodes = layer["inbound_nodes"]
    if layer["class_name"] == INPUT:
        return [[]]
    if not nodes:
        raise ValueError("a layer that is never called")
    return [list(_references(node, names)) for node in nodes]


def _first_calls(used: Sequence[Reference], calls: Mapping[str, Sequence]) -> dict[str, int]:
    """The number that references give to the first call of each layer; inner models' own making counts as a call."""
    most = dict.fromkeys(calls, 0)
    for name, call, _ in used:
        most[name] = max(most[name], call)
    return {name: max(0, most[name] - len(calls[name]) + 1) for name in calls}


def _all_names(config: Mapping) -> tuple[set[str], Counter[str]]:
    """Names of inner models, and how many layers that are none have each name."""
    models: set[str] = set()
    layers: Counter[str] = Counter()
    own = config["config"]
    for layer in own["layers"] if isinstance(own, Mapping) else own:
        if layer["class_name"] in MODELS:
            inner = _all_names(layer)
            models |= {_name(layer), *inner[0]}
            layers += inner[1]
        else:
            layers[_name(layer)] += 1
    return models, layers

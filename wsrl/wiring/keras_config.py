"""The configuration of a Keras model, walked: which layer reads what, in an order in which all is known.

Functional and sequential models of Keras 2 and 3, also within one another, and layers that are called more than once.
https://keras.io/api/models/model_saving_apis. No layer is built, and no code of a configuration runs.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

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


class KerasWalk(ABC):
    """Walks the layers of a model and hands each on with the names of the values that it reads."""

    def __init__(self) -> None:
        self._calls = 0

    @abstractmethod
    def feed(self, name: str, shape: object) -> str:
        """Takes up an input of the whole network; returns the name of its value.

        Args:
          name: that it may have.
          shape: what the configuration says of it, with the batch; None if it says nothing.
        """

    @abstractmethod
    def add_layer(self, layer: Mapping, read: list[str], value: str) -> list[str]:
        """Takes up a call of a layer; returns the names of what it returns.

        Args:
          layer: its class and configuration; never that of a model or an input.
          read: names of the values that it reads.
          value: a name for what it returns.
        """

    def pick(self, values: Sequence[str], number: int) -> str:
        """One of the values that a layer returns."""
        return values[number]

    def add_model(self, config: Mapping, given: Sequence[str] | None, path: str) -> list[str]:
        """Walks the layers of a model; returns the values that it returns.

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
        calls = {name: _calls(layer, _names(layers)) for layer in layers for name in [layer_name(layer)]}
        used = [r for each in calls.values() for call in each for r in call]
        returned = list(_references(own["output_layers"], _names(layers)))
        first = _first_calls([*used, *returned], calls)
        values: dict[tuple[str, int], list[str]] = {}
        waiting = [(layer, i) for layer in layers for i in range(len(calls[layer_name(layer)]))]
        while waiting:
            left = []
            for layer, i in waiting:
                name = layer_name(layer)
                needed = [(other, call - first[other]) for other, call, _ in calls[name][i]]
                if not all(key in values for key in needed):
                    left.append((layer, i))
                    continue
                read_values = [self.pick(values[key], n) for key, (*_, n) in zip(needed, calls[name][i], strict=True)]
                values[name, i] = self._add(layer, read_values, f"{path}{name}:{i}", fed.get(name))
            if len(left) == len(waiting):
                raise ValueError("layers that read one another")
            waiting = left
        return [self.pick(values[name, call - first[name]], n) for name, call, n in returned]

    def _add_sequence(self, own: object, layers: Sequence, given: Sequence[str] | None, path: str) -> list[str]:
        value = list(given or ())
        for i, layer in enumerate(layers):
            if not value and layer["class_name"] != INPUT:
                told = own.get("build_input_shape") if isinstance(own, Mapping) else None
                told = _first_shape(layer) or told or layer.get("build_config", {}).get("input_shape")
                value = [self.feed(f"{path}input:0", told)]
            if layer["class_name"] != INPUT or not value:
                value = self._add(layer, value, f"{path}{layer_name(layer)}:{i}", None)
        return value

    def _add(self, layer: Mapping, read: list[str], value: str, fed: str | None) -> list[str]:
        """Adds a layer or an inner model that reads values; returns what it returns."""
        kind, config = layer["class_name"], layer["config"]
        self._calls += 1
        if self._calls > MOST_CALLS:
            raise ValueError("too many calls of layers")
        if kind == INPUT:
            return [fed if fed is not None else self.feed(value, config.get("batch_shape", _first_shape(layer)))]
        if kind in MODELS:
            return self.add_model({"class_name": kind, "config": config}, read, f"{value}/")
        return self.add_layer(layer, read, value)


def ends(config: Mapping) -> tuple[int, int]:
    """How many values a model reads and returns."""
    own = config["config"]
    if config["class_name"] == "Sequential":
        return 1, 1
    inputs, outputs = (list(_references(own[key], None)) for key in ("input_layers", "output_layers"))
    return len(inputs), len(outputs)


def is_of_keras(layer: Mapping) -> bool:
    """Whether a layer is none of a user's own that has the name of one of Keras'."""
    module, registered = layer.get("module") or "keras", layer.get("registered_name")
    return str(module).split(".")[0] in ("keras", "tf_keras", "tensorflow") and registered in (
        None,
        layer["class_name"],
    )


def layer_name(layer: Mapping) -> str:
    """Name of a layer."""
    config = layer["config"]
    return str(config["name"] if isinstance(config, Mapping) and "name" in config else layer["name"])


def _names(layers: Sequence[Mapping]) -> set[str]:
    return {layer_name(layer) for layer in layers}


def _first_shape(layer: Mapping) -> object:
    config = layer["config"]
    if layer["class_name"] in MODELS:
        inner = config["layers"] if isinstance(config, Mapping) else config
        return _first_shape(inner[0])
    return config.get("batch_shape", config.get("batch_input_shape"))


def _references(value: object, names: set[str] | None) -> Iterator[Reference]:
    """References to layers in what a configuration says of inputs or outputs, in order; None for layers of any name."""
    if isinstance(value, list | tuple):
        match value:
            case [str(name), int(call), int(output), *rest] if names is None or name in names:
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


def all_names(config: Mapping) -> tuple[set[str], Counter[str]]:
    """Names of inner models, and how many layers that are none have each name."""
    models: set[str] = set()
    layers: Counter[str] = Counter()
    own = config["config"]
    for layer in own["layers"] if isinstance(own, Mapping) else own:
        if layer["class_name"] in MODELS:
            inner = all_names(layer)
            models |= {layer_name(layer), *inner[0]}
            layers += inner[1]
        else:
            layers[layer_name(layer)] += 1
    return models, layers

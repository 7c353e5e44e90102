"""Order, inputs and facts of operations from the configuration of a Keras model: a chain of layers, or sums of chains.

Layers refer to those before them in one of two forms, that of Keras 2 and that of Keras 3; each names a layer beside
the numbers of its call and of its output. https://keras.io/api/models/model_saving_apis.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from wsrl.wiring.following import GLOBAL, Following
from wsrl.wiring.usual_forms import path_of
from wsrl.wiring.wiring import Fact, Operation

PASSED = ("Dropout", "SpatialDropout2D", "Flatten", "Activation", "GaussianNoise", "ActivityRegularization")
ACTIVATIONS = {"ReLU": "relu", "Softmax": "softmax", "LeakyReLU": "leaky_relu", "ELU": "elu"}
POOLS = {
    **{"MaxPooling2D": "max", "AveragePooling2D": "average", "GlobalAveragePooling2D": GLOBAL},
    **{"GlobalMaxPooling2D": "global max"},
}
SLOPE = 0.01  # of the leaky ReLU that can be run; Keras' own is another


def in_configured_order(operations: Sequence[Operation], config: object) -> tuple[Operation, ...]:
    """Returns the operations as a Keras configuration orders and describes them; as they are where it cannot.

    Args:
      operations: each has a layer's name as the last part of its own.
      config: `keras_config` of the metadata.
    """
    by_name = {path_of(operation)[-1]: operation for operation in operations}
    if len(by_name) != len(operations):
        return tuple(operations)
    try:
        built = _Model(by_name).build(list(configured_layers(config)))
    except (KeyError, TypeError, ValueError, IndexError):  # a configuration of another form
        return tuple(operations)
    return built if len(built) == len(operations) else tuple(operations)


def configured_layers(config: object) -> Iterator[tuple[str, str, Mapping, list[str]]]:
    """(name, class, configuration, names of the layers that it reads) of a model's layers; those of inner ones are not.

    Raises:
      KeyError, TypeError: the configuration is of another form.
    """
    inner = config["config"] if isinstance(config, Mapping) else {}
    sequential = config["class_name"] == "Sequential" if isinstance(config, Mapping) else False
    before: list[str] = []
    for layer in inner["layers"]:
        own = layer["config"]
        name = str(own.get("name", layer.get("name")))
        yield name, str(layer["class_name"]), own, before if sequential else list(layer_names(layer["inbound_nodes"]))
        before = [name]


def layer_names(nodes: object) -> Iterator[str]:
    """Names of layers in what a layer says of its inputs, or a model of its own and its outputs."""
    if isinstance(nodes, list | tuple) and len(nodes) > 2 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
        yield nodes[0]
    elif isinstance(nodes, Mapping | list | tuple):
        for inner in nodes.values() if isinstance(nodes, Mapping) else nodes:
            yield from layer_names(inner)


class _Model:
    """Layers on the way from inputs to outputs.

    Attributes:
      given: operations by the names of their layers.
      built: those in order.
      origins: layer -> operations whose sum it returns; none where it hands on the input.
      around: place of an operation -> what follows it; of -1, what comes before the first.
    """

    def __init__(self, given: Mapping[str, Operation]):
        self.given = given
        self.built: list[Operation] = []
        self.origins: dict[str, tuple[int, ...]] = {}
        self.around: dict[int, Following] = {-1: Following("config")}
        self.shape: Fact | None = None

    def build(self, layers: Sequence[tuple[str, str, Mapping, list[str]]]) -> tuple[Operation, ...]:
        """Returns the operations in order, with what follows each."""
        for name, kind, config, inbound in layers:
            self._read_shape(config)
            origins = tuple(sorted({i for other in inbound for i in self.origins[other]}))
            if name in self.given:
                self.origins[name] = self._put(self.given[name], kind, config, origins)
            else:
                if kind == "Add" and all(len(self.origins[other]) > 0 for other in inbound):
                    for i in {self.origins[other][-1] for other in inbound}:
                        self.around[i].add("none")
                elif kind != "InputLayer":
                    self._follow(kind, config, origins)
                self.origins[name] = origins
        return tuple(self._finished())

    def _finished(self) -> Iterator[Operation]:
        before = self.around[-1].facts
        for i, operation in enumerate(self.built):
            facts = {**operation.facts, **self.around[i].facts}
            readers = [o for o in self.built if i in o.inputs]
            normed = len(readers) == 1 and readers[0].type == "batch norm"
            if not normed and "followed_by" not in facts:
                facts.setdefault("activation", Fact("none", "config"))
            if not operation.inputs:
                facts |= {"preceded_by": next(iter(before.values()))} if before else {}
                facts |= {"input": self.shape} if self.shape else {}
            yield replace(operation, facts=facts)

    def _read_shape(self, config: Mapping) -> None:
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        image = tuple(shape[1:]) if isinstance(shape, list | tuple) else ()
        if self.shape is None and len(image) == 3 and all(isinstance(n, int) for n in image):
            self.shape = Fact(image, "config")

    def _put(self, operation: Operation, kind: str, config: Mapping, origins: tuple[int, ...]) -> tuple[int, ...]:
        """Puts the operation of a layer behind the others; returns its place."""
        facts = {key: fact for key, fact in operation.facts.items() if fact.source != "graph"}  # this tells more
        if operation.type == "conv":
            facts["stride"] = Fact(_pair(config["strides"]), "config")
            facts["padding"] = Fact(str(config["padding"]).lower(), "config")
            facts["dilation"] = Fact(_pair(config.get("dilation_rate", 1)), "config")
            facts["groups"] = Fact(int(config.get("groups", 1)), "config")
        self.built.append(replace(operation, inputs=origins, source="config", facts=facts))
        place = len(self.built) - 1
        self.around[place] = Following("config")
        if kind not in ("Conv2D", "Dense", "BatchNormalization", "LayerNormalization"):
            self.around[place].stop(kind)
        if config.get("data_format", "channels_last") not in ("channels_last", None):
            self.around[place].stop(str(config["data_format"]))
        self._activate(place, config.get("activation"))
        return (place,)

    def _follow(self, kind: str, config: Mapping, origins: tuple[int, ...]) -> None:
        """Takes up a layer without weights."""
        if len(origins) > 1:  # what follows a sum follows its last summand
            fact = self.around[origins[-1]].facts.get("sum_activation")
            own = ACTIVATIONS.get(kind) or (config.get("activation") if kind == "Activation" else None)
            if fact is not None and fact.value == "none" and isinstance(own, str):
                self.around[origins[-1]].add(own)
            elif kind not in (*PASSED, "GlobalAveragePooling2D"):
                self.around[origins[-1]].stop(kind)
            return
        own = self.around[origins[0] if origins else -1]
        if kind in ACTIVATIONS:
            slope = config.get("negative_slope", config.get("alpha", 0.0)) or 0.0
            usual = {"LeakyReLU": SLOPE}.get(kind, 0.0)
            if (config.get("max_value") is not None) or (kind != "ELU" and abs(float(slope) - usual) > 1e-6):
                own.stop(f"{kind} of other settings")
            own.activate(ACTIVATIONS[kind])
        elif kind in POOLS and kind.startswith("Global"):
            own.pool(POOLS[kind])
        elif kind in POOLS:
            window = _pair(config["pool_size"])
            own.pool(POOLS[kind], window, _pair(config.get("strides") or window), str(config["padding"]).lower())
        elif kind not in PASSED:
            own.stop(kind)
        if kind == "Activation":
            self._activate(origins[0] if origins else -1, config.get("activation"))

    def _activate(self, place: int, activation: object) -> None:
        if activation in (None, "linear"):
            return
        if not isinstance(activation, str) or activation == "leaky_relu":  # of another slope than the one that is run
            self.around[place].stop(str(activation)[:40])
        else:
            self.around[place].activate(activation)


def _pair(value: object) -> tuple[int, ...]:
    return tuple(int(n) for n in value) if isinstance(value, list | tuple) else (int(value),) * 2  # type: ignore[call-overload]

"""What configurations say of operations beside their tensors, and what has to be assumed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from wsrl.wiring.wiring import Fact, Operation

EPSILON = 1e-5  # PyTorch's for both kinds of norms, and Flax's for batch norms
FLAX_EPSILON = 1e-6  # of Flax's other norms, whose gains are called `scale`
KERAS_EPSILON = 1e-3
LAYERS = ("linear", "conv", "transposed conv")
ACTIVATION_KEYS = ("hidden_act", "activation_function", "hidden_activation", "dense_act_fn", "activation")
EPSILON_KEYS = {
    "norm": ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_epsilon", "norm_eps", "layernorm_epsilon"),
    "batch norm": ("batch_norm_eps", "batch_norm_epsilon"),
}


def with_facts(operations: Sequence[Operation], metadata: Mapping[str, object]) -> tuple[Operation, ...]:
    """Returns operations with their activations and epsilons.

    The activation of a layer whose only reader is a batch norm is that of the norm. It is unknown, and so assumed,
    for layers between others where nothing tells.

    Args:
      metadata: of the checkpoint: `activation` (of all hidden layers), `config`, `keras_config`.
    """
    readers: list[list[int]] = [[] for _ in operations]
    for i, operation in enumerate(operations):
        for j in operation.inputs:
            readers[j].append(i)
    config = metadata.get("config")
    config = config if isinstance(config, Mapping) else {}
    keras = dict(_keras_layers(metadata.get("keras_config")))
    from_keras = "keras_config" in metadata or metadata.get("format") == "Keras"  # whose weight files have none
    found = []
    for i, operation in enumerate(operations):
        facts = dict(operation.facts)
        if operation.type in EPSILON_KEYS and "epsilon" not in facts:
            facts["epsilon"] = _epsilon(operation, config, keras, from_keras)
        if "activation" not in facts and _is_hidden(i, operations, readers):
            facts["activation"] = _activation(i, operations, readers, metadata.get("activation"), config, keras)
        found.append(replace(operation, facts=facts))
    return tuple(found)


def _is_hidden(i: int, operations: Sequence[Operation], readers: Sequence[list[int]]) -> bool:
    """Whether an activation may follow: a layer, or the batch norm after it, that others read."""
    operation, own = operations[i], readers[i]
    normed = len(own) == 1 and operations[own[0]].type == "batch norm" and operations[own[0]].inputs == (i,)
    return operation.type in (*LAYERS, "batch norm") and bool(own) and not normed


def _activation(
    i: int,
    operations: Sequence[Operation],
    readers: Sequence[list[int]],
    given: object,
    config: Mapping,
    keras: Mapping[str, Mapping],
) -> Fact:
    if isinstance(given, str) and given:
        return Fact(given.lower(), "metadata")
    own = keras.get(_last(operations[i].name), {}).get("activation")
    if isinstance(own, str) and own != "linear":
        return Fact(own, "config")
    named = next((config[key] for key in ACTIVATION_KEYS if isinstance(config.get(key), str)), None)
    alone = all(operations[j].inputs == (i,) and operations[j].type == "linear" for j in readers[i])
    if named is not None and operations[i].type == "linear" and alone:
        return Fact(named, "config")
    return Fact(None, "assumed")


def _epsilon(operation: Operation, config: Mapping, keras: Mapping[str, Mapping], from_keras: bool) -> Fact:
    own = keras.get(_last(operation.name), {}).get("epsilon")
    values = [own, *(config.get(key) for key in EPSILON_KEYS[operation.type])]
    known = next((value for value in values if isinstance(value, float) and 0 < value < 1), None)
    if known is not None:
        return Fact(known, "config")
    flax = operation.type == "norm" and operation.tensors.get("gain", "").endswith("/scale")
    return Fact(KERAS_EPSILON if from_keras else FLAX_EPSILON if flax else EPSILON, "assumed")


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _keras_layers(config: object, depth: int = 0) -> Iterator[tuple[str, Mapping]]:
    """(name, configuration) of the layers of a Keras model, and of models within it."""
    inner = config.get("config") if isinstance(config, Mapping) else None
    layers = inner.get("layers") if isinstance(inner, Mapping) else None
    for layer in layers if isinstance(layers, list) and depth < 8 else ():
        own = layer.get("config") if isinstance(layer, Mapping) else None
        if isinstance(own, Mapping):
            yield str(own.get("name")), own
            yield from _keras_layers(layer, depth + 1)

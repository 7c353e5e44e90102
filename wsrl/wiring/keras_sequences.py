"""What Keras layers that read sequences do, as nodes of a graph, and the shapes that they return.

https://keras.io/api/layers.
"""

from collections.abc import Iterator, Mapping

from wsrl.wiring.keras_layer import Layer, Made, activation_op

CELLS = ("LSTM", "GRU", "SimpleRNN")
MERGES = ("concat", "sum", "ave", "mul")  # of the two directions


def embedding(layer: Layer) -> Iterator[Made]:
    """Yields the reading of a table [words, units]."""
    table = layer.weight("embeddings")
    _, units = layer.shape(table)
    yield "GATHER", [table], {}, (*layer.known(), units)


def recurrent(layer: Layer) -> Iterator[Made]:
    """Yields a cell that reads a sequence [batch, length, units] and returns all of its states or the last."""
    if len(layer.read) > 1 or layer.config.get("return_state") or layer.config.get("time_major"):
        raise ValueError("states from outside, or returned")
    _check_activations(layer.config)
    kernel, states = layer.weight("kernel"), layer.weight("recurrent_kernel")
    batch, length, _ = layer.known()
    (units, rows), whole = layer.shape(states), bool(layer.config.get("return_sequences"))
    if not units or rows % units or not rows:
        raise ValueError("no gates")
    told = {"sequences": whole}
    shape = (batch, length, units) if whole else (batch, units)
    yield "LSTM", [kernel, states, layer.optional("bias", "use_bias")], told, shape


def bidirectional(layer: Layer) -> Iterator[Made]:
    """Yields the two cells of a layer that reads a sequence both ways."""
    inner, merge = layer.config["layer"], layer.config.get("merge_mode")
    own: Mapping = inner["config"]
    back = layer.config.get("backward_layer") or inner
    if not inner["class_name"] == back["class_name"] in CELLS or merge not in MERGES:
        raise ValueError("cells of an unknown kind, or of two kinds")
    if len(layer.read) > 1 or own.get("return_state") or own.get("time_major"):
        raise ValueError("states from outside, or returned")
    _check_activations(own)
    _check_activations(back["config"])
    names, units = [], []
    for side in ("forward_", "backward_"):
        states = layer.weight("recurrent_kernel", side)
        width, rows = layer.shape(states)
        if not width or rows % width or not rows:
            raise ValueError("no gates")
        units.append(width)
        bias = layer.weight("bias", side) if own.get("use_bias", True) else ""
        names += [layer.weight("kernel", side), states, bias]
    batch, length, _ = layer.known()
    whole, width = bool(own.get("return_sequences")), sum(units) if merge == "concat" else units[0]
    shape = (batch, length, width) if whole else (batch, width)
    yield "BIDIRECTIONAL", names, {"sequences": whole, "merge": merge}, shape


def _check_activations(config: Mapping) -> None:
    """Raises ValueError where a cell has an activation that may mix units."""
    for key in ("activation", "recurrent_activation"):
        told = config.get(key)
        if told not in (None, "linear") and activation_op(told) is None:
            raise ValueError("an unknown activation")


def attention(layer: Layer) -> Iterator[Made]:
    """Yields attention with heads: queries are made of what is read first, keys and values of what is read next."""
    told = layer.config
    if len(layer.read) != 2 or told.get("use_gate") or isinstance(told.get("output_shape"), list):
        raise ValueError("a mask, keys of their own or gates")
    if len(layer.known()) != 3 or told.get("attention_axes") not in (None, 1, [1]):
        raise ValueError("attention over several axes")
    names = []
    for part in ("query", "key", "value", "attention_output"):
        bias = layer.weight(f"{part}/bias") if told.get("use_bias", True) else ""
        names += [layer.weight(f"{part}/kernel"), bias]
    yield "MultiHeadAttention", names, {}, (*layer.known()[:2], layer.shape(names[-2])[-1])

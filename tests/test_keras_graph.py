"""Claims about Keras models are put to the test: permuted networks are run by a forward pass written out in NumPy."""

import numpy as np
import pytest

from wsrl.canonical.norms import find_folds
from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

rng = np.random.default_rng(0)


def layer(kind, name, *inbound, calls=None, **config):
    """A layer that reads others, `name` or `name:call:output`; with `calls`, a list of what each call reads."""
    return {"class_name": kind, "config": {"name": name, **config}, "calls": calls or ([inbound] if inbound else [])}


def functional(layers, inputs, outputs, form, name="net"):
    """A configuration in the form of Keras 2 or 3."""

    def reference(text):
        parts = text.split(":")
        return [parts[0], *(int(n) for n in [*parts[1:], "0", "0"][:2])]

    def call(read):
        if form == 2:
            return [[*reference(text), {}] for text in read]
        tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": reference(t)}} for t in read]
        return {"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {"mask": None}}

    told = [
        {key: value for key, value in each.items() if key != "calls"}
        | {"name": each["config"]["name"], "inbound_nodes": [call(read) for read in each["calls"]]}
        for each in layers
    ]
    ends = {"input_layers": [reference(t) for t in inputs], "output_layers": [reference(t) for t in outputs]}
    if form == 3 and len(outputs) == 1:
        ends["output_layers"] = ends["output_layers"][0]
    return {"class_name": "Functional", "config": {"name": name, "layers": told, **ends}}


def draw(**shapes):
    """Tensors by their names, `__` for a slash."""
    return {name.replace("__", "/"): rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def dense(t, name, x):
    return x @ t[f"{name}/kernel"] + t[f"{name}/bias"]


def conv(kernel, x):
    """Over windows that lie within the maps."""
    *size, _, _ = kernel.shape
    lengths = [n - k + 1 for n, k in zip(x.shape[1:], size, strict=False)]
    total = 0.0
    for place in np.ndindex(*size):
        view = x[(slice(None), *(slice(i, i + n) for i, n in zip(place, lengths, strict=True)))]
        total = total + view @ kernel[place]
    return total


def depthwise(kernel, x):
    channels, times = kernel.shape[-2:]
    wide = np.zeros((*kernel.shape[:-1], channels * times), np.float32)
    for c in range(channels):
        wide[..., c, c * times : (c + 1) * times] = kernel[..., c, :]
    return conv(wide, x)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def branches(form):
    """Two inputs: maps that are pooled and flattened, and a vector; they are read one after the other."""
    t = draw(c__kernel=(3, 4, 6), c__bias=(6,), d__kernel=(5, 7), d__bias=(7,))
    t |= draw(e__kernel=(4 * 6 + 7, 8), e__bias=(8,), f__kernel=(8, 3), f__bias=(3,))
    layers = [
        layer("InputLayer", "a", batch_shape=[None, 10, 4]),
        layer("InputLayer", "b", batch_shape=[None, 5]),
        layer("Conv1D", "c", "a", strides=[1], padding="valid", activation="relu"),
        layer("MaxPooling1D", "p", "c", pool_size=[2], strides=[2], padding="valid"),
        layer("Flatten", "flat", "p"),
        layer("Dense", "d", "b", activation="tanh"),
        layer("Concatenate", "both", "flat", "d", axis=-1),
        layer("Dense", "e", "both", activation="leaky_relu"),
        layer("Dense", "f", "e", activation="linear"),
    ]

    def forward(t, a, b):
        x = relu(conv(t["c/kernel"], a) + t["c/bias"]).reshape(len(a), 4, 2, 6).max(axis=2)
        x = np.concatenate([x.reshape(len(a), -1), np.tanh(dense(t, "d", b))], axis=1)
        x = dense(t, "e", x)
        return dense(t, "f", np.where(x > 0, x, 0.2 * x))

    return t, functional(layers, "ab", "f", form), [(10, 4), (5,)], forward, {6, 7, 8}


def dense_block(form):
    """Maps with gates from their own mean, kept beside those that are made of them."""
    t = draw(c__kernel=(1, 1, 3, 4), c__bias=(4,), w__depthwise_kernel=(2, 2, 4, 2), w__bias=(8,))
    t |= draw(n__gamma=(8,), n__beta=(8,), n__moving_mean=(8,)) | {"n/moving_variance": np.ones(8, np.float32)}
    t |= draw(s__depthwise_kernel=(1, 1, 8, 1), s__pointwise_kernel=(1, 1, 8, 5), s__bias=(5,))
    t |= draw(g__kernel=(8, 3), g__bias=(3,), h__kernel=(3, 8), h__bias=(8,), o__kernel=(3, 3, 13, 2))
    conv2d = {"padding": "valid", "strides": [1, 1]}
    layers = [
        layer("InputLayer", "x", batch_input_shape=[None, 6, 6, 3]),
        layer("Conv2D", "c", "x", **conv2d),
        layer("DepthwiseConv2D", "w", "c", depth_multiplier=2, **conv2d),
        layer("BatchNormalization", "n", "w", axis=[3], epsilon=1e-3),
        layer("Activation", "r", "n", activation="relu"),
        layer("GlobalAveragePooling2D", "m", "r"),
        layer("Reshape", "one", "m", target_shape=[1, 1, 8]),
        layer("Dense", "g", "one", activation="relu"),
        layer("Dense", "h", "g", activation="sigmoid"),
        layer("Multiply", "gated", "r", "h"),
        layer("SeparableConv2D", "s", "gated", **conv2d),
        layer("Concatenate", "k", "gated", "s", axis=3),
        layer("Conv2D", "o", "k", use_bias=False, **conv2d),
    ]

    def forward(t, x):
        x = depthwise(t["w/depthwise_kernel"], conv(t["c/kernel"], x) + t["c/bias"]) + t["w/bias"]
        x = (x - t["n/moving_mean"]) / np.sqrt(t["n/moving_variance"] + 1e-3) * t["n/gamma"] + t["n/beta"]
        x = relu(x)
        x = x * sigmoid(dense(t, "h", relu(dense(t, "g", x.mean(axis=(1, 2), keepdims=True)))))
        y = conv(t["s/pointwise_kernel"], depthwise(t["s/depthwise_kernel"], x)) + t["s/bias"]
        return conv(t["o/kernel"], np.concatenate([x, y], axis=-1))

    return t, functional(layers, "x", "o", form), [(6, 6, 3)], forward, {4, 5, 3}


def twins(form):
    """An inner model that reads two inputs one after the other, and a layer that is called twice."""
    t = draw(**{"tower__u__kernel": (4, 6), "tower__u__bias": (6,), "tower__v__kernel": (6, 5), "tower__v__bias": (5,)})
    t |= draw(d__kernel=(5, 5), d__bias=(5,), o__kernel=(5, 2), o__bias=(2,))
    inner = [
        layer("InputLayer", "i", batch_shape=[None, 4]),
        layer("Dense", "u", "i", activation="relu"),
        layer("Dense", "v", "u"),
    ]
    tower = functional(inner, "i", "v", form, name="tower") | {"calls": [["a"], ["b"]]}
    layers = [
        layer("InputLayer", "a", batch_shape=[None, 4]),
        layer("InputLayer", "b", batch_shape=[None, 4]),
        tower,  # whose own making is its call 0
        layer("Dense", "d", calls=[["tower:1:0"], ["d:0:0"]], activation="tanh"),
        layer("Subtract", "difference", "d:1:0", "tower:2:0"),
        layer("Dense", "o", "difference"),
    ]

    def forward(t, a, b):
        low, high = (
            relu(x @ t["tower/u/kernel"] + t["tower/u/bias"]) @ t["tower/v/kernel"] + t["tower/v/bias"] for x in (a, b)
        )
        for _ in range(2):
            low = np.tanh(dense(t, "d", low))
        return dense(t, "o", low - high)

    return t, functional(layers, "ab", "o", form), [(4,), (4,)], forward, {6, 5}


def cells(form):
    """An LSTM over positions, then a dense layer over positions between two permutations of the axes."""
    t = draw(l__kernel=(3, 16), l__recurrent_kernel=(4, 16), l__bias=(16,), p__kernel=(5, 6), p__bias=(6,))
    t |= draw(o__kernel=(24, 2), o__bias=(2,))
    layers = [
        layer("InputLayer", "x", batch_shape=[None, 5, 3]),
        layer("LSTM", "l", "x", return_sequences=True, activation="tanh"),
        layer("Permute", "there", "l", dims=[2, 1]),
        layer("Dense", "p", "there"),
        layer("Permute", "back", "p", dims=[2, 1]),
        layer("Flatten", "flat", "back"),
        layer("Dense", "o", "flat"),
    ]

    def forward(t, x):
        state = memory = np.zeros((len(x), 4), np.float32)
        found = []
        for step in range(5):
            gates = x[:, step] @ t["l/kernel"] + state @ t["l/recurrent_kernel"] + t["l/bias"]
            i, f, c, o = np.split(gates, 4, axis=1)
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(c)
            state = sigmoid(o) * np.tanh(memory)
            found.append(state)
        x = dense(t, "p", np.stack(found, axis=2))
        return dense(t, "o", x.transpose(0, 2, 1).reshape(len(x), -1))

    return t, functional(layers, "x", "o", form), [(5, 3)], forward, {4}


def attends(form):
    """Attention with heads, then cells that read both ways."""
    t = draw(e__embeddings=(9, 6), a__query__kernel=(6, 2, 4), a__query__bias=(2, 4), a__key__kernel=(6, 2, 4))
    t |= draw(a__key__bias=(2, 4), a__value__kernel=(6, 2, 3), a__value__bias=(2, 3))
    t |= draw(a__attention_output__kernel=(2, 3, 6), a__attention_output__bias=(6,), n__gamma=(6,), n__beta=(6,))
    for side in ("forward", "backward"):
        name = f"b__{side}_simple_rnn__simple_rnn_cell"
        t |= draw(**{f"{name}__kernel": (6, 5), f"{name}__recurrent_kernel": (5, 5), f"{name}__bias": (5,)})
    t |= draw(o__kernel=(10, 2), o__bias=(2,))
    cell = {"class_name": "SimpleRNN", "config": {"name": "forward_simple_rnn", "return_sequences": False}}
    layers = [
        layer("InputLayer", "x", batch_shape=[None, 5]),
        layer("Embedding", "e", "x"),
        layer("MultiHeadAttention", "a", "e", "e", num_heads=2, key_dim=4),
        layer("Add", "sum", "e", "a"),
        layer("LayerNormalization", "n", "sum", axis=[2], epsilon=1e-3),
        layer("Bidirectional", "b", "n", layer=cell, merge_mode="concat"),
        layer("Dense", "o", "b"),
    ]

    def run(t, side, x):
        w, r, b = (t[f"b/{side}_simple_rnn/simple_rnn_cell/{role}"] for role in ("kernel", "recurrent_kernel", "bias"))
        state = np.zeros((len(x), 5), np.float32)
        for step in range(5):
            state = np.tanh(x[:, step] @ w + state @ r + b)
        return state

    def forward(t, x):
        x = t["e/embeddings"][np.abs(x * 3).astype(int) % 9]
        q, k, v = (
            np.einsum("bld,dhk->blhk", x, t[f"a/{p}/kernel"]) + t[f"a/{p}/bias"] for p in ("query", "key", "value")
        )
        scores = np.exp(np.einsum("blhk,bmhk->bhlm", q, k) / 8)
        mixed = np.einsum("bhlm,bmhv->blhv", scores / scores.sum(-1, keepdims=True), v)
        x = x + np.einsum("blhv,hvd->bld", mixed, t["a/attention_output/kernel"]) + t["a/attention_output/bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * t["n/gamma"] + t["n/beta"]
        return dense(t, "o", np.concatenate([run(t, "forward", x), run(t, "backward", x[:, ::-1])], axis=1))

    return t, functional(layers, "x", "o", form), [(5,)], forward, {6, 2, 4, 3, 5}


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("network", [branches, dense_block, twins, cells, attends])
def test_permuted_network_computes_the_same(network, form):
    tensors, config, shapes, forward, sizes = network(form)
    claim = infer_wiring(Checkpoint("net.keras", tensors, {"keras_config": config}))
    inputs = [rng.normal(size=(3, *shape)).astype(np.float32) for shape in shapes]
    assert sizes <= {group.size for group in claim.groups.values() if group.permutable}
    moved = permuted(tensors, claim, seed=1)
    assert any(not np.array_equal(moved[name], tensors[name]) for name in tensors)
    np.testing.assert_allclose(forward(moved, *inputs), forward(tensors, *inputs), rtol=1e-4, atol=1e-4)


def between(*middle):
    """A model of two dense layers with something between them."""
    t = draw(d__kernel=(4, 6), d__bias=(6,), o__kernel=(6, 3), o__bias=(3,))
    layers = [layer("InputLayer", "x", batch_shape=[None, 5, 4]), layer("Dense", "d", "x"), *middle]
    layers.append(layer("Dense", "o", middle[-1]["config"]["name"]))
    return Checkpoint("net.keras", t, {"keras_config": functional(layers, "x", "o", 3)})


OWN = layer("Dropout", "own", "d") | {"module": "mine", "registered_name": "mine>Dropout"}


@pytest.mark.parametrize(
    ("middle", "named"),
    [
        (layer("Lambda", "mix", "d", function="reversed"), "mix (Keras Lambda)"),
        (layer("Reshape", "cut", "d", target_shape=[15, 2]), "cut (Keras Reshape)"),
        (layer("Activation", "act", "d", activation="<lambda>"), "act (Keras activation <lambda>)"),
        (layer("Activation", "glu", "d", activation={"class_name": "function", "config": "halves"}), "glu (Keras"),
        (OWN, "own (Keras Dropout)"),
    ],
)
def test_what_an_unknown_layer_reads_stays_fixed_and_is_named(middle, named):
    claim = infer_wiring(between(middle))
    assert claim.axes["d/kernel"][1] is None and claim.axes["d/bias"][0] is None and claim.axes["o/kernel"][0] is None
    assert any(named in warning for warning in claim.warnings)


def test_a_layer_with_a_weight_that_no_rule_reads_stays_fixed():
    checkpoint = between(layer("Dropout", "drop", "d"))
    scaled = Checkpoint("net.keras", {**checkpoint.tensors, **draw(d__scale=(6,))}, checkpoint.metadata)
    assert any(group.permutable for group in infer_wiring(checkpoint).groups.values())
    assert not any(group.permutable for group in infer_wiring(scaled).groups.values())


def test_tensors_of_unknown_names_are_not_passed_over_in_silence():
    claim = infer_wiring(Checkpoint("net.npz", draw(a__filters=(3, 3, 3, 8), b__filters=(3, 3, 8, 9)), {}))
    assert any("b/filters" in warning for warning in claim.warnings)


@pytest.mark.parametrize(
    ("read", "folds"),
    [("c", 1), ("r", 0), ("pool", 0), ("sum", 0), ("pad", 0)],
)
def test_batch_norms_fold_into_what_they_read_themselves_alone(read, folds):
    tensors = draw(c__kernel=(1, 1, 4, 4), n__gamma=(4,), n__beta=(4,), n__moving_mean=(4,), n__moving_variance=(4,))
    layers = [
        layer("InputLayer", "x", batch_shape=[None, 6, 6, 4]),
        layer("Conv2D", "c", "x", strides=[1, 1], padding="valid", use_bias=False),
        layer("ReLU", "r", "c"),
        layer("MaxPooling2D", "pool", "c", pool_size=[2, 2], padding="valid"),
        layer("Add", "sum", "c", "x"),
        layer("ZeroPadding2D", "pad", "c", padding=[1, 1]),
        layer("BatchNormalization", "n", read),
    ]
    layers = [each for each in layers if each["config"]["name"] in ("x", "c", "n", read)]
    checkpoint = Checkpoint("net.keras", tensors, {"keras_config": functional(layers, "x", "n", 3)})
    assert len(find_folds(infer_wiring(checkpoint))) == folds


def test_models_that_stand_for_too_many_layers_or_are_broken_are_read_by_names():
    tensors = draw(d__kernel=(4, 4), d__bias=(4,), e__kernel=(4, 4), e__bias=(4,))
    config = {"class_name": "Sequential", "config": {"layers": [layer("Dense", "d"), layer("Dense", "e")]}}
    for number in range(40):
        inner = config | {"config": {**config["config"], "name": f"m{number}"}, "calls": [["x"], [f"m{number}:1:0"]]}
        layers = [layer("InputLayer", "x", batch_shape=[None, 4]), inner]
        config = functional(layers, "x", [f"m{number}:2:0"], 3)
    for broken in (config, {"class_name": "Functional", "config": {"layers": [3]}}, {"class_name": "Sequential"}):
        assert infer_wiring(Checkpoint("net.keras", tensors, {"keras_config": broken})).groups

"""Operators against the reference evaluator of the onnx package."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from wsrl.forward.cost import Cost, TooCostlyError
from wsrl.forward.operators import OPERATORS
from wsrl.forward.operators.call import Call

FEW = settings(max_examples=40)
KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


def own(op, inputs, attributes=None, outputs=1, cost=None):
    found = OPERATORS[op](Call(inputs, attributes or {}, outputs, cost or Cost()))
    return list(found) if isinstance(found, list | tuple) else [found]


def check(op, inputs, attributes=None, outputs=1, tolerance=1e-5):
    """Compares all outputs of an operator with the reference's; None stands for an input that is not given."""
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    told = [
        helper.make_tensor_value_info(name, KINDS[value.dtype.kind], value.shape)
        for name, value in zip(names, inputs, strict=True)
        if name
    ]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, **(attributes or {}))
    ends = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results]
    model = helper.make_model(helper.make_graph([node], "one", told, ends), opset_imports=[helper.make_opsetid("", 21)])
    feeds = {name: value for name, value in zip(names, inputs, strict=True) if name}
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(model).run(None, feeds)
        found = own(op, inputs, attributes, outputs)
    for one, other in zip(found[:outputs], expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)


@st.composite
def windows(draw):
    """Axes, kernel, strides, dilations, padding, and maps that are large enough for one window."""
    axes = draw(st.integers(1, 2))
    several = lambda low, high: tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))  # noqa: E731
    kernel, strides, dilations = several(1, 3), several(1, 3), several(1, 2)
    before, after = several(0, 1), several(0, 2)
    sides = tuple(d * (k - 1) + 1 + extra for k, d, extra in zip(kernel, dilations, several(0, 5), strict=True))
    return sides, {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": before + after}


@FEW
@given(windows(), st.sampled_from([(1, 2, 3), (2, 2, 3), (4, 1, 1), (3, 1, 2)]), st.integers(1, 3), st.booleans())
def test_convolutions(window, groups, batch, biased):
    sides, attributes = window
    group, fan_in, per_group = groups
    kernel = normal(group * per_group, fan_in, *attributes["kernel_shape"])
    inputs = [normal(batch, group * fan_in, *sides), kernel, *([normal(len(kernel))] if biased else [])]
    check("Conv", inputs, attributes | {"group": group}, tolerance=1e-4)


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_automatic_padding(pad, stride):
    attributes = {"auto_pad": pad, "strides": (stride, stride)}
    check("Conv", [normal(2, 3, 7, 8), normal(4, 3, 3, 2)], attributes, tolerance=1e-4)


def test_large_convolutions_are_made_in_bands(monkeypatch):
    from wsrl.forward.operators import windows as module

    x, kernel, deep = normal(3, 4, 20, 11), normal(5, 4, 3, 3), normal(8, 1, 3, 3)
    whole = own("Conv", [x, kernel]), own("Conv", [x, deep], {"group": 4})
    monkeypatch.setattr(module, "BLOCK", 100)
    monkeypatch.setattr(module, "SMALL_BLOCK", 100)
    np.testing.assert_allclose(own("Conv", [x, kernel])[0], whole[0][0], atol=1e-5)
    np.testing.assert_allclose(own("Conv", [x, deep], {"group": 4})[0], whole[1][0], atol=1e-5)


def pooled(x, attributes, reduce, fill):
    """Windows one by one; the reference fails for some paddings."""
    kernel, strides, dilations = (attributes[name] for name in ("kernel_shape", "strides", "dilations"))
    axes = len(kernel)
    pads = attributes["pads"]
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)], constant_values=fill)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    out = [(n - span) // s + 1 for n, span, s in zip(x.shape[2:], spans, strides, strict=True)]
    result = np.empty((*x.shape[:2], *out), np.float32)
    for place in np.ndindex(*out):
        own = [slice(p * s, p * s + span, d) for p, s, span, d in zip(place, strides, spans, dilations, strict=True)]
        result[:, :, *place] = reduce(x[:, :, *own].reshape(*x.shape[:2], -1), axis=2)
    return result


@FEW
@given(windows())
def test_pooling(window):
    sides, attributes = window
    pads = [min(p, k - 1) for p, k in zip(attributes["pads"], attributes["kernel_shape"] * 2, strict=True)]
    attributes, x = attributes | {"pads": tuple(pads)}, normal(2, 3, *sides)
    np.testing.assert_allclose(own("MaxPool", [x], attributes)[0], pooled(x, attributes, np.max, -np.inf))
    outside = pooled(x, attributes, np.nanmean, np.nan)
    np.testing.assert_allclose(own("AveragePool", [x], attributes)[0], outside, rtol=1e-5, atol=1e-5)
    counted = own("AveragePool", [x], attributes | {"count_include_pad": 1})[0]
    np.testing.assert_allclose(counted, pooled(x, attributes, np.mean, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("side", [6, 7, 8])
def test_pooling_with_a_last_window_that_is_cut_off(op, side):
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1, "pads": (0, 0, 0, 0)}
    check(op, [normal(1, 2, side, side)], attributes)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(op):
    check(op, [normal(2, 3, 4, 5)])


@FEW
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(0, 1), st.integers(1, 2))
def test_transposed_convolutions(stride, kernel, pad, extra, units):
    attributes = {"strides": (stride, 2), "pads": (min(pad, kernel - 1), 0, 0, 0)}
    attributes |= {"output_padding": (min(extra, stride - 1), 0)}
    x, weight = normal(2, 3, 4, 3), normal(3, units, kernel, 2)
    check("ConvTranspose", [x, weight, normal(units)], attributes, tolerance=1e-4)
    both = own("ConvTranspose", [np.tile(x, (1, 2, 1, 1)), np.tile(weight, (2, 1, 1, 1))], attributes | {"group": 2})
    alone = own("ConvTranspose", [x, weight], attributes)
    np.testing.assert_allclose(both[0], np.tile(alone[0], (1, 2, 1, 1)), atol=1e-5)


@pytest.mark.parametrize(
    "op",
    [
        *("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Neg", "Abs", "Floor", "Ceil", "Round", "Sign", "Softplus", "Elu"),
        *("Softsign", "HardSwish", "Mish", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Gelu"),
        *("Softmax", "LogSoftmax", "Identity", "Sin", "Cos"),
    ],
)
def test_entry_by_entry(op):
    check(op, [normal(2, 3, 4) * 3])


def test_settings_of_activations():
    check("Gelu", [normal(5, 5)], {"approximate": "tanh"})
    check("Elu", [normal(5, 5)], {"alpha": 0.3})
    check("LeakyRelu", [normal(5, 5)], {"alpha": 0.3})
    check("HardSigmoid", [normal(5, 5) * 4], {"alpha": 0.3, "beta": 0.1})
    check("Softmax", [normal(3, 4, 5)], {"axis": 1})
    check("PRelu", [normal(3, 4, 5), normal(4, 1)])
    check("Clip", [normal(5, 5), np.array(-0.5, np.float32), np.array(0.25, np.float32)])
    check("Clip", [normal(5, 5), None, np.array(0.25, np.float32)])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Less", "GreaterOrEqual", "Max", "Sum"])
def test_broadcast_pairs(op):
    first = np.abs(normal(2, 1, 4)) if op == "Pow" else normal(2, 1, 4)
    check(op, [first, normal(3, 1)], tolerance=1e-4)


def test_means_of_several():
    check("Mean", [normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)])


def test_integers_are_divided_towards_zero():
    check("Div", [np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])])


@FEW
@given(st.sampled_from([((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2))]))
def test_products(shapes):
    check("MatMul", [normal(*shapes[0]), normal(*shapes[1])], tolerance=1e-4)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
def test_products_of_transposed(first, second):
    a, b = normal(4, 3) if first else normal(3, 4), normal(5, 4) if second else normal(4, 5)
    check("Gemm", [a, b, normal(5)], {"transA": first, "transB": second, "alpha": 0.5, "beta": 2.0}, tolerance=1e-4)


def test_sums_of_products():
    check("Einsum", [normal(2, 3, 4), normal(2, 5, 4)], {"equation": "bij,bkj->bik"}, tolerance=1e-4)


def test_norms():
    x, gain, shift = normal(2, 6, 3, 4), normal(6), normal(6, seed=1)
    check("BatchNormalization", [x, gain, shift, normal(6, seed=2), np.abs(normal(6, seed=3)) + 0.1], tolerance=1e-4)
    check("InstanceNormalization", [x, gain, shift], tolerance=1e-4)
    check("GroupNormalization", [x, gain, shift], {"num_groups": 3}, tolerance=1e-4)
    check("LayerNormalization", [x, normal(4), normal(4, seed=1)], tolerance=1e-4)
    check("LayerNormalization", [x, normal(3, 4)], {"axis": -2}, tolerance=1e-4)
    check("LpNormalization", [x], {"axis": 1})
    check("LRN", [normal(6, 6, 3, 4)], {"size": 3, "alpha": 0.1, "bias": 2.0})


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(op, keep):
    check(f"Reduce{op}", [normal(2, 3, 4), np.array([-1, 0])], {"keepdims": keep}, tolerance=1e-4)


@FEW
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    st.sampled_from([(5, 6), (2, 3), (9, 4), (1, 8)]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
)
def test_resizing(mode, way, size, rounding):
    assume(way != "pytorch_half_pixel" or min(size) > 1)  # where the reference is not as the text has it
    attributes = {"mode": mode, "coordinate_transformation_mode": way, "nearest_mode": rounding, "axes": (2, 3)}
    check("Resize", [normal(1, 2, 4, 5), None, None, np.array(size)], attributes, tolerance=1e-4)


def test_resizing_by_factors():
    attributes = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    check("Resize", [normal(1, 2, 4, 5), None, np.float32([1, 1, 2, 1.5])], attributes, tolerance=1e-4)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "outputs"),
    [
        ("Reshape", [normal(2, 3, 4), np.array([0, -1])], {}, 1),
        ("Flatten", [normal(2, 3, 4)], {"axis": 2}, 1),
        ("Transpose", [normal(2, 3, 4)], {"perm": (2, 0, 1)}, 1),
        ("Transpose", [normal(2, 3, 4)], {}, 1),
        ("Squeeze", [normal(2, 1, 4, 1), np.array([1])], {}, 1),
        ("Unsqueeze", [normal(2, 3), np.array([0, -1])], {}, 1),
        ("Concat", [normal(2, 3), normal(2, 1)], {"axis": 1}, 1),
        ("Split", [normal(2, 7)], {"axis": 1, "num_outputs": 3}, 3),
        ("Split", [normal(2, 7), np.array([1, 6])], {"axis": 1}, 2),
        ("Slice", [normal(5, 7), np.array([1, -1]), np.array([4, -100]), np.array([0, 1]), np.array([2, -2])], {}, 1),
        ("Gather", [normal(5, 7), np.array([[0, -1]])], {"axis": 1}, 1),
        ("GatherElements", [normal(3, 4), np.array([[0, -1], [2, 1], [3, 0]])], {"axis": 1}, 1),
        ("GatherND", [normal(3, 4, 2), np.array([[0, 1], [2, 3]])], {}, 1),
        ("ScatterND", [normal(4, 3), np.array([[0], [2]]), normal(2, 3, seed=1)], {}, 1),
        ("Expand", [normal(3, 1), np.array([2, 1, 4])], {}, 1),
        ("Tile", [normal(2, 3), np.array([2, 1])], {}, 1),
        ("Shape", [normal(2, 3, 4)], {"start": 1}, 1),
        ("Range", [np.array(1), np.array(9), np.array(3)], {}, 1),
        ("Pad", [normal(2, 3), np.array([0, 1, 2, 1]), np.array(7, np.float32)], {}, 1),
        ("Pad", [normal(4, 5), np.array([1, 2, 0, 1])], {"mode": "reflect"}, 1),
        ("DepthToSpace", [normal(1, 8, 2, 3)], {"blocksize": 2}, 1),
        ("DepthToSpace", [normal(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}, 1),
        ("SpaceToDepth", [normal(1, 2, 4, 6)], {"blocksize": 2}, 1),
        ("OneHot", [np.array([0, 2, -1]), np.array(3), np.float32([0, 5])], {}, 1),
        ("Trilu", [normal(4, 4)], {"upper": 0}, 1),
        ("CumSum", [normal(3, 4), np.array(1)], {}, 1),
        ("TopK", [normal(3, 6), np.array([2])], {}, 2),
        ("ArgMax", [normal(3, 6)], {"axis": 1, "keepdims": 0}, 1),
        ("Where", [normal(3, 4) > 0, normal(3, 1), normal(4, seed=1)], {}, 1),
        ("Cast", [normal(3, 4)], {"to": TensorProto.INT64}, 1),
    ],
)
def test_shapes_and_places(op, inputs, attributes, outputs):
    check(op, inputs, attributes, outputs)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_recurrent_layers(op, gates, direction):
    steps, batch, fan_in, size = 4, 2, 3, 5
    inputs = [normal(steps, batch, fan_in), normal(1, gates * size, fan_in), normal(1, gates * size, size)]
    inputs.append(normal(1, 2 * gates * size))
    attributes = {"hidden_size": size, "direction": direction} | ({"linear_before_reset": 1} if op == "GRU" else {})
    if direction == "reverse":  # the reference knows forward alone
        flipped = own(op, [inputs[0][::-1], *inputs[1:]], attributes | {"direction": "forward"})
        np.testing.assert_allclose(own(op, inputs, attributes)[0], flipped[0][::-1], atol=1e-6)
    else:
        check(op, inputs, attributes, outputs=2, tolerance=1e-4)


def test_both_directions_are_one_after_the_other():
    weights = [normal(2, 20, 3), normal(2, 20, 5), normal(2, 40)]
    both, *_ = own("LSTM", [normal(4, 2, 3), *weights], {"direction": "bidirectional"})
    for d, direction in enumerate(("forward", "reverse")):
        alone, *_ = own("LSTM", [normal(4, 2, 3), *(w[d : d + 1] for w in weights)], {"direction": direction})
        np.testing.assert_allclose(both[:, d], alone[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [np.array([2**20, 2**20])], {}),
        ("Expand", [normal(1), np.array([2**20, 2**20])], {}),
        ("Tile", [normal(1), np.array([2**40])], {}),
        ("Pad", [normal(1), np.array([2**40, 0])], {}),
        ("Range", [np.array(0), np.array(2**40), np.array(1)], {}),
        ("Add", [normal(2**20, 1), normal(1, 2**20)], {}),
        ("Resize", [normal(1, 1, 1, 1), None, np.float32([1, 1, 2**20, 2**20])], {}),
        ("Conv", [normal(1, 1, 9, 9), normal(1, 1, 1, 1)], {"pads": (2**20,) * 4}),
        ("OneHot", [np.array([1]), np.array(2**40), np.float32([0, 1])], {}),
    ],
)
def test_memory_is_asked_for_before_it_is_taken(op, inputs, attributes):
    with pytest.raises(TooCostlyError):
        own(op, inputs, attributes)

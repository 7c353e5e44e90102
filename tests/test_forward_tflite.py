"""Graphs of TFLite files are run as ONNX's reference evaluator runs what they stand for."""

import numpy as np
import onnx
import pytest
import tflite
from onnx import helper
from onnx.reference import ReferenceEvaluator
from test_forward import images, node, weights

from experiments.proofs.samples_onnx import onnx_model
from experiments.proofs.samples_tflite import TfliteWriter
from wsrl.checkpoint import CheckpointError
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.run import run
from wsrl.readers import open_checkpoint

SAME, VALID, RELU, RELU6 = 0, 1, 1, 3


class Model:
    """A TFLite file under way: values by name, and operators."""

    def __init__(self, *shape):
        self.values = [("x", shape, None)]
        self.operators, self.codes = [], []

    def value(self, name, content, quantization=None):
        self.values.append((name, content, quantization))
        return len(self.values) - 1

    def place(self, name):
        return [value[0] for value in self.values].index(name)

    def add(self, op, inputs, shape, options=None, **fields):
        code = getattr(tflite.BuiltinOperator, op)
        self.codes += [code] if code not in self.codes else []
        output = self.value(f"v{len(self.values)}", shape)
        told = (options, fields) if options else None
        self.operators.append((self.codes.index(code), [self.place(name) for name in inputs], [output], told))
        return self.values[output][0]

    def run(self, folder, x):
        (folder / "a.tflite").write_bytes(TfliteWriter().model(self.values, self.operators, self.codes))
        checkpoint = open_checkpoint(folder / "a.tflite")
        graph = forward_graph(checkpoint)
        assert graph.channels_last and graph.batch == x.shape[0]
        return run(graph, checkpoint, x)


def reference(tensors, nodes, x):
    model = onnx_model(tensors, nodes, (("x", list(x.shape)),), (("y", None),))
    return ReferenceEvaluator(onnx.load_from_string(model.SerializeToString())).run(None, {"x": x})[0]


def test_an_image_classifier(tmp_path):
    """Convolutions of two kinds, pooling, a residual sum, a dense layer and a softmax; the first weights are int8."""
    x = images(1, 8, 8, 3)
    codes = np.random.default_rng(1).integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    scale = np.linspace(0.01, 0.02, 6).astype(np.float32)
    arrays = {"b": weights(6), "d": weights(1, 3, 3, 6), "e": weights(6, seed=2), "h": weights(5, 6), "i": weights(5)}
    m = Model(1, 8, 8, 3)
    m.value("a", codes, (scale, [0] * 6, 0))
    for name, array in arrays.items():
        m.value(name, array)
    m.value("axes", np.array([1, 2], np.int32))
    window = {"Padding": SAME, "StrideH": 2, "StrideW": 2}
    first = m.add("CONV_2D", ["x", "a", "b"], (1, 4, 4, 6), "Conv2DOptions", FusedActivationFunction=RELU6, **window)
    single = {"Padding": SAME, "StrideH": 1, "StrideW": 1, "DepthMultiplier": 1, "FusedActivationFunction": RELU}
    second = m.add("DEPTHWISE_CONV_2D", [first, "d", "e"], (1, 4, 4, 6), "DepthwiseConv2DOptions", **single)
    total = m.add("ADD", [first, second], (1, 4, 4, 6), "AddOptions")
    window = {"Padding": VALID, "StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2}
    small = m.add("MAX_POOL_2D", [total], (1, 2, 2, 6), "Pool2DOptions", **window)
    mean = m.add("MEAN", [small, "axes"], (1, 6), "ReducerOptions", KeepDims=False)
    logits = m.add("FULLY_CONNECTED", [mean, "h", "i"], (1, 5), "FullyConnectedOptions")
    m.add("SOFTMAX", [logits], (1, 5), "SoftmaxOptions", Beta=1.0)
    kernel = (codes * scale[:, None, None, None]).transpose(0, 3, 1, 2)
    tensors = {"a": kernel, "d": arrays["d"].transpose(3, 0, 1, 2), **{k: arrays[k] for k in "behi"}}
    tensors |= {"zero": np.float32(0), "six": np.float32(6), "axes": np.array([2, 3])}
    nodes = [
        node("Transpose", "x", "0", perm=[0, 3, 1, 2]),
        node("Conv", "0 a b", "1", strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Clip", "1 zero six", "2"),
        node("Conv", "2 d e", "3", pads=[1] * 4, group=6),
        node("Relu", "3", "4"),
        node("Add", "2 4", "5"),
        node("MaxPool", "5", "6", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", "6 axes", "7", keepdims=0),
        node("Gemm", "7 h i", "8", transB=1),
        node("Softmax", "8", "y", axis=1),
    ]
    np.testing.assert_allclose(m.run(tmp_path, x), reference(tensors, nodes, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "shape", "options", "onnx_attributes"),
    [
        ("RESIZE_BILINEAR", (1, 6, 8, 2), {}, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
        ("RESIZE_BILINEAR", (1, 6, 8, 2), {"HalfPixelCenters": True}, {"mode": "linear"}),
        (
            *("RESIZE_BILINEAR", (1, 6, 8, 2), {"AlignCorners": True}),
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        ),
        (
            *("RESIZE_NEAREST_NEIGHBOR", (1, 6, 8, 2), {}),
            {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        ),
    ],
)
def test_resizing(tmp_path, op, shape, options, onnx_attributes):
    x = images(1, 3, 4, 2)
    m = Model(1, 3, 4, 2)
    m.value("size", np.array(shape[1:3], np.int32))
    kind = {"RESIZE_BILINEAR": "ResizeBilinearOptions"}.get(op, "ResizeNearestNeighborOptions")
    m.value("w", weights(3, 2))
    m.add("FULLY_CONNECTED", [m.add(op, ["x", "size"], shape, kind, **options), "w"], (48, 3))
    resize = helper.make_node("Resize", ["x", "", "", "size"], ["1"], axes=[1, 2], **onnx_attributes)
    nodes = [resize, node("Reshape", "1 rows", "2"), node("MatMul", "2 w", "y")]
    tensors = {"size": np.array(shape[1:3]), "rows": np.array([48, 2]), "w": weights(3, 2).T}
    np.testing.assert_allclose(m.run(tmp_path, x), reference(tensors, nodes, x), rtol=1e-4, atol=1e-5)


def test_slices_and_padding(tmp_path):
    x = images(1, 4, 6)
    m = Model(1, 4, 6)
    m.value("w", weights(3, 6))
    numbers = {"begin": [0, 1, 5], "end": [0, 0, 0], "step": [1, 2, -1], "p": [[0, 0], [1, 2], [0, 0]]}
    for name, array in numbers.items():
        m.value(name, np.array(array, np.int32))
    masks = {"BeginMask": 1, "EndMask": 7, "ShrinkAxisMask": 0}
    cut = m.add("STRIDED_SLICE", ["x", "begin", "end", "step"], (1, 2, 6), "StridedSliceOptions", **masks)
    m.add("FULLY_CONNECTED", [m.add("PAD", [cut, "p"], (1, 5, 6)), "w"], (5, 3))
    expected = np.pad(x[:, 1::2, ::-1], [(0, 0), (1, 2), (0, 0)])[0] @ weights(3, 6).T
    np.testing.assert_allclose(m.run(tmp_path, x), expected, rtol=1e-4, atol=1e-5)


def test_unknown_operators_are_named(tmp_path):
    m = Model(1, 4)
    m.value("w", weights(3, 4))
    m.add("FULLY_CONNECTED", [m.add("SVDF", ["x"], (1, 4)), "w"], (1, 3))
    with pytest.raises(CheckpointError, match="operator SVDF is not known"):
        m.run(tmp_path, images(1, 4))

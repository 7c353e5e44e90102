"""Samples of ONNX, as in `experiments.proofs.samples`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from experiments.proofs.samples import registrar
from experiments.proofs.samples_keras import arrays

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


def onnx_model(tensors, nodes, inputs=(("x", ["batch", 4]),), outputs=(("y", ["batch", 2]),)):
    """A ModelProto; tensors are TensorProtos or arrays by name."""
    x, y = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side] for side in (inputs, outputs))
    protos = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t, name) for name, t in tensors.items()]
    return helper.make_model(
        helper.make_graph(nodes, "graph", x, y, protos), opset_imports=[helper.make_opsetid("", 18)]
    )


@sample("onnx")
def onnx_file(folder):
    """Two dense layers: float16 numbers in int32_data, a Constant, and a quantized matrix."""
    a = arrays()
    half = a["dense/bias"].astype(np.float16)
    tensors = {
        "w": a["dense/kernel"],
        "b": helper.make_tensor("b", TensorProto.FLOAT16, half.shape, half),
        "q": np.arange(-3, 3, dtype=np.int8).reshape(3, 2),
        "scale": np.array([0.5, 0.25], np.float32),
        "zero": np.array([1, -1], np.int8),
        "shape": np.array([-1, 3]),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense", alpha=0.5, transB=0),
        helper.make_node("Constant", [], ["slope"], value=numpy_helper.from_array(np.array([0.1], np.float32))),
        helper.make_node("PRelu", ["h", "slope"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["qf"], axis=1),
        helper.make_node("MatMul", ["f", "qf"], ["y"]),
    ]
    (folder / "model.onnx").write_bytes(onnx_model(tensors, nodes).SerializeToString())
    return folder / "model.onnx"


@sample("onnx-quantized")
def onnx_quantized_file(folder):
    """An integer product whose scale follows, a table of bytes, four bits in blocks, and branches."""
    codes = np.arange(-6, 6, dtype=np.int8)
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["m", "w"], ["o"])], name, [], [out], [numpy_helper.from_array(array, "w")]
        )
        for name, array in (("then", arrays()["head/kernel"]), ("else", arrays()["head/kernel"] + 1))
    }
    tensors = {
        **{
            "t": codes.astype(np.uint8).reshape(3, 4),
            "ts": np.float32(0.1),
            "tz": np.uint8(3),
            "ids": np.array([1, 2]),
        },
        **{
            "w": codes.reshape(4, 3),
            "ws": np.array([0.1, 0.2, 0.3], np.float32),
            "wz": np.int8(0),
            "c": np.array(True),
        },
        **{"n": np.arange(48, dtype=np.uint8).reshape(3, 2, 8), "ns": np.array(range(1, 7), np.float32)},
        "q": helper.make_tensor("q", TensorProto.INT4, [2, 3], range(-3, 3)),
        "qs": np.array([[1, 2], [3, 4]], np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["t", "ids"], ["g"]),
        node("DequantizeLinear", ["g", "ts", "tz"], ["e"]),
        node("DynamicQuantizeLinear", ["e"], ["xq", "xs", "xz"]),
        node("Mul", ["xs", "ws"], ["s"]),
        node("MatMulInteger", ["xq", "w", "xz", "wz"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["m"]),
        node("If", ["c"], ["b"], name="if", **branches),  # pyright: ignore[reportArgumentType]
        node("DequantizeLinear", ["q", "qs"], ["qf"], axis=1, block_size=2),
        node("MatMul", ["b", "qf"], ["p"]),
        node("MatMulNBits", ["p", "n", "ns"], ["y"], domain="com.microsoft", K=32, N=3, bits=4, block_size=16),
    ]
    (folder / "model.onnx").write_bytes(onnx_model(tensors, nodes).SerializeToString())
    return folder / "model.onnx"


@sample("onnx-external")
def onnx_external(folder):
    tensor = numpy_helper.from_array(arrays()["dense/kernel"], "w")
    model = onnx_model({"w": tensor}, [helper.make_node("MatMul", ["x", "w"], ["y"])])
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    return folder / "model.onnx"

"""Operators of ONNX that compute with integers, as the operators on real numbers that they stand for.

Each entry of OPERATORS says which of the node's inputs are kept, and where the scale and the zero point of each lie.
The operators: https://onnx.ai/onnx/operators, and those of the domain com.microsoft in
https://github.com/microsoft/onnxruntime, `docs/ContribOperators.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Input:
    """An input that is kept.

    Attributes:
      place: among the inputs of the integer operator.
      scale, zero: places of its factors; without a scale it is multiplied into the result by later nodes.
      axis: along which factors lie if there are several.
      scales: places of several scales that are multiplied, of the biases of convolutions and the like.
      order: in which the operator on real numbers wants its axes, of a constant.
    """

    place: int
    scale: int | None = None
    zero: int | None = None
    axis: int = -1
    scales: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Operator:
    """What an integer operator stands for.

    Attributes:
      op: the operator on real numbers, in the domain of ONNX itself.
      inputs: what it reads, in order.
      bias: the input that is added to its result by a node of its own.
    """

    op: str
    inputs: tuple[Input, ...]
    bias: int | None = None


def _unary(op: str) -> Operator:
    return Operator(op, (Input(0, 1, 2),))


def _binary(op: str) -> Operator:
    return Operator(op, (Input(0, 1, 2), Input(3, 4, 5)))


_LSTM_ORDER = (0, 2, 1)  # [directions, inputs, gates] -> [directions, gates, inputs]
OPERATORS: Mapping[str, Operator] = {
    "MatMulInteger": Operator("MatMul", (Input(0, None, 2, -2), Input(1, None, 3))),
    "ConvInteger": Operator("Conv", (Input(0, None, 2), Input(1, None, 3, 0))),
    "QLinearConv": Operator("Conv", (Input(0, 1, 2), Input(3, 4, 5, 0), Input(8, None, None, 0, (1, 4)))),
    "QLinearMatMul": Operator("MatMul", (Input(0, 1, 2, -2), Input(3, 4, 5))),
    "QGemm": Operator("Gemm", (Input(0, 1, 2), Input(3, 4, 5), Input(6, None, None, -1, (1, 4)))),
    **{f"QLinear{op}": _binary(op) for op in ("Add", "Mul")},
    **{f"QLinear{op}": _unary(op) for op in ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Softmax")},
    **{f"QLinearReduce{op}": _unary(f"Reduce{op}") for op in ("Mean", "Sum")},
    "MatMulIntegerToFloat": Operator("MatMul", (Input(0, 2, 4, -2), Input(1, 3, 5)), 6),
    "DynamicQuantizeMatMul": Operator("MatMul", (Input(0), Input(1, 2, 3)), 4),
    "QAttention": Operator("Attention", (Input(0, 3, 6), Input(1, 4, 7), Input(2), Input(5), Input(8))),
    "DynamicQuantizeLSTM": Operator(
        "LSTM",
        (
            *(Input(0), Input(1, 8, 9, 0, order=_LSTM_ORDER), Input(2, 10, 11, 0, order=_LSTM_ORDER)),
            *(Input(place) for place in range(3, 8)),
        ),
    ),
}

"""Operators on entries: arithmetic, comparisons and activations."""

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from wsrl.forward.operators.call import Call, Operator

FLOATS = (1, 10, 11, 16)  # types of ONNX's TensorProto
BOOLEAN = 9


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Operator:
    def run(call: Call) -> np.ndarray:
        call.cost.claim(call[0].shape, copies=2)
        return function(call[0])

    return run


def _pair(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Operator:
    def run(call: Call) -> np.ndarray:
        first, second = call[0], call[1]
        call.cost.claim(np.broadcast_shapes(first.shape, second.shape))
        return function(first, second)

    return run


def _several(function: Callable[[np.ndarray, np.ndarray], np.ndarray], mean: bool = False) -> Operator:
    def run(call: Call) -> np.ndarray:
        call.cost.claim(np.broadcast_shapes(*(call[i].shape for i in range(len(call.inputs)))), copies=2)
        result = call[0]
        for place in range(1, len(call.inputs)):
            result = function(result, call[place])
        return result / np.float32(len(call.inputs)) if mean else result

    return run


def _divide(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind == "f" or second.dtype.kind == "f":
        return first / second
    quotient = np.abs(first) // np.abs(second)  # integers are rounded towards zero
    return np.sign(first) * np.sign(second) * quotient


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), which may underflow to 0."""
    result = np.exp(-x)
    result += 1
    return np.reciprocal(result, out=result)


def _gelu(call: Call) -> np.ndarray:
    x = call[0]
    call.cost.claim(x.shape, copies=2)
    if call.text("approximate", "none") == "tanh":
        return np.float32(0.5) * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))
    return np.float32(0.5) * x * (1 + erf(x * np.float32(np.sqrt(0.5))))


def _elu(call: Call) -> np.ndarray:
    x, alpha = call[0], np.float32(call.number("alpha", 1.0))
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(call: Call) -> np.ndarray:
    x, alpha = call[0], np.float32(call.number("alpha", 1.0))
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _selu(call: Call) -> np.ndarray:
    x = call[0]
    alpha, gamma = (np.float32(call.number(*pair)) for pair in (("alpha", 1.6732632423), ("gamma", 1.0507009873)))
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky(call: Call) -> np.ndarray:
    x = call[0]
    return np.where(x < 0, x * np.float32(call.number("alpha", 0.01)), x)


def _thresholded(call: Call) -> np.ndarray:
    x = call[0]
    return np.where(x > np.float32(call.number("alpha", 1.0)), x, np.float32(0))


def _hard_sigmoid(call: Call) -> np.ndarray:
    alpha, beta = np.float32(call.number("alpha", 0.2)), np.float32(call.number("beta", 0.5))
    return np.clip(call[0] * alpha + beta, np.float32(0), np.float32(1))


def _hard_swish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x * np.float32(1 / 6) + np.float32(0.5), np.float32(0), np.float32(1))


def _swish(call: Call) -> np.ndarray:
    x = call[0]
    call.cost.claim(x.shape, copies=2)
    return x * sigmoid(x * np.float32(call.number("alpha", 1.0)))


def _p_relu(call: Call) -> np.ndarray:
    x, slope = call[0], call[1]
    return np.where(x < 0, x * slope, x)


def _clip(call: Call) -> np.ndarray:
    low, high = call.scalar("min", 1), call.scalar("max", 2)
    x = call[0]
    kind = x.dtype.type
    if low is not None and not np.isneginf(low):
        x = np.maximum(x, kind(low))
    if high is not None and not np.isposinf(high):
        x = np.minimum(x, kind(high))
    return x


def _cast(call: Call) -> np.ndarray:
    kind = call.integer("to", 1)
    x = call[0]
    if kind in FLOATS:
        return x.astype(np.float32, copy=False)
    return x.astype(np.bool_ if kind == BOOLEAN else np.int64, copy=False)


def _where(call: Call) -> np.ndarray:
    condition, first, second = call[0], call[1], call[2]
    call.cost.claim(np.broadcast_shapes(condition.shape, first.shape, second.shape))
    return np.where(condition, first, second)


def _power(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if second.size == 1 and second.item() == 2:
        return first * first
    return np.power(first, second.astype(first.dtype, copy=False))


def _modulo(call: Call) -> np.ndarray:
    return (np.fmod if call.integer("fmod", 0) else np.mod)(call[0], call[1])


def _cast_like(call: Call) -> np.ndarray:
    return call[0].astype(call[1].dtype, copy=False)


EACH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{"Relu": lambda x: np.maximum(x, x.dtype.type(0)), "Sigmoid": sigmoid, "Tanh": np.tanh, "Erf": erf},
    **{"Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Neg": np.negative, "Abs": np.abs},
    **{"Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Sign": np.sign, "Sin": np.sin, "Cos": np.cos},
    **{"Tan": np.tan, "Atan": np.arctan, "Asin": np.arcsin, "Acos": np.arccos, "Sinh": np.sinh, "Cosh": np.cosh},
    **{"Softplus": lambda x: np.logaddexp(x, np.float32(0)), "Softsign": lambda x: x / (1 + np.abs(x))},
    **{"HardSwish": _hard_swish, "Mish": lambda x: x * np.tanh(np.logaddexp(x, np.float32(0)))},
    **{"Not": np.logical_not, "IsNaN": np.isnan, "IsInf": np.isinf, "Identity": lambda x: x},
}
PAIR: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Pow": _power},
    **{"Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal},
    **{"GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor},
}
OPERATORS: dict[str, Operator] = {
    **{name: _each(function) for name, function in EACH.items()},
    **{name: _pair(function) for name, function in PAIR.items()},
    **{"Max": _several(np.maximum), "Min": _several(np.minimum), "Sum": _several(np.add)},
    **{"Mean": _several(np.add, mean=True), "Gelu": _gelu, "Elu": _elu, "Celu": _celu, "Selu": _selu, "Swish": _swish},
    **{"LeakyRelu": _leaky, "ThresholdedRelu": _thresholded, "HardSigmoid": _hard_sigmoid, "PRelu": _p_relu},
    **{"Clip": _clip, "Cast": _cast, "CastLike": _cast_like, "Where": _where, "Mod": _modulo},
    "Dropout": lambda call: call[0],
}

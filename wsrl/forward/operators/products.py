"""Products of matrices, attention among them, and norms."""

import numpy as np

from wsrl.arrays import softmax
from wsrl.forward.operators.call import Call, Operator


def matrix_product(call: Call, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns a product of matrices or stacks of them, after asking for its memory."""
    if first.ndim > 2 and second.ndim == 2:  # one product in place of a stack of them
        shape = (*first.shape[:-1], second.shape[-1])
        call.cost.claim(shape)
        call.cost.spend(first.size * second.shape[-1])
        return (first.reshape(-1, first.shape[-1]) @ second).reshape(shape)
    columns = second.shape[-1] if second.ndim > 1 else 1
    stack = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    rows = first.shape[-2] if first.ndim > 1 else 1
    call.cost.claim((*stack, rows, columns))
    call.cost.spend(int(np.prod(stack)) * rows * columns * first.shape[-1])
    return first @ second


def _mat_mul(call: Call) -> np.ndarray:
    return matrix_product(call, call[0], call[1])


def _gemm(call: Call) -> np.ndarray:
    first = call[0].T if call.integer("transA", 0) else call[0]
    second = call[1].T if call.integer("transB", 0) else call[1]
    result = matrix_product(call, first, second)
    alpha, beta, bias = call.number("alpha", 1.0), call.number("beta", 1.0), call.get(2)
    if alpha != 1:
        result = result * np.float32(alpha)
    if bias is None:
        return result
    return result + (bias if beta == 1 else bias * np.float32(beta))


def _einsum(call: Call) -> np.ndarray:
    """Sums of products; two operands only, so that the memory is that of the result."""
    formula = call.text("equation", "").replace(" ", "")
    operands = [call[i] for i in range(len(call.inputs))]
    inputs, _, wanted = formula.partition("->")
    terms = inputs.split(",")
    if len(operands) > 2 or "." in formula or not _ or len(terms) != len(operands):
        raise ValueError(f"the sum {formula!r} is not known")
    sizes = {key: n for term, value in zip(terms, operands, strict=True) for key, n in zip(term, value.shape)}  # noqa: B905
    call.cost.claim([sizes[key] for key in wanted], copies=2)
    call.cost.spend(int(np.prod([float(n) for n in sizes.values()])))
    return np.einsum(formula, *operands, optimize=True)


def _softmax(call: Call) -> np.ndarray:
    call.cost.claim(call[0].shape, copies=2)
    return softmax(call[0], axis=call.integer("axis", -1))


def _log_softmax(call: Call) -> np.ndarray:
    axis = call.integer("axis", -1)
    shifted = call[0] - call[0].max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return vector.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _batch_norm(call: Call) -> np.ndarray:
    x = call[0]
    if call.integer("training_mode", 0):
        raise ValueError("norms in training are not known")
    gain, shift, mean, variance = (call[i].astype(np.float64) for i in range(1, 5))
    scale = gain / np.sqrt(variance + call.number("epsilon", 1e-5))
    offset = shift - mean * scale
    call.cost.claim(x.shape)
    result = x * _along(scale.astype(np.float32), 1, x.ndim)
    result += _along(offset.astype(np.float32), 1, x.ndim)
    return result


def normalized(x: np.ndarray, axes: tuple[int, ...], epsilon: float, centered: bool = True) -> np.ndarray:
    """Values less their mean over some axes, divided by their deviation."""
    if centered:
        x = x - x.mean(axes, keepdims=True)
    variance = np.square(x).mean(axes, keepdims=True)
    return x / np.sqrt(variance + np.float32(epsilon))


def _scaled(call: Call, x: np.ndarray) -> np.ndarray:
    """Applies the gain and the shift of a norm, where they are given."""
    gain, shift = call.get(1), call.get(2)
    x = x if gain is None else x * gain
    return x if shift is None else x + shift


def _layer_norm(call: Call, centered: bool = True) -> np.ndarray:
    x = call[0]
    axes = tuple(range(call.integer("axis", -1) % x.ndim, x.ndim))
    call.cost.claim(x.shape, copies=3)
    return _scaled(call, normalized(x, axes, call.number("epsilon", 1e-5), centered))


def _instance_norm(call: Call) -> np.ndarray:
    x = call[0]
    found = normalized(x, tuple(range(2, x.ndim)), call.number("epsilon", 1e-5))
    return found * _along(call[1], 1, x.ndim) + _along(call[2], 1, x.ndim)


def _group_norm(call: Call) -> np.ndarray:
    x, groups = call[0], call.integer("num_groups", 1)
    parts = x.reshape(len(x), groups, -1)
    found = normalized(parts, (2,), call.number("epsilon", 1e-5)).reshape(x.shape)
    gain, shift = (v if v.size == x.shape[1] else np.repeat(v, x.shape[1] // groups) for v in (call[1], call[2]))
    return found * _along(gain, 1, x.ndim) + _along(shift, 1, x.ndim)


def _lp_norm(call: Call) -> np.ndarray:
    x, axis, order = call[0], call.integer("axis", -1), call.integer("p", 2)
    length = np.linalg.norm(x, ord=order, axis=axis, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length != 0)


def _local_response_norm(call: Call) -> np.ndarray:
    x, size = call[0], call.integer("size", 1)
    squares = np.square(x)
    before = (size - 1) // 2
    total = np.zeros_like(x)
    for offset in range(-before, size - before):
        low, high = max(0, -offset), min(x.shape[1], x.shape[1] - offset)
        total[:, low:high] += squares[:, low + offset : high + offset]
    alpha, beta, bias = (call.number(*pair) for pair in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return x / np.power(np.float32(bias) + np.float32(alpha / size) * total, np.float32(beta))


OPERATORS: dict[str, Operator] = {
    **{"MatMul": _mat_mul, "Gemm": _gemm, "Einsum": _einsum, "Softmax": _softmax, "LogSoftmax": _log_softmax},
    **{"BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm},
    **{"GroupNormalization": _group_norm, "LpNormalization": _lp_norm, "LRN": _local_response_norm},
    "RMSNormalization": lambda call: _layer_norm(call, centered=False),
}

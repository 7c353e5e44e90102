"""Operators that take many entries to one."""

from collections.abc import Callable

import numpy as np

from wsrl.forward.operators.call import Call, Operator


def _reduce(function: Callable[..., np.ndarray]) -> Operator:
    def run(call: Call) -> np.ndarray:
        axes = call.integers("axes", 1)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return call[0]
        keep = bool(call.integer("keepdims", 1))
        return np.asarray(function(call[0], axis=axes or None, keepdims=keep)).astype(call[0].dtype, copy=False)

    return run


def _mean(x: np.ndarray, axis: tuple[int, ...] | None, keepdims: bool) -> np.ndarray:
    return np.mean(x, axis, keepdims=keepdims)


def _log_sum_exp(x: np.ndarray, axis: tuple[int, ...] | None, keepdims: bool) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    found = top + np.log(np.exp(x - top).sum(axis, keepdims=True))
    return found if keepdims else found.squeeze(axis)


def _arg(function: Callable[..., np.ndarray]) -> Operator:
    def run(call: Call) -> np.ndarray:
        if call.integer("select_last_index", 0):
            raise ValueError("the last of equal entries is not known")
        keep = bool(call.integer("keepdims", 1))
        return function(call[0], axis=call.integer("axis", 0), keepdims=keep)

    return run


OPERATORS: dict[str, Operator] = {
    **{"ReduceMean": _reduce(_mean), "ReduceSum": _reduce(np.sum), "ReduceMax": _reduce(np.max)},
    **{"ReduceMin": _reduce(np.min), "ReduceProd": _reduce(np.prod), "ReduceLogSumExp": _reduce(_log_sum_exp)},
    "ReduceL2": _reduce(lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims))),
    "ReduceL1": _reduce(lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims)),
    "ReduceSumSquare": _reduce(lambda x, axis, keepdims: np.square(x).sum(axis, keepdims=keepdims)),
    **{"ArgMax": _arg(np.argmax), "ArgMin": _arg(np.argmin)},
}

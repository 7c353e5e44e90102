"""Runs a graph in NumPy: one operator after the other, weights read as they are used, results kept until last read."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Shaped

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.forward.cost import Cost, TooCostlyError
from wsrl.forward.graph import ForwardGraph, Step, needed_steps
from wsrl.forward.operators import OPERATORS
from wsrl.forward.operators.call import Call

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MEND = "search by weights"


def run(
    graph: ForwardGraph,
    checkpoint: Checkpoint,
    inputs: Float32[np.ndarray, "batch ..."],
    cost: Cost | None = None,
) -> Shaped[np.ndarray, "..."]:
    """Returns what a network answers to inputs.

    Args:
      graph: its operators.
      checkpoint: holds the weights, which are read, and dequantized, when an operator asks for them.
      inputs: of the shape that `graph.input_shape` tells.
      cost: limits, and where work and memory are counted.

    Raises:
      CheckpointError: an operator is not known, does not fit what it is given, or takes too much memory or work.
    """
    cost = cost or Cost()
    steps = needed_steps(graph)
    check_operators(steps, checkpoint)
    last = {name: i for i, step in enumerate(steps) for name in step.inputs}
    values: dict[str, np.ndarray] = {graph.input: _plain(np.asarray(inputs))}
    with np.errstate(all="ignore"):
        for i, step in enumerate(steps):
            results = _apply(step, values, graph.constants, checkpoint, cost)
            values |= {name: value for name, value in zip(step.outputs, results, strict=False) if name}
            for name in (*step.inputs, *step.outputs):
                if last.get(name, -1) <= i and name != graph.output:
                    values.pop(name, None)
            cost.held = _held(values)
    if graph.output not in values:
        raise CheckpointError(checkpoint.path, f"no operator of its graph returns {graph.output!r}", MEND)
    return values[graph.output]


def check_operators(steps: Sequence[Step], checkpoint: Checkpoint) -> None:
    """Raises CheckpointError that names the operators which are not known, if there are any."""
    unknown = dict.fromkeys(step.op for step in steps if step.op not in OPERATORS)
    if unknown:
        reason = f"operator {', '.join(unknown)} is not known, so the network cannot be run"
        raise CheckpointError(checkpoint.path, reason, MEND)


def _apply(
    step: Step,
    values: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    checkpoint: Checkpoint,
    cost: Cost,
) -> list[np.ndarray]:
    try:
        inputs = [_value(name, values, constants, checkpoint) for name in step.inputs]
        found = OPERATORS[step.op](Call(inputs, step.attributes, len(step.outputs), cost))
        results = [_plain(value) for value in ([found] if isinstance(found, np.ndarray | np.generic) else found)]
        cost.spend(sum(value.size for value in results) // 2)
    except TooCostlyError as error:
        raise CheckpointError(checkpoint.path, f"cannot be run: {error}", MEND) from error
    except CheckpointError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError) as error:
        reason = f"operator {step.op} ({step.outputs[0]}) cannot be run: {one_line(error)}"
        raise CheckpointError(checkpoint.path, reason, MEND) from error
    return results


def _value(
    name: str, values: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray], checkpoint: Checkpoint
) -> np.ndarray | None:
    if not name:
        return None
    if name in values:
        return values[name]
    if name in constants:
        return _plain(np.asarray(constants[name]))
    tensor = checkpoint.tensors.get(name, checkpoint.integers.get(name))
    if tensor is None:
        raise ValueError(f"nothing returns {name!r}")
    if isinstance(tensor, LazyTensor) and tensor.dtype in (*INTEGERS, "bool"):
        return _plain(np.asarray(tensor.read_rows(0, tensor.num_rows)).reshape(tensor.shape))
    return _plain(np.asarray(tensor))


def _plain(value: np.ndarray) -> np.ndarray:
    """Real numbers as float32, integers as int64."""
    kind = np.asarray(value).dtype.kind
    if kind == "b":
        return np.asarray(value)
    return np.asarray(value).astype(np.int64 if kind in "iu" else np.float32, copy=False)


def _held(values: Mapping[str, np.ndarray]) -> int:
    """Bytes of the arrays that values lie in; views of one count once."""
    roots: dict[int, int] = {}
    for value in values.values():
        while isinstance(value.base, np.ndarray):
            value = value.base
        roots[id(value)] = value.nbytes
    return sum(roots.values())

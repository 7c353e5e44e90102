"""Functions of TensorFlow's graphs: their calls are replaced by what they do.

The messages: https://github.com/tensorflow/tensorflow, `tensorflow/core/framework/function.proto`. Within a function an
output is called `NODE:NAME:PLACE`, in a graph `NODE:PLACE`. Of the operators that are understood, norms alone have
outputs of several names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from wsrl.readers.budget import Budget
from wsrl.readers.tensorflow_operators import Origins, Step

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
STATISTICS = ("batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2", "reserve_space_3")  # of a norm
DEEPEST = 32  # calls within calls; functions do not call themselves


@dataclass(frozen=True)
class Function:
    """What a call does.

    Attributes:
      parameters: names of what it is given, in order.
      steps: its nodes.
      results: what it returns, in the names that its nodes use.
    """

    parameters: tuple[str, ...]
    steps: tuple[Step, ...]
    results: tuple[str, ...]


def inlined(steps: Sequence[Step], functions: Mapping[str, Function], budget: Budget) -> list[Step]:
    """Returns the nodes of a graph and, in the place of calls, those of the functions, named `CALL/NODE`.

    Args:
      steps: nodes of the graph.
      functions: by name.
      budget: pays for each node that is copied.

    Raises:
      CheckpointError: the calls make more nodes than a file of this size can need.
    """
    same: dict[str, str] = {}  # output of a call -> what it is
    found = list(_expanded(steps, functions, "", {}, same, budget, 0))
    origin = Origins(same.get)
    return [replace(step, inputs=tuple(map(origin, step.inputs))) for step in found]


def _expanded(
    steps: Sequence[Step],
    functions: Mapping[str, Function],
    prefix: str,
    given: Mapping[str, str],
    same: dict[str, str],
    budget: Budget,
    depth: int,
) -> Iterator[Step]:
    """Yields nodes under names of their own; `given` are the values of the parameters around them."""
    for step in budget.each(steps):
        inputs = tuple(_outside(source, prefix, given) for source in step.inputs)
        function = functions.get(str(step.attributes.get("f")) if step.op in CALLS else step.op)
        if function is None or depth == DEEPEST:
            yield replace(step, name=prefix + step.name, inputs=inputs)
            continue
        inner = f"{prefix}{step.name}/"
        arguments = dict(zip(function.parameters, inputs, strict=False))
        yield from _expanded(function.steps, functions, inner, arguments, same, budget, depth + 1)
        for place, result in enumerate(function.results):
            same[f"{prefix}{step.name}:{place}"] = _outside(result, inner, arguments)


def _outside(source: str, prefix: str, given: Mapping[str, str]) -> str:
    """The name that a value has in the whole graph."""
    name, *rest = source.split(":")
    if name in given:
        return given[name]
    place = rest[0] if rest and rest[0] in STATISTICS else rest[-1] if rest else 0
    return f"{prefix}{name}:{place}"

"""The graph of a SavedModel whose weights are variables: which node is which variable, and what is served.

The messages: https://github.com/tensorflow/tensorflow, `tensorflow/core/protobuf/saved_model.proto`. The graph holds
the nodes that restore its variables; they tell the key of each in the checkpoint, whatever the variables are called.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers.budget import Budget
from wsrl.readers.mapped import map_file
from wsrl.readers.protobuf import WireError, read
from wsrl.readers.tensorflow_functions import inlined
from wsrl.readers.tensorflow_graph import META, SAVED, few_integers, read_tensor, read_texts
from wsrl.readers.tensorflow_messages import read_graph, read_signature
from wsrl.readers.tensorflow_operators import Origins, Step, translated

SIGNATURES = 5  # field of a MetaGraphDef
SERVED = ""  # a node that reads what is served
ASSIGNED, HANDED = ("AssignVariableOp", "Assign"), ("Identity", "ReadVariableOp")
MEND = "export or download it again"


def saved_graph(path: Path, variables: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> dict | None:
    """Returns the graph that a SavedModel serves, as `translated` does; None where it does not tell all variables.

    Args:
      path: `saved_model.pb`.
      variables: key in the checkpoint -> name of the tensor.
      shapes: of the tensors.

    Raises:
      CheckpointError: the file is not well-formed.
      OSError: it cannot be read.
    """
    data = map_file(path)
    budget = Budget(path, len(data))
    try:
        metas = read(data.data, SAVED, budget)["graphs"][:1]
        graphs = [graph for meta in metas for graph in read(meta, META, budget)["graph"][-1:]]
        if not graphs:
            return None
        steps, functions = read_graph(graphs[0], budget)
        steps = inlined(
            [*steps, Step(SERVED, "NoOp", read_signature(metas[0], SIGNATURES, budget), {})], functions, budget
        )
        constants = _constants(steps, path, budget, len(data))
        tensors = {node: variables[key] for node, key in _restored(steps, budget).items() if key in variables}
        used = _needed(steps)
        if any(step.op == "VarHandleOp" and step.name not in tensors for step in used):
            return None
    except (WireError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is truncated or not well-formed ({error})", MEND) from error
    named = tensors | {name: f"{name}:0" for name in constants}
    integers = {f"{name}:0": values for name, values in few_integers(constants).items()}
    fixed = {f"{name}:0": tensor.shape for name, tensor in constants.items()}
    return translated(used, named, shapes, integers, fixed)


def _constants(steps: Iterable[Step], path: Path, budget: Budget, size: int) -> dict[str, LazyTensor]:
    found = {}
    for step in steps:
        value = step.attributes.get("value")
        if step.op == "Const" and isinstance(value, memoryview):
            tensor = read_tensor(value, path, step.name, budget, size)
            found |= {step.name: tensor} if tensor is not None else {}
    return found


def _restored(steps: Sequence[Step], budget: Budget) -> dict[str, str]:
    """Node of a variable -> its key in the checkpoint, which is that of its copy where only the copy is restored."""
    by_name = {step.name: step for step in steps}

    def after(source: str) -> str | None:
        step = by_name.get(source.partition(":")[0])
        return step.inputs[0] if step is not None and step.op in HANDED and step.inputs else None

    origin = Origins(after)
    texts: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    for step in steps:
        if step.op not in ASSIGNED or len(step.inputs) < 2:
            continue
        variable, value = (origin(source).partition(":") for source in step.inputs[:2])
        restore, place = by_name.get(value[0]), int(value[2] or 0) if (value[2] or "0").isdecimal() else 0
        if restore is not None and restore.op == "VarHandleOp":
            copies.append((variable[0], restore.name))
        if restore is None or restore.op != "RestoreV2" or len(restore.inputs) < 2:
            continue
        names = by_name.get(origin(restore.inputs[1]).partition(":")[0])
        told = names.attributes.get("value") if names is not None and names.op == "Const" else None
        if names is not None and isinstance(told, memoryview):
            keys = texts.setdefault(names.name, read_texts(told, budget) if names.name not in texts else [])
            if place < len(keys):
                found[variable[0]] = keys[place]
    return {variable: found[copy] for copy, variable in copies if copy in found} | found


def _needed(steps: Sequence[Step]) -> list[Step]:
    """The nodes that lead to what is served."""
    by_name = {step.name: step for step in steps}
    names = [SERVED]
    seen = set(names)
    while names:
        step = by_name.get(names.pop())
        for source in step.inputs if step is not None else ():
            if (name := source.partition(":")[0]) not in seen:
                seen.add(name)
                names.append(name)
    return [step for step in steps if step.name in seen]

"""Finds the model's tensors among all that a training script saved: the state_dict."""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from wsrl.checkpoint import CheckpointError
from wsrl.readers.allowlist import PickledArray, StoredTensor
from wsrl.readers.mapped import checked_name
from wsrl.readers.packed_params import owner, packed_tensors, without_activations
from wsrl.readers.pickle_names import foreign
from wsrl.readers.pickles import Instance, Stub

Leaf = StoredTensor | PickledArray
# Under these names training scripts save the model; the first of several of one size is taken.
MODEL = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights"),
    *("model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "ema", "params_ema"),
)
# Under names that begin so, they save what belongs to training.
TRAINING = re.compile(r"(optim|sched|lr_|scaler|grad_scaler|amp|rng|cuda_rng|loops|callbacks|hyper_parameters|hparams)")
OPTIMIZER = {"state", "param_groups"}  # what a state_dict of one has
NO_MODEL = ("torch.optim", "torch.cuda.amp", "torch.amp")  # classes whose tensors belong to training
DEPTH = 100
MOST_TENSORS = 200_000
MEND = "save the model's state_dict() alone"


def find_state_dict(value: object, path: Path) -> tuple[dict[str, Leaf], tuple[str, ...]]:
    """Finds the tensors of the model in what a pickle holds.

    Among the entries that training scripts name so (`state_dict`, `model`, ...) the one with most entries is taken, and
    within it again; without any, all tensors are, except those of optimizers and the like. Names of nested containers
    are joined by dots.

    Returns:
      name -> tensor, and the names of what is left out.

    Raises:
      CheckpointError: containers are nested too deeply, two tensors get the same name, or the pickle is one of another
        kind: of an optimizer, of scikit-learn.
    """
    if isinstance(value, Stub) and (package := foreign(value.name)):
        raise CheckpointError(
            path, f"is a pickle of {package}, not of a network", "only networks are searched; leave it out"
        )
    if isinstance(value, Mapping) and value.keys() == OPTIMIZER:
        raise CheckpointError(path, "is the state of an optimizer", "give the file of the model's weights")
    left_out: list[str] = []
    prefix = ""
    passed: set[int] = set()
    while isinstance(value, Mapping):
        passed.add(id(value))
        nested = {key: flatten(value[key], path) for key in MODEL if isinstance(value.get(key), Mapping | Stub)}
        sizes = {key: sum(map(_entries, tensors.values())) for key, tensors in nested.items() if tensors}
        chosen = max(sizes, key=sizes.__getitem__, default=None)
        if chosen is None or id(value[chosen]) in passed:
            break
        left_out += [f"{prefix}{key!s:.80}" for key in value if key != chosen]
        prefix += f"{chosen}."
        value = value[chosen]
    if not isinstance(value, Mapping):
        return flatten(value, path), tuple(left_out)
    kept = {k: v for k, v in value.items() if not (isinstance(v, Mapping | list | Stub) and TRAINING.match(str(k)))}
    tensors = _flattened(kept, path, {id(value)})
    tops = {name.partition(".")[0] for name in tensors} | tensors.keys()
    left_out += [f"{prefix}{key!s:.80}" for key in value if tops.isdisjoint((str(key), str(key).partition(".")[0]))]
    return tensors, tuple(left_out)


def flatten(value: object, path: Path) -> dict[str, Leaf]:
    """Returns all tensors in nested containers, named by their keys joined by dots; a container met twice counts once.

    Raises:
      CheckpointError: see find_state_dict.
    """
    return _flattened(value, path, set())


def _flattened(value: object, path: Path, seen: set[int]) -> dict[str, Leaf]:
    result: dict[str, Leaf] = {}
    for name, leaf in _leaves(value, (), seen, path):
        name = checked_name(name or "tensor", path)
        if name in result:
            raise CheckpointError(path, f"two tensors are named {name!r}", MEND)
        result[name] = leaf
        if len(result) > MOST_TENSORS:
            raise CheckpointError(path, f"holds more than {MOST_TENSORS} tensors", MEND)
    return without_activations(result)


def _leaves(value: object, keys: tuple[str, ...], seen: set[int], path: Path) -> Iterator[tuple[str, Leaf]]:
    if isinstance(value, StoredTensor | PickledArray):
        yield ".".join(keys), value
        return
    match value:
        case Mapping():
            items = value.items()
        case Stub():
            items = _held(value)
        case Instance(state=[Mapping() as attributes]):
            items = attributes.items()
        case Instance(state=[tuple(items)]) | Instance(state=items) | (list(items) | tuple(items)):
            if not isinstance(value, list) and (packed := packed_tensors(items)):
                yield from ((".".join((*owner(keys), name)), leaf) for name, leaf in packed.items())
                return
            items = enumerate(items)
        case _:
            return
    if id(value) in seen:
        return
    seen.add(id(value))
    if len(keys) > DEPTH:
        raise CheckpointError(path, f"containers are nested more than {DEPTH} deep", MEND)
    for key, item in items:
        if isinstance(key, int) or (isinstance(key, str) and checked_name(key, path) == key):
            yield from _leaves(item, (*keys, str(key)), seen, path)


def _held(stub: Stub) -> Iterable[tuple[object, object]]:
    """What an object holds; of a module of PyTorch, what its state_dict() does."""
    attributes = stub.attributes()
    own = [attributes.get(key) for key in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(part, Mapping) for part in own):
        return () if stub.name.startswith(NO_MODEL) else stub.items()
    passing = attributes.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, set | list) else ()
    return [
        (key, item) for part in own if isinstance(part, Mapping) for key, item in part.items() if key not in passing
    ]


def _entries(leaf: Leaf) -> int:
    return prod(leaf.shape) if isinstance(leaf, StoredTensor) else np.size(leaf.array)

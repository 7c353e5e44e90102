"""Which models of an index an adapter can belong to: those that have the matrices it changes."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.search.model_file import open_model
from wsrl.search.store import Store

# Ends of the names of the two matrices of a pair, [rank, inputs] and [outputs, rank], behind the module's name
PAIRS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
)
PREFIXES = ("base_model.model.", "lora_unet_", "lora_te_", "transformer.", "unet.")


class Candidate(NamedTuple):
    """A model of the index, and how many of the adapted modules it has under the same name."""

    id: str
    named: int


Modules = Mapping[str, tuple[int, int]]


def low_rank_pairs(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[str, str]]:
    """Returns the names of the two matrices of each low-rank pair, [rank, inputs], [outputs, rank], by its module."""
    found = {}
    for name, down in tensors.items():
        for first, second in PAIRS:
            if name.endswith(first):
                up = name.removesuffix(first) + second
                if up in tensors and down.ndim >= 2 and tensors[up].ndim >= 2:
                    found[name.removesuffix(first)] = (name, up)
    return found


def name_in_base(module: str) -> str:
    """Returns a module's name without what libraries of adapters put before it."""
    for prefix in PREFIXES:
        module = module.removeprefix(prefix)
    return module


def adapted_modules(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, int]]:
    """Returns the weights that low-rank pairs change, by the name they have in the base, with outputs and inputs."""
    pairs = low_rank_pairs(tensors).items()
    return {f"{name_in_base(m)}.weight": (tensors[up].shape[0], tensors[down].shape[1]) for m, (down, up) in pairs}


def find_bases(directory: Path, modules: Modules) -> list[Candidate]:
    """Returns the models of an index that have matrices of all the shapes that an adapter changes, as many of each.

    Those that have most of the modules under the same name come first. Fine-tuned models of one base fit alike: which
    of them an adapter was trained for, shapes cannot tell.

    Raises:
      InputError: there is no index, or it is damaged.
    """
    store = Store(directory)
    wanted = Counter(tuple(sorted(shape)) for shape in modules.values())
    entries = sum(prod(shape) for shape in modules.values())
    found = []
    for model in store.catalog.models():
        if model.parameters < entries:
            continue
        try:
            tensors = open_model(directory, model).tensors  # their shapes stand in the head of the file
        except CheckpointError:  # moved or changed since it was indexed
            continue
        held = Counter(tuple(sorted(n for n in tensor.shape if n > 1)) for tensor in tensors.values())
        if held >= wanted:
            ends = [f".{name}" for name in tensors]
            named = sum(any(end.endswith(f".{module}") for end in ends) for module in modules)
            found.append(Candidate(model.id, named))
    most = max((candidate.named for candidate in found), default=0)
    return sorted((own for own in found if own.named == most), key=lambda own: own.id)

"""What kind of adapter a file holds, and which models of an index it fits: those that have the matrices it changes."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
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
KINDS = {  # how adapters name their tensors behind the name of a module
    "DoRA": re.compile(r"\.(lora_magnitude_vector(\.default)?(\.weight)?|dora_scale)$"),
    "LoRA": re.compile(r"\.lora([._](A|B|up|down|mid)(\.default)?\.weight|_embedding_[AB](\.default)?)$"),
    "LoHa": re.compile(r"\.hada_(w[12]_[ab]|t[12])(\.default)?$"),
    "LoKr": re.compile(r"\.lokr_(w[12](_[ab])?|t2)(\.default)?$"),
    "IA3": re.compile(r"\.ia3_l(\.default)?$"),
}
PREFIXES = ("base_model.model.", "lora_unet_", "lora_te_", "transformer.", "unet.")


class Candidate(NamedTuple):
    """A model of the index, and how many of the adapted modules it has under the same name."""

    id: str
    named: int


Modules = Mapping[str, tuple[int, int]]


def adapter_kind(tensors: Mapping[str, object]) -> str:
    """Returns what kind of adapter tensors are named as, `LoRA and IA3` if of two kinds; empty if of none."""
    found = [kind for kind, pattern in KINDS.items() if any(map(pattern.search, tensors))]
    if "DoRA" in found and "LoRA" in found:  # low-rank pairs with magnitudes
        found.remove("LoRA")
    return " and ".join(found)


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
    """Returns the weights that an adapter changes, by the name they have in the base, with outputs and inputs.

    Those of low-rank pairs, and of Hadamard and Kronecker products of matrices; factors of rows or columns (IA3) have
    one length alone, and kernels of two factors and a core have others.
    """
    pairs = low_rank_pairs(tensors).items()
    found = {name: (tensors[up].shape[0], tensors[down].shape[1]) for name, (down, up) in pairs}
    for name in tensors:
        module, _, end = name.rpartition(".")
        shape = None
        if end == "hada_w1_a" and f"{module}.hada_t1" not in tensors:
            shape = _product(tensors, f"{module}.hada_w1")
        elif end.startswith("lokr_w1") and module not in found:
            first, second = (_product(tensors, f"{module}.lokr_w{n}") for n in (1, 2))
            shape = (first[0] * second[0], first[1] * second[1]) if first and second else None
        if shape is not None:
            found[module] = shape
    return {f"{name_in_base(module)}.weight": shape for module, shape in found.items()}


def scaled_modules(tensors: Iterable[str]) -> list[str]:
    """Returns the weights whose rows or columns are scaled (IA3), by the name they have in the base."""
    return [f"{name_in_base(name[: m.start()])}.weight" for name in tensors if (m := KINDS["IA3"].search(name))]


def _product(tensors: Mapping[str, LazyTensor], name: str) -> tuple[int, int] | None:
    """Rows and columns of a matrix that is whole or the product of two; None of a kernel, or if one is missing."""
    own = [tensors[name]] if name in tensors else [tensors.get(f"{name}_{side}") for side in "ab"]
    known = [tensor.shape for tensor in own if tensor is not None and tensor.ndim == 2]
    return (known[0][0], known[-1][1]) if len(known) == len(own) else None


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
    for model in store.catalog.models() if modules else ():
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

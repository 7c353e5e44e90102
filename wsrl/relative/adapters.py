"""Which changes an adapter's tensors stand for: LoRA, DoRA, LoHa, LoKr and IA3, in the layouts of PEFT and LyCORIS.

The names of tensors tell: behind the module's name `hada_w1_a` [outputs, rank], `hada_w1_b` [rank, inputs] and the same
of `w2`; `lokr_w1` [a, b] or its factors `lokr_w1_a`, `lokr_w1_b`, and the same of `w2`; `ia3_l` [outputs, 1], or
[1, inputs] of layers whose inputs are scaled. Kernels may be kept as a core `hada_t1` or `lokr_t2`
[rank, rank, height, width] between factors [rank, outputs] and [rank, inputs]; that of a low-rank pair is `lora_mid`.
Embeddings have `lora_embedding_A` [rank, entries] and `lora_embedding_B` [size, rank].
"""

import re
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from wsrl.canonical.rows import read_whole
from wsrl.checkpoint import LazyTensor
from wsrl.comparison.pieces import Piece
from wsrl.origins.adapter_base import low_rank_pairs
from wsrl.relative.change import Change, Hadamard, Kronecker, LowRank, Magnitudes, Scaled

MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight")
MAGNITUDES += (".dora_scale",)
MIDDLE = ".lora_mid.weight"  # of LyCORIS: the kernel between the pair of a convolution
MOST = 2**26  # entries of a kernel that is formed of its core
Tensors = Mapping[str, LazyTensor]


class Adapted:
    """A module that an adapter changes.

    Args:
      module: its name in the adapter.
      tensors: of the adapter, by the ends of their names behind the module's.
      scale: that products are multiplied by.
      make: forms the change, given the matrix of the base; raises ValueError where they do not fit.

    Attributes:
      module, names: of its tensors.
    """

    def __init__(self, module: str, tensors: Tensors, scale: float, make: Callable[..., Change]):
        self.module, self.names = module, [module + end for end in tensors]
        self._tensors, self._scale, self._make = tensors, scale, make

    def change(self, piece: Piece) -> Change:
        """Returns what is added to a matrix of the base.

        Raises:
          ValueError: the shapes do not fit.
          CheckpointError: a tensor cannot be read, or holds NaN or Inf.
        """
        return self._make(self._tensors, self._scale, piece)


def find_adapted(tensors: Tensors, scales: Mapping[str, float]) -> list[Adapted]:
    """Returns the modules that an adapter's tensors change; none if it is no adapter of these kinds."""
    found = []
    for module, (down, up) in low_rank_pairs(tensors).items():
        own = {down.removeprefix(module): tensors[down], up.removeprefix(module): tensors[up]}
        own |= {end: tensors[module + end] for end in (*MAGNITUDES, MIDDLE) if module + end in tensors}
        found.append(Adapted(module, own, scales.get(module, 1.0), _low_rank))
    others: dict[str, dict[str, LazyTensor]] = {}
    paired = {name for own in found for name in own.names}
    for name, tensor in tensors.items():
        module, dot, end = name.rpartition(".")
        if OTHERS.fullmatch(end):
            others.setdefault(module, {})[dot + end] = tensor
        elif (half := HALF.search(name)) and name not in paired:
            found.append(Adapted(name[: half.start()], {half[0]: tensor}, 1.0, _alone))
    for module, own in others.items():
        if any(module + end in tensors for end in MAGNITUDES):
            found.append(Adapted(module, own, 1.0, _refused))
            continue
        make = next(make for start, make in MAKERS.items() if next(iter(own))[1:].startswith(start))
        found.append(Adapted(module, own, scales.get(module, 1.0), make))
    return found


def _low_rank(tensors: Tensors, scale: float, piece: Piece) -> Change:
    down, up = list(tensors.values())[:2]
    lengths = [tensors[end] for end in MAGNITUDES if end in tensors]
    outputs, inputs = _sides(piece)
    rank, middle = down.shape[0], tensors.get(MIDDLE)
    if not rank or rank != up.shape[1] or up.size != outputs * rank:
        raise ValueError("has another shape")
    if middle is None and down.size != inputs * rank:
        raise ValueError("has another shape")
    lower = read_whole(down).reshape(rank, -1)
    if middle is not None:
        taps = middle.size // rank**2
        if middle.ndim < 3 or middle.shape[:2] != (rank, rank) or lower.size * taps != inputs * rank:
            raise ValueError("has another shape")
        lower = _kernel(read_whole(middle), lower)
    own = LowRank(read_whole(up).reshape(-1, rank), lower, scale)
    if not lengths:
        return own
    if lengths[0].size != outputs:
        raise ValueError("has magnitudes of another number of rows")
    return Magnitudes(own, read_whole(lengths[0]).ravel(), piece)


def _hadamard(tensors: Tensors, scale: float, piece: Piece) -> Change:
    factors = [_factor(tensors, f".hada_w{n}", f".hada_t{n}") for n in (1, 2)]
    if any((len(own.up), own.down.shape[1]) != _sides(piece) for own in factors):
        raise ValueError("has another shape")
    return Hadamard(factors[0], factors[1], scale)


def _kronecker(tensors: Tensors, scale: float, piece: Piece) -> Change:
    wholes = []
    for n in (1, 2):
        own = tensors.get(f".lokr_w{n}")
        if own is not None and not (own.ndim and own.size):
            raise ValueError("has another shape")
        if own is not None:
            wholes.append(read_whole(own).reshape(own.shape[0], -1))
            continue
        factor = _factor(tensors, f".lokr_w{n}", f".lokr_t{n}")
        if len(factor.up) * factor.down.shape[1] > MOST:
            raise ValueError("has another shape")
        wholes.append(factor.up @ factor.down)
    if tuple(np.multiply(*(whole.shape for whole in wholes)).tolist()) != _sides(piece):
        raise ValueError("has another shape")
    return Kronecker(wholes[0], wholes[1], scale)


def _scaled(tensors: Tensors, scale: float, piece: Piece) -> Change:
    own = tensors[".ia3_l"]
    if not own.ndim:
        raise ValueError("has another shape")
    by_rows = own.shape[0] != 1
    if own.ndim > 2:  # factors of channels, of which neither shape nor name tells whether they are outputs or inputs
        by_rows = own.size == piece.shape[0]
        if piece.shape[0] == piece.shape[1]:
            raise ValueError("scales a kernel of as many inputs as outputs, which may mean either")
    if own.size != piece.shape[0 if by_rows else 1]:
        raise ValueError("has another shape")
    return Scaled(read_whole(own).ravel(), by_rows, piece)


def _embedded(tensors: Tensors, scale: float, piece: Piece) -> Change:
    if set(tensors) != {".lora_embedding_A", ".lora_embedding_B"}:
        raise ValueError("lacks a tensor")
    down, up = (tensors[f".lora_embedding_{side}"] for side in "BA")
    if down.ndim != 2 or up.ndim != 2 or not up.size or up.shape[0] != down.shape[1]:
        raise ValueError("has another shape")
    if (up.shape[1], down.shape[0]) != _sides(piece):
        raise ValueError("has another shape")
    return LowRank(read_whole(up).T, read_whole(down).T, scale)


def _alone(tensors: Tensors, scale: float, piece: Piece) -> Change:
    raise ValueError(f"lacks a tensor: {next(iter(tensors))[1:]} is alone")


def _refused(tensors: Tensors, scale: float, piece: Piece) -> Change:
    raise ValueError("has magnitudes of rows, which are known of low-rank pairs alone")


OTHERS = re.compile(r"(hada|lokr)_(w[12](_[ab])?|t[12])|ia3_l|lora_embedding_[AB]")  # last parts of names
HALF = re.compile(r"\.lora[._](A|B|up|down|mid)(\.default)?\.weight$")  # of a low-rank pair
MAKERS = {"hada_": _hadamard, "lokr_": _kronecker, "ia3_l": _scaled, "lora_embedding_": _embedded}  # by their begin


def _sides(piece: Piece) -> tuple[int, int]:
    return piece.shape[0], piece.shape[1] * piece.shape[2]


def _factor(tensors: Tensors, start: str, core: str) -> LowRank:
    """A matrix of two factors, or a kernel of two factors and a core, as a matrix [outputs, inputs * taps]."""
    if f"{start}_a" not in tensors or f"{start}_b" not in tensors:
        raise ValueError("lacks a tensor")
    a, b = tensors[f"{start}_a"], tensors[f"{start}_b"]
    if a.ndim != 2 or b.ndim != 2 or not a.size or not b.size:
        raise ValueError("has another shape")
    if core not in tensors:
        if a.shape[1] != b.shape[0]:
            raise ValueError("has another shape")
        return LowRank(read_whole(a), read_whole(b), 1.0)
    middle = tensors[core]
    if middle.ndim < 3 or middle.shape[:2] != (a.shape[0], b.shape[0]) or middle.size // b.shape[0] * b.shape[1] > MOST:
        raise ValueError("has another shape")
    return LowRank(read_whole(a).T, _kernel(read_whole(middle), read_whole(b)), 1.0)


def _kernel(
    core: Float[np.ndarray, "r s *taps"], b: Float[np.ndarray, "s inputs"]
) -> Float[np.ndarray, "r inputs_taps"]:
    return np.einsum("ijk,jr->irk", core.reshape(*core.shape[:2], -1), b).reshape(len(core), -1)

"""The `weights` vector of a network and the short signature of each of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Float32, Float64

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.signature import anchored
from wsrl.signature.anchored import find_anchor
from wsrl.signature.descriptor import Descriptor, describe
from wsrl.signature.digest import tensor_digest, weights_digest
from wsrl.signature.kernel_mean import Kernel, distinct, embed
from wsrl.wiring.claim import Claim

VERSION = "wsrl-weights-1"  # to be changed whenever vectors change
# Bandwidths and shares were chosen on public checkpoints by how often a file finds its conversions, quantized copies and
# other versions first; none is sensitive to a factor of two. Twice the features change no rank by more than chance does.
WIDE = Kernel(
    "wide", 512, entries=0.5, lengths=0.5, taps=1, moments=6, spreads=1, network=0.5, size_power=0.25
)  # fmt: skip
NARROW = Kernel("narrow", 256, entries=5, lengths=5, taps=5, moments=10, spreads=5, network=0, size_power=0.25)
SHARES = {"wide": 1.0, "narrow": 0.15, "anchored": 0.3}  # of the squared length
DIM = WIDE.features + NARROW.features + anchored.FEATURES


@dataclass(frozen=True)
class Signature:
    """Who a network is.

    Attributes:
      vector: of length 1.
      tensors: of each matrix (of each vector, in a network that has no matrix): logarithms of its entries and its two
        longest axes, then the numbers of its `Descriptor`.
      digest: see `wsrl.signature.digest.weights_digest`.
    """

    vector: Float32[np.ndarray, "dim"]
    tensors: Mapping[str, Float32[np.ndarray, "13"]]
    digest: str


def version_hash() -> str:
    """Returns the SHA-256 that stands for all constants of the vector; vectors of another one do not compare."""
    return sha256(f"{VERSION} {WIDE} {NARROW} {SHARES} {anchored.COLUMNS}".encode()).hexdigest()


def sign(checkpoint: Checkpoint, wiring: Claim) -> Signature:
    """Reads all matrices of a checkpoint and returns its signature.

    The vector has three parts. Two are kernel mean embeddings of the tensors' descriptors, which need no wiring: a wide
    one for architecture and training, a narrow one for identity. The third sketches tensors at the network's inputs and
    outputs, where the wiring names any, and tells a network's children from its siblings'.

    Raises:
      CheckpointError: a tensor holds NaN or Inf or cannot be read, or all weights are 0.
    """
    described = {name: describe(tensor) for name, tensor in checkpoint.tensors.items() if _long_axes(tensor) > 1}
    if not any(described.values()):
        described = {name: describe(tensor) for name, tensor in checkpoint.tensors.items()}
    kept = {name: own for name, own in described.items() if own is not None}
    if not kept:
        raise CheckpointError(checkpoint.path, "all weights are 0, or there are fewer than 8", "give a trained network")
    sketches: dict[str, Float64[np.ndarray, features]] = {}
    for name in kept:
        anchor = find_anchor(wiring, name)
        sketch = anchored.sketch(checkpoint.tensors[name], anchor) if anchor else None
        if anchor and sketch is not None:
            sketches[anchor.role] = sketches.get(anchor.role, 0) + sketch
    once = distinct(list(kept.values()))
    parts = {
        "wide": embed(once, WIDE),
        "narrow": embed(once, NARROW),
        "anchored": _unit(sum((_unit(own) for own in sketches.values()), np.zeros(anchored.FEATURES))),
    }
    vector = _unit(np.concatenate([np.sqrt(SHARES[name]) * part for name, part in parts.items()]))
    digest = weights_digest(tensor_digest(checkpoint.tensors[name]) for name in kept)
    return Signature(vector.astype(np.float32), {name: _short(own) for name, own in kept.items()}, digest)


def _long_axes(tensor: LazyTensor | np.ndarray) -> int:
    return sum(length > 1 for length in tensor.shape)


def _unit(vector: Float64[np.ndarray, "dim"]) -> Float64[np.ndarray, "dim"]:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _short(own: Descriptor) -> Float32[np.ndarray, "13"]:
    return np.array([*np.log([own.entries, *own.lengths[:2]]), *own.values], np.float32)

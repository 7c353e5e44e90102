"""The `weights` vector of a network and the short signature of each of its tensors."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Float32, Float64

from wsrl.canonical.rows import forget_pages
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.signature import anchored
from wsrl.signature.anchored import find_anchors
from wsrl.signature.descriptor import Descriptor, describe
from wsrl.signature.digest import TensorDigest, tensor_digest, weights_digest
from wsrl.signature.kernel_mean import Kernel, distinct, embed
from wsrl.signature.matrices import Matrix, matrices
from wsrl.wiring.wiring import Wiring

VERSION = "wsrl-weights-1"  # to be changed whenever vectors change
# Bandwidths and shares were chosen on public checkpoints by how often a file finds its conversions, quantized copies
# and other versions first; none is sensitive to a factor of two.
WIDE = Kernel("wide", 512, entries=0.5, lengths=1.0, taps=1.0, moments=6.0, spreads=1.0, network=0.25, size_power=0.25)
NARROW = Kernel(
    "narrow", 256, entries=5.0, lengths=5.0, taps=5.0, moments=10.0, spreads=5.0, network=0.0, size_power=0.25
)
SHARES = {"wide": 1.0, "narrow": 0.15, "anchored": 1.0}  # of the squared length
# Descriptors of small networks are noisy, so there the sketch counts as much as they do. Of large ones they say more
# than the sketch, which would blur it: its share falls with the entries N as (SKETCH_SIZE / N) ** SKETCH_POWER.
SKETCH_SIZE, SKETCH_POWER = 1e4, 0.75
THREADED = 2**22  # parameters from which tensors are read by several threads
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
    tensors: Mapping[str, Float32[np.ndarray, "numbers"]]
    digest: str


def version_hash() -> str:
    """Returns the SHA-256 that stands for all constants of the vector; vectors of another one do not compare."""
    return sha256(
        f"{VERSION} {WIDE} {NARROW} {SHARES} {SKETCH_SIZE} {SKETCH_POWER} {anchored.COLUMNS}".encode()
    ).hexdigest()


def sign(checkpoint: Checkpoint, wiring: Wiring) -> Signature:
    """Reads all matrices of a checkpoint and returns its signature.

    The vector has three parts. Two are kernel mean embeddings of the tensors' descriptors, which need no wiring: a wide
    one for architecture and training, a narrow one for identity. The third sketches tensors at the network's inputs and
    outputs, where the wiring names any, and tells a network's children from its siblings'.

    Raises:
      CheckpointError: a tensor holds NaN or Inf or cannot be read, or all weights are 0.
    """
    kept = _describe(checkpoint, wiring) or _describe(checkpoint, wiring, vectors=True)
    if not kept:
        raise CheckpointError(checkpoint.path, "all weights are 0, or there are fewer than 8", "give a trained network")
    descriptors = {name: own for name, (own, _) in kept.items()}
    once = distinct(descriptors)
    anchors = find_anchors(wiring, [name for name in kept if name in wiring.axes])
    touching = distinct({name: descriptors[name] for name in anchors})
    sketches = [anchored.sketch(checkpoint.tensors[name], anchors[name]) for name in touching]
    parts = {
        "wide": embed(once.values(), WIDE),
        "narrow": embed(once.values(), NARROW),
        "anchored": _unit(np.sum([np.zeros(anchored.FEATURES), *(s for s in sketches if s is not None)], axis=0)),
    }
    size = sum(own.entries for own in once.values())
    shares = SHARES | {"anchored": SHARES["anchored"] * min(1.0, (SKETCH_SIZE / size) ** SKETCH_POWER)}
    vector = _unit(np.concatenate([np.sqrt(shares[name]) * part for name, part in parts.items()]))
    digest = weights_digest(digest for _, digest in kept.values())
    return Signature(vector.astype(np.float32), {name: _short(own) for name, own in descriptors.items()}, digest)


def _describe(
    checkpoint: Checkpoint, wiring: Wiring, vectors: bool = False
) -> dict[str, tuple[Descriptor, TensorDigest]]:
    """Reads the matrices of a checkpoint, or its vectors: each in a few numbers, and its digest."""

    def read(matrix: Matrix) -> tuple[Descriptor, TensorDigest] | None:
        own = describe(matrix.tensor, matrix.gain)
        if own is None:
            return None
        digest = tensor_digest(matrix.tensor)
        forget_pages(matrix.tensor)
        return own, digest

    wanted = {
        name: matrix
        for name, matrix in matrices(checkpoint, wiring).items()
        if matrix.tensor.size and (sum(length > 1 for length in matrix.tensor.shape) < 2) is vectors
    }
    if wiring.parameters < THREADED:
        results = list(map(read, wanted.values()))
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets other threads run while it computes
            results = list(pool.map(read, wanted.values()))
    return {name: result for name, result in zip(wanted, results, strict=True) if result is not None}


def _unit(vector: Float64[np.ndarray, "dim"]) -> Float64[np.ndarray, "dim"]:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _short(own: Descriptor) -> Float32[np.ndarray, "numbers"]:
    return np.array([*np.log([own.entries, *own.lengths[:2]]), *own.values], np.float32)

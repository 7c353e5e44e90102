"""The `weights` vector of a network and the short signature of each of its tensors."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from math import prod

import numpy as np
from jaxtyping import Float32, Float64

from wsrl.canonical.rows import forget_pages
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.signature import anchored
from wsrl.signature.anchored import find_anchors
from wsrl.signature.descriptor import Descriptor, describe
from wsrl.signature.digest import TensorDigest, tensor_digest, weights_digest
from wsrl.signature.kernel_mean import Kernel, distinct, embed, embed_lengths
from wsrl.signature.matrices import Matrix, matrices
from wsrl.wiring.wiring import Wiring

VERSION = "wsrl-weights-3"  # to be changed whenever vectors change
# Bandwidths and shares were chosen on public checkpoints by how often a file finds its conversions, quantized copies,
# other versions and other networks of its task first, and on fine-tuned networks by how often they find their parent.
WIDE = Kernel("wide", 512, entries=0.35, lengths=0.7, taps=0.7, moments=5.0, spreads=1.0, network=0.25, size_power=0.25)
NARROW = Kernel(
    "narrow", 256, entries=5.0, lengths=5.0, taps=5.0, moments=10.0, spreads=5.0, network=0.0, size_power=0.25
)
LENGTHS, LENGTHS_SCALE = 256, 10.0  # features of the lengths of axes, and what a logarithm counts
SHARES = {"wide": 1.0, "narrow": 0.1, "lengths": 1.2, "anchored": 1.0}  # of the squared length
# In small networks the sketch counts as much as the descriptors. Descriptors of large ones are precise, and the sketch
# would blur them: its share falls with the entries N as (SKETCH_SIZE / N) ** SKETCH_POWER.
SKETCH_SIZE, SKETCH_POWER = 8e4, 1.25
THREADED = 2**22  # parameters from which tensors are read by several threads
DIM = WIDE.features + NARROW.features + LENGTHS + anchored.FEATURES


@dataclass(frozen=True)
class Signature:
    """Who a network is.

    Attributes:
      vector: of length 1.
      tensors: of each matrix that is described (see `matrices`; of each vector, in a network that has no matrix):
        logarithms of its entries and its two longest axes, then the numbers of its `Descriptor`.
      digest: see `wsrl.signature.digest.weights_digest`.
    """

    vector: Float32[np.ndarray, "dim"]
    tensors: Mapping[str, Float32[np.ndarray, "numbers"]]
    digest: str


def version_hash() -> str:
    """Returns the SHA-256 that stands for all constants of the vector; vectors of another one do not compare."""
    return sha256(
        f"{VERSION} {WIDE} {NARROW} {LENGTHS} {LENGTHS_SCALE} {SHARES} {SKETCH_SIZE} {SKETCH_POWER} "
        f"{anchored.COLUMNS}".encode()
    ).hexdigest()


def sign(checkpoint: Checkpoint, wiring: Wiring) -> Signature:
    """Reads all matrices of a checkpoint and returns its signature.

    The vector has four parts. Two are kernel mean embeddings of the tensors' descriptors, which need no wiring: a wide
    one for architecture and training, a narrow one for identity. The third, of the lengths of axes, is blind to the
    weights: networks of one task, even of different families, often share widths. The fourth sketches tensors at the
    network's inputs and outputs, where the wiring names any, and tells a network's children from its siblings'.

    Raises:
      CheckpointError: a tensor holds NaN or Inf or cannot be read, or all weights are 0.
    """
    descriptors, digests = _describe(checkpoint, wiring)
    if not descriptors:
        descriptors, digests = _describe(checkpoint, wiring, vectors=True)
    if not descriptors:
        raise CheckpointError(checkpoint.path, "all weights are 0, or there are fewer than 8", "give a trained network")
    once = distinct(descriptors)
    anchors = find_anchors(wiring, [name for name in descriptors if name in wiring.axes])
    touching = distinct({name: descriptors[name] for name in anchors})
    sketches = [anchored.sketch(checkpoint.tensors[name], anchors[name]) for name in touching]
    parts = {
        "wide": embed(once.values(), WIDE),
        "narrow": embed(once.values(), NARROW),
        "lengths": embed_lengths(once.values(), LENGTHS, LENGTHS_SCALE),
        "anchored": _unit(np.sum([np.zeros(anchored.FEATURES), *(s for s in sketches if s is not None)], axis=0)),
    }
    size = sum(own.entries for own in once.values())
    shares = SHARES | {"anchored": SHARES["anchored"] * min(1.0, (SKETCH_SIZE / size) ** SKETCH_POWER)}
    vector = _unit(np.concatenate([np.sqrt(shares[name]) * part for name, part in parts.items()]))
    tensors = {name: _short(own) for name, own in descriptors.items()}
    return Signature(vector.astype(np.float32), tensors, weights_digest(digests))


def _describe(
    checkpoint: Checkpoint, wiring: Wiring, vectors: bool = False
) -> tuple[dict[str, Descriptor], list[TensorDigest]]:
    """Reads the matrices of a checkpoint, or its vectors: those described in a few numbers, and digests."""

    def read(matrix: Matrix) -> tuple[Descriptor | None, TensorDigest | None]:
        tensor = matrix.read()
        own = describe(tensor, matrix.gain, matrix.parts) if matrix.described else None
        digest = tensor_digest(tensor) if matrix.stored and (own or not matrix.described) else None
        forget_pages(tensor)
        return own, digest

    wanted = {
        name: matrix
        for name, matrix in matrices(checkpoint, wiring).items()
        if prod(matrix.shape) and (sum(length > 1 for length in matrix.shape) < 2) is vectors
    }
    if wiring.parameters < THREADED:
        results = list(map(read, wanted.values()))
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets other threads run while it computes
            results = list(pool.map(read, wanted.values()))
    named = dict(zip(wanted, results, strict=True))
    descriptors = {name: own for name, (own, _) in named.items() if own is not None}
    return descriptors, [digest for _, digest in named.values() if digest is not None]


def _unit(vector: Float64[np.ndarray, "dim"]) -> Float64[np.ndarray, "dim"]:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else vector


def _short(own: Descriptor) -> Float32[np.ndarray, "numbers"]:
    return np.array([*np.log([own.entries, *own.lengths[:2]]), *own.values], np.float32)

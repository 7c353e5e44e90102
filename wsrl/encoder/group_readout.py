"""From what a sweep tells of the layers of a model to one vector."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256

import numpy as np
from jaxtyping import Float64

from wsrl.encoder.group_sweep import Token
from wsrl.encoder.probes import COLUMNS, signs

FORMAT = "wsrl-groups-1"  # to be changed whenever embeddings change
DIM = 256
STAGES = 3  # of the hidden layers, from the first to the last
PARTS = {"hidden": 1.0, "output": 2.0, "vector": 0.25}  # weight of each kind of layer in the embedding
MEAN, SIZE = 0.25, 0.05  # of a layer's mean state and of the logarithm of its size, beside its Gram matrix of length 1
FLAT = 0.01  # of a Gram matrix' trace: centred ones of less length are taken for rounding noise, softly
SMALL = 1e-12
PAIRS = np.triu_indices(COLUMNS, 1)
FEATURES = len(PAIRS[0]) + COLUMNS + 1


def encoder_hash() -> str:
    """SHA-256 that an index stores of this encoder; embeddings of another one do not compare."""
    return sha256(f"{FORMAT} {COLUMNS} {DIM} {STAGES} {PARTS} {MEAN} {SIZE}".encode()).hexdigest()


def read_out(tokens: Iterable[Token]) -> Float64[np.ndarray, "models dim"]:
    """Returns unit vectors.

    A layer's features are its centred Gram matrix (Kornblith et al. 2019) off the diagonal, at length 1, its mean state
    and its size. They are averaged by kind, those of hidden layers also by stage, to which a layer belongs in
    proportion; each average is projected to `DIM` dimensions by fixed signs (Achlioptas 2003).
    """
    sums: dict[tuple[str, int], Float64[np.ndarray, "models features"]] = {}
    shares: dict[tuple[str, int], float] = {}
    for token in tokens:
        features = layer_features(token)
        for stage in range(STAGES if token.kind == "hidden" else 1):
            share = max(0.0, 1 - abs(token.depth * (STAGES - 1) - stage)) if token.kind == "hidden" else 1.0
            if share > 0:
                key = token.kind, stage
                sums[key] = sums.get(key, 0.0) + share * features
                shares[key] = shares.get(key, 0.0) + share
    parts = [PARTS[key[0]] / shares[key] * total @ _projection(*key) for key, total in sums.items()]
    embedding = np.sum(parts, axis=0)
    return embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), SMALL)


def layer_features(token: Token) -> Float64[np.ndarray, "models features"]:
    """Features of one layer of each model."""
    gram = token.gram - token.gram.mean(1, keepdims=True)
    gram = gram - gram.mean(2, keepdims=True)
    pairs = gram[:, PAIRS[0], PAIRS[1]]
    noise = FLAT * np.trace(token.gram, axis1=1, axis2=2)[:, None]
    pairs = pairs / np.maximum(np.linalg.norm(pairs, axis=1, keepdims=True) + noise, SMALL)
    mean = token.mean / np.sqrt(COLUMNS)
    size = np.log(np.maximum(token.rms, SMALL))[:, None]
    return np.concatenate([pairs, MEAN * mean, SIZE * size], axis=1)


@lru_cache
def _projection(kind: str, stage: int) -> Float64[np.ndarray, "features dim"]:
    parts = [signs(f"projection {kind} {stage} {i}", 0, FEATURES) for i in range(DIM // COLUMNS)]
    return np.concatenate(parts, axis=1) / np.sqrt(DIM)

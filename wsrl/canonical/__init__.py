"""Canonical weights: scale, sign and GL(dim) symmetries are removed analytically; permutations are left to the encoder.

`canonicalize` does so for the networks of the five families whose function is known layer by layer,
`canonical_checkpoint` for any checkpoint with a wiring, tensor by tensor as they are read.
"""

from wsrl.canonical.checkpoint import Canonicalizer, canonical_checkpoint
from wsrl.canonical.network import canonical_network, canonicalize

__all__ = ["Canonicalizer", "canonical_checkpoint", "canonical_network", "canonicalize"]

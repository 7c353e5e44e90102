"""Canonical weights: scale, sign and GL(dim) symmetries are removed in closed form, permutations by the encoder."""

from wsrl.canonical.checkpoint import Canonicalizer, canonicalize

__all__ = ["Canonicalizer", "canonicalize"]

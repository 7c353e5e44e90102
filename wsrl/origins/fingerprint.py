"""Fingerprints of a checkpoint: documented digests, from the strictest to the loosest."""

from dataclasses import dataclass
from pathlib import Path

from wsrl.origins.family import family_digest
from wsrl.readers import open_checkpoint
from wsrl.signature.digest import content_digest, exact_digest
from wsrl.signature.matrices import matrices
from wsrl.signature.weights_vector import sign
from wsrl.wiring.infer_wiring import infer_wiring


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a checkpoint. Equal digests of one kind say what the kind says, and nothing more.

    Attributes:
      path: as it was given.
      file: SHA-256 of the bytes, see `wsrl.signature.digest.content_digest`; empty for an address of the hub.
      exact: same names, types, shapes and numbers of all tensors, see `wsrl.signature.digest.exact_digest`.
      canonical: same numbers in all matrices, see `wsrl.signature.digest.weights_digest`.
      family: same architecture, see `wsrl.origins.family.family_digest`.
    """

    path: str
    file: str
    exact: str
    canonical: str
    family: str


def fingerprint(path: str | Path) -> Fingerprint:
    """Reads a checkpoint and returns its fingerprint; the digests are the same in all versions of wsrl.

    Raises:
      CheckpointError: it cannot be used.
    """
    checkpoint = open_checkpoint(path)
    wiring = infer_wiring(checkpoint)
    return Fingerprint(
        str(path),
        "" if str(path).startswith("hf://") else content_digest(path),
        exact_digest(checkpoint.tensors),
        sign(checkpoint, wiring).digest,
        family_digest(matrices(checkpoint, wiring), wiring),
    )

"""Whether two checkpoints of the same numbers hold the same units, perhaps in another order.

Each unit gets a hash of all that it reads, writes and holds, over all tensors of its group. Permuted copies have the
same hashes; if one tensor alone was reordered, each of its units has got what belongs to another one.
"""

from collections import defaultdict

import numpy as np
from jaxtyping import UInt64

from wsrl.checkpoint import Checkpoint
from wsrl.comparison.pieces import cut
from wsrl.signature.digest import entry_hashes, tensor_digest
from wsrl.signature.hashing import mix

LARGEST = 2**28  # entries of networks that are looked at


def same_units(a: Checkpoint, b: Checkpoint) -> bool | None:
    """Returns whether the units are the same; None where that cannot be told: large networks, and other wirings.

    Raises:
      CheckpointError: a file cannot be read.
    """
    if max(sum(tensor.size for tensor in own.tensors.values()) for own in (a, b)) > LARGEST:
        return None
    own, other = (_units(checkpoint) for checkpoint in (a, b))
    if sorted(map(len, own)) != sorted(map(len, other)):
        return None
    return sorted(map(bytes, own)) == sorted(map(bytes, other))


def _units(checkpoint: Checkpoint) -> list[UInt64[np.ndarray, "units"]]:
    """Hashes of the units of each group, sorted, and of the entries of each side without a group in their order."""
    groups: dict[str, list[UInt64[np.ndarray, " units"]]] = defaultdict(list)
    alone = []
    for piece in cut(checkpoint):
        hashes = entry_hashes(piece.whole())
        key = mix(np.array([tensor_digest(piece.tensor)[1]], np.uint64))
        for side, units in enumerate(piece.sides()):
            sums = hashes.sum((1 - side, 2), dtype=np.uint64)
            if units.group is None or units.fixed or units.length != len(sums):
                alone.append(mix(sums ^ key))
            else:
                split = sums.reshape(units.outer, units.size, units.inner)
                groups[units.group].append(mix(split.sum((0, 2), dtype=np.uint64) ^ key))
    return [*alone, *(np.sort(np.sum(own, axis=0, dtype=np.uint64)) for own in groups.values())]

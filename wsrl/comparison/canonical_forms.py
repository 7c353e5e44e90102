"""Two networks without the scales and signs of their units, where both can be run.

That two networks are the same up to scales is more than that a scale fits each tensor: what one tensor is multiplied
by, the next one has to be divided by, and nothing scales what the last layer returns. The canonical form (see
`wsrl.canonical`) knows all of this.
"""

from dataclasses import replace

from wsrl.canonical import canonicalize
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.pieces import RUNNABLE_SIZE
from wsrl.program.hints import HINTS
from wsrl.program.read import read_program


def canonical_forms(a: Checkpoint, b: Checkpoint) -> tuple[Checkpoint, Checkpoint] | None:
    """Returns the canonical forms of two networks; None where one cannot be run, or is large.

    What one file tells, such as the activation, and the other does not, is taken to hold for both.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    forms = []
    for own, other in ((a, b), (b, a)):
        if sum(tensor.size for tensor in own.tensors.values()) > RUNNABLE_SIZE:
            return None
        told = {key: other.metadata[key] for key in HINTS if key in other.metadata}
        checkpoint = replace(own, metadata={**told, **own.metadata})
        try:
            wiring = read_program(checkpoint).wiring
        except CheckpointError:
            return None
        forms.append(canonicalize(checkpoint, wiring))
    return forms[0], forms[1]

"""What an encoder says of one model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Embedded:
    """One model: who it is, and what it does where that is known.

    Attributes:
      id: the source as it was given.
      content_digest: SHA-256 of the file's bytes, see `wsrl.signature.digest.content_digest`; empty for a model of a
        hub.
      weights_digest: equal for the same float32 weights in any format, layout, names and order of units.
      architecture: class of the architecture, e.g. `relu cnn of 4 layers`, equal for models that can be compared
        without its mean, or the type of the model that its configuration names; empty if neither is known.
      parameters: floating-point numbers in the checkpoint.
      weights: who the network is and who its relatives are, of length 1.
      function: what its outputs answer to natural images, of length 1; None where the network cannot be run.
      no_function: why there is no `function`; empty where there is one.
      accuracy: predicted accuracy from 0 to 1, where there is a `function`.
      assumed: what the file does not say and was inferred or assumed, e.g. `activation: relu`.
      tensors: a short signature of each tensor; see `wsrl.signature.weights_vector.Signature`.
      warnings: what was not read or not understood.
      declared: names of the models that it was made from, as its header, configurations and card state them.
      unread: numbers in the file that are most likely weights and could not be read.
    """

    id: str
    content_digest: str
    weights_digest: str
    architecture: str
    parameters: int
    weights: Float32[np.ndarray, "weights_dim"]
    function: Float32[np.ndarray, "function_dim"] | None
    no_function: str
    accuracy: float | None
    assumed: tuple[str, ...]
    tensors: Mapping[str, Float32[np.ndarray, "numbers"]]
    warnings: tuple[str, ...] = ()
    unread: int = 0
    declared: tuple[str, ...] = ()

    @property
    def incomplete(self) -> str:
        """One line about weights that could not be read; empty if all were."""
        if not self.unread:
            return ""
        return f"{self.id}: {self.unread:,} numbers of its weights are not read; `wsrl inspect` names their tensors"

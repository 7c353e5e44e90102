"""A model with its vectors as stores keep it: numbers that a store can filter by, and the rest as one text."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.search.catalog import NOWHERE, Model, Stat

LARGEST = 60_000  # bytes of the text; Milvus takes 65,535
NUMBERS = ("parameters", "size", "predicted_accuracy")  # keys of conditions that stores narrow a search by
KEPT_APART = ("tensors", "place")  # of a model: the former are too much for a text, the latter is of folders


@dataclass(frozen=True)
class Row:
    """A model of a store.

    Attributes:
      model: what is known of it, without the names of its tensors.
      weights: its vector; None where it was not asked for.
      function: the other vector; None where it has none or it was not asked for.
      has_function: whether there is one.
    """

    model: Model
    weights: Float32[np.ndarray, " dim"] | None
    function: Float32[np.ndarray, " other"] | None
    has_function: bool

    @classmethod
    def of(cls, model: Model, row: Embedded) -> "Row":
        """Makes one of what the encoder said."""
        return cls(model, row.weights, row.function, row.function is not None)

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.model.id)

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """Values by NUMBERS."""
        model = self.model
        values = model.parameters, model.stat.size if model.stat else None, model.accuracy
        return dict(zip(NUMBERS, values, strict=True))

    def text(self) -> str:
        """Returns all of the model as JSON.

        Raises:
          InputError: it is longer than stores keep.
        """
        told = {name: own for name, own in asdict(self.model).items() if name not in KEPT_APART}
        text = json.dumps(told)
        if len(text) > LARGEST:
            reason = f"what is known of it takes {len(text):,} bytes, more than {LARGEST:,}"
            raise InputError(self.model.id, reason, "keep it in an index folder, or shorten its card")
        return text

    def embedded(self) -> Embedded:
        """Returns what the encoder said, without the signatures of tensors."""
        model = self.model
        assert self.weights is not None
        return Embedded(
            model.id, model.content_digest, model.weights_digest, model.architecture, model.parameters, self.weights,
            self.function, model.no_function, model.accuracy, model.assumed, {}, model.warnings,
        )  # fmt: skip


def parse_row(text: str, weights: object, function: object, has_function: bool) -> Row:
    """Makes a row of what `Row.text` returned and of vectors as the store gives them, or None."""
    told: dict[str, Any] = json.loads(text)
    told |= {"stat": Stat(*told["stat"]) if told["stat"] else None, "tensors": (), "place": NOWHERE}
    told |= {name: tuple(told[name]) for name in ("assumed", "warnings")}
    vectors = [None if own is None else np.array(own, np.float32) for own in (weights, function)]
    return Row(Model(**told), vectors[0], vectors[1] if has_function else None, has_function)


def key_of(name: str) -> str:
    """Returns what a store knows a model by: digits of a hash of its id, in which nothing has to be quoted."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]

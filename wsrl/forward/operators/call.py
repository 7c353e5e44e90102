"""What an operator is given: arrays, attributes, and the limits of the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsrl.forward.cost import Cost

Value = np.ndarray


@dataclass(frozen=True)
class Call:
    """One operator at work.

    Attributes:
      inputs: None for one that is not given. Real numbers are float32, integers int64.
      attributes: see `wsrl.forward.graph.Step`.
      outputs: how many results are asked for.
      cost: of the run so far.
    """

    inputs: Sequence[Value | None]
    attributes: Mapping[str, object]
    outputs: int
    cost: Cost

    def __getitem__(self, place: int) -> Value:
        """Returns an input that must be given."""
        value = self.get(place)
        if value is None:
            raise ValueError(f"input {place} is missing")
        return value

    def get(self, place: int) -> Value | None:
        """Returns an input, None where it is not given."""
        return self.inputs[place] if place < len(self.inputs) else None

    def number(self, name: str, default: float | int) -> float:
        """Returns an attribute of one number."""
        value = self.attributes.get(name)
        return float(default if value is None else value)  # pyright: ignore[reportArgumentType]

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute of one integer."""
        return int(self.number(name, default))

    def text(self, name: str, default: str) -> str:
        """Returns an attribute of text."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else default

    def integers(self, name: str, place: int = -1) -> tuple[int, ...] | None:
        """Returns integers that older versions of an operator have as an attribute and newer ones as an input."""
        value = self.attributes.get(name)
        given = self.get(place) if place >= 0 else None
        if given is not None:
            return tuple(map(int, given.reshape(-1)))
        if value is None:
            return None
        return tuple(map(int, np.asarray(value).reshape(-1)))

    def scalar(self, name: str, place: int) -> float | int | None:
        """Returns one number that is an attribute in older versions of an operator and an input in newer ones."""
        given = self.get(place)
        if given is not None and given.size:
            return given.reshape(-1)[0].item()
        value = self.attributes.get(name)
        return None if value is None else float(value)  # pyright: ignore[reportArgumentType]


Operator = Callable[[Call], Value | Sequence[Value]]

"""A network that can be run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from wsrl.canonical.checkpoint import Canonicalizer
from wsrl.program.groups import exact_wiring
from wsrl.program.layers import Layer
from wsrl.wiring.wiring import Fact, Wiring


@dataclass(frozen=True)
class Program:
    """A network that can be run.

    Attributes:
      layers: in topological order; the last is its output.
      facts: what it rests on beside names and shapes: `activation`, `input`, `strides`, `padding`, `pooling` and
        `heads` in words, e.g. `tanh`, `28x28x1`, `max 2x2 after each convolution`. Sources are `hint`, `metadata`,
        `shapes` (no other usual value fits the names and shapes of tensors) and `assumed`.
      inferred: the wiring whose operations it was compiled from.
    """

    layers: tuple[Layer, ...]
    facts: Mapping[str, Fact]
    inferred: Wiring

    @cached_property
    def wiring(self) -> Wiring:
        """The wiring with the groups and scales that the program shows."""
        return exact_wiring(self.layers, self.inferred)

    @cached_property
    def canonicalizer(self) -> Canonicalizer:
        """What brings its checkpoints into canonical form."""
        return Canonicalizer(self.wiring)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[height, width, channels] of the images that it is fed."""
        first = self.layers[0]
        return (*first.grid, first.units)

    @property
    def values(self) -> dict[str, object]:
        """Values of the facts by their names."""
        return {name: fact.value for name, fact in self.facts.items()}

    @property
    def assumed(self) -> tuple[str, ...]:
        """The facts that nothing but usage speaks for, as `activation: tanh`."""
        return tuple(f"{name}: {fact.value}" for name, fact in self.facts.items() if fact.source == "assumed")

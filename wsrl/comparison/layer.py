"""A pair of tensors with what was measured of it."""

from dataclasses import dataclass

from wsrl.comparison.difference import Difference
from wsrl.comparison.grid import Grid
from wsrl.comparison.matching import Agreement
from wsrl.comparison.pairing import Pair


@dataclass(frozen=True)
class Layer:
    """A pair of tensors with what was measured of it.

    Attributes:
      pair: the tensors.
      difference: after alignment; None where nothing corresponds or the networks are unrelated.
      test: of the units' agreement.
      moved: whether units were brought into A's order.
      shuffled: whether the units are those of the other, but in an order that other tensors of their group do not have.
      grids: on which a and b lie, if they differ and are no more different than rounding makes them.
      unscaled: the change before units were given A's scales, where they have others.
    """

    pair: Pair
    difference: Difference | None
    test: Agreement | None
    moved: bool = False
    unscaled: float | None = None
    grids: tuple[Grid | None, Grid | None] = (None, None)
    shuffled: bool = False

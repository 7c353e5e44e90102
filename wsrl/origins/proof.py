"""What two models of an index are to each other, proven on their files."""

from collections.abc import Callable
from dataclasses import replace

from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Kind, Relation
from wsrl.comparison.same_numbers import same_numbers
from wsrl.origins.keeper import Copy
from wsrl.origins.rounding import rounded_from
from wsrl.origins.same_units import same_units

Compare = Callable[[Checkpoint, Checkpoint], Relation]
PERMUTED = "all units are the same, in another order"
ROUNDED = "all numbers are those of the other, rounded to a narrower type"
SHUFFLED = "all matrices hold the same numbers, but not for the same units"


def prove(first: Copy, second: Copy, compare: Compare) -> Relation:
    """Returns the relation of two models.

    Equal digests say that all matrices hold the same numbers. Then layout and units are compared number by number, and
    so are numbers that were rounded to a narrower type; neither needs statistics. All else is left to `compare`.

    Raises:
      CheckpointError: a file cannot be read.
    """
    a, b = first.open(), second.open()
    digest = first.model.weights_digest
    if not digest or digest != second.model.weights_digest:
        side = rounded_from(a, b)
        if side:
            return Relation(Kind.SAME_WEIGHTS, related=True, reasons=(ROUNDED,), derived=side)
        return compare(a, b)
    if same_numbers(a, b):
        return Relation(Kind.SAME_WEIGHTS, related=True, reasons=("all tensors hold the same numbers",))
    same = same_units(a, b)
    if same:
        return Relation(Kind.SAME_SYMMETRY, related=True, reasons=(PERMUTED,))
    relation = compare(a, b)
    if same is False and relation.kind == Kind.SAME_SYMMETRY:
        return replace(relation, kind=Kind.FINE_TUNED, reasons=(*relation.reasons, SHUFFLED))
    return relation

"""What two models of an index are to each other, proven on their files."""

from collections.abc import Callable
from dataclasses import replace

from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Kind, Relation
from wsrl.origins.keeper import Copy
from wsrl.origins.same_numbers import same_numbers
from wsrl.origins.same_units import same_units

Compare = Callable[[Checkpoint, Checkpoint], Relation]
PERMUTED = "all units are the same, in another order"
SHUFFLED = "all matrices hold the same numbers, but not for the same units"


def prove(first: Copy, second: Copy, compare: Compare) -> Relation:
    """Returns the relation of two models.

    Equal digests say that all matrices hold the same numbers. Then layout and units are compared number by number,
    which needs no statistics; all other pairs, and what is not decided so, are compared by `compare`.

    Raises:
      CheckpointError: a file cannot be read.
    """
    a, b = first.open(), second.open()
    digest = first.model.weights_digest
    if not digest or digest != second.model.weights_digest:
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

"""What two checkpoints are to each other, layer by layer and as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """How the weights of two checkpoints are related; from the closest kind to none."""

    SAME_FILE = "same_file"  # all bytes
    SAME_WEIGHTS = "same_weights"  # another format, other names, shards or floating-point type
    SAME_SYMMETRY = "same_symmetry"  # units in another order, or with other scales or signs
    SAME_PRECISION = "same_precision"  # quantized: the same at a stated precision
    NOISE = "noise"  # the same plus noise without structure
    PRUNED = "pruned"  # entries set to 0, or units or layers taken out
    ADAPTER = "adapter"  # the difference has a low rank
    MERGE = "merge"  # a linear combination of several
    EXTENDED = "extended"  # layers, experts, words or units added
    FINE_TUNED = "fine_tuned"  # trained on, or both trained from one start
    UNRELATED = "unrelated"  # trained from independent starts
    UNKNOWN = "unknown"  # cannot be compared


SAME = {Kind.SAME_FILE, Kind.SAME_WEIGHTS, Kind.SAME_SYMMETRY, Kind.SAME_PRECISION}
WORDS = {
    Kind.SAME_FILE: "the same file",
    Kind.SAME_WEIGHTS: "the same weights",
    Kind.SAME_SYMMETRY: "the same network up to order, scales or signs of its units",
    Kind.SAME_PRECISION: "the same weights at a lower precision",
    Kind.NOISE: "the same weights plus noise",
    Kind.PRUNED: "related: one is pruned",
    Kind.ADAPTER: "related: the difference has a low rank, as that of a merged adapter",
    Kind.MERGE: "a merge",
    Kind.EXTENDED: "related: one is extended",
    Kind.FINE_TUNED: "related: fine-tuned",
    Kind.UNRELATED: "unrelated",
    Kind.UNKNOWN: "cannot be compared",
}


@dataclass(frozen=True)
class LayerRelation:
    """One tensor of A, the tensor of B that it was aligned with, and what one is to the other.

    Attributes:
      a, b: names of the tensors; None where the other checkpoint has no counterpart.
      what: `equal`, `rounded` (to another floating-point type), `scaled` (units, by factors), `quantized`, `pruned`,
        `noise`, `shuffled` (in an order that no other tensor has), `low rank`, `changed`, `combined` (of a merge),
        `independent`, `only in a` or `only in b`.
      change: norm of the difference divided by the norm of A's tensor, after alignment and before any rescaling; None
        where there is no counterpart.
      rank: singular values that hold 99 % of the squared difference; None where they are too many, or it is no matrix.
      p_value: that so many units agree by chance; None where the tensor was not tested.
      reordered: whether units had to be brought into A's order.
      bits: of the grid on which one side lies, where it is quantized.
      coefficients: of the parents of a merge.
    """

    a: str | None
    b: str | None
    what: str
    change: float | None = None
    rank: int | None = None
    p_value: float | None = None
    reordered: bool = False
    bits: float | None = None
    coefficients: tuple[float, ...] = ()


@dataclass(frozen=True)
class Relation:
    """What two checkpoints are to each other.

    Attributes:
      kind: the closest kind that holds for the network as a whole.
      p_value: that units of independently trained networks agree so well; None where nothing was tested.
      layers: in the order of A's data flow, then those only in B.
      related: whether they share a start of training; what is unknown is not, other than to a parent of a merge.
      reasons: what the verdict rests on, a sentence each.
      limits: what the comparison cannot tell, a sentence each.
      derived: `a` or `b`, the one that was made from the other, where the weights themselves show it; else None.
      precision: in bits, of kind `same_precision`.
      coefficients: of a merge, parent -> coefficient.
    """

    kind: Kind
    p_value: float | None = None
    layers: tuple[LayerRelation, ...] = ()
    related: bool = False
    reasons: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    derived: str | None = None
    precision: float | None = None
    coefficients: Mapping[str, float] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both are one network, up to format, order and stated precision."""
        return self.kind in SAME

    def to_json(self) -> dict:
        """Returns the relation as plain JSON values."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("layers", "coefficients")},
            "kind": str(self.kind),
            "same": self.same,
            "coefficients": dict(self.coefficients),
            "layers": [dict(vars(layer)) for layer in self.layers],
        }

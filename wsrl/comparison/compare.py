"""Compares two checkpoints by their weights: whether they are related, how, and which layers come from where.

First it is found what corresponds (see `wsrl.comparison.correspondence`); only related networks are then compared entry
by entry.
"""

import filecmp
from dataclasses import replace
from pathlib import Path

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.alignment import align
from wsrl.comparison.canonical_forms import canonical_forms
from wsrl.comparison.correspondence import correspond
from wsrl.comparison.pairing import Sampled
from wsrl.comparison.pieces import cut
from wsrl.comparison.relation import SAME, Kind, Relation
from wsrl.comparison.same_numbers import same_numbers
from wsrl.comparison.verdict import judge
from wsrl.readers import open_checkpoint
from wsrl.signature.digest import content_digest, tensor_digest

CONVERTED = "all tensors hold the same numbers, some in an order that a converter gave them"
NOT_SCALED = "with their scales taken out, the networks differ"

Source = str | Path | Checkpoint


def compare(a: Source, b: Source) -> Relation:
    """Compares two checkpoints by their weights alone.

    Args:
      a, b: files, folders or `hf://owner/name`, or opened checkpoints. Metadata of a checkpoint may hold hints
        (`activation`, `heads`), as for an index.

    Returns:
      The relation. It is the same for (b, a) but for the names of the sides.

    Raises:
      CheckpointError: one of them cannot be used.
    """
    if _same_file(a, b):
        return Relation(Kind.SAME_FILE, related=True, reasons=("all bytes are the same",))
    first, second = (source if isinstance(source, Checkpoint) else open_checkpoint(source) for source in (a, b))
    relation = _compared(first, second)
    if relation.kind is Kind.FINE_TUNED and _converted(first, second, relation):
        return replace(relation, kind=Kind.SAME_WEIGHTS, reasons=(*relation.reasons, CONVERTED))
    if relation.kind is Kind.SAME_SYMMETRY and any(layer.what == "scaled" for layer in relation.layers):
        forms = canonical_forms(first, second)
        proven = _compared(*forms, scales=False) if forms else relation
        if proven.kind not in SAME:
            return replace(proven, reasons=(*proven.reasons, NOT_SCALED))
    return relation


def _converted(first: Checkpoint, second: Checkpoint, relation: Relation) -> bool:
    """Whether all that differs is the order in which a converter left the numbers of some tensors."""
    others = [layer for layer in relation.layers if layer.what not in ("equal", "only in a", "only in b")]
    pairs = [(first.tensors.get(layer.a or ""), second.tensors.get(layer.b or "")) for layer in others]
    alike = all(a is not None and b is not None and a.size == b.size for a, b in pairs)
    same = alike and all(tensor_digest(a) == tensor_digest(b) for a, b in pairs if a is not None and b is not None)
    return same and same_numbers(first, second)


def _compared(first: Checkpoint, second: Checkpoint, scales: bool = True) -> Relation:
    """The relation of two checkpoints, whose units may have other scales or not."""
    found = correspond(*(Sampled.of(cut(checkpoint)) for checkpoint in (first, second)))
    layers = align(found.pairs, found.known if found.related else None, found.tests, scales)
    return judge(layers, found.pooled, found.related)


def _same_file(a: Source, b: Source) -> bool:
    """Whether both are files, or folders, of the same bytes."""
    if isinstance(a, Checkpoint) or isinstance(b, Checkpoint):
        return False
    paths = Path(a), Path(b)
    try:
        if all(path.is_file() for path in paths):
            return filecmp.cmp(*paths, shallow=False)
    except OSError as error:
        raise CheckpointError(error.filename or a, f"cannot be read ({error.strerror})", "check the file") from error
    return all(path.is_dir() for path in paths) and content_digest(paths[0]) == content_digest(paths[1])

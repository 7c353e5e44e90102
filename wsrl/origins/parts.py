"""Parts that a model shares with models of an index: a text encoder, a backbone, one layer.

The signatures of tensors that the index holds name the models of which some tensors may be the same; a comparison of
the files then says which are, and what each is. A part is named by the longest prefix under which all matrices are
shared.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from wsrl.canonical.rows import row_chunks
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.relation import LayerRelation
from wsrl.errors import InputError
from wsrl.origins.proof import Compare
from wsrl.origins.sieve import Signatures, nearest_tensors
from wsrl.readers import open_checkpoint
from wsrl.search.index import Index
from wsrl.search.query_rows import QueryRows
from wsrl.search.store import Store

NEAR = 0.02  # distance of signatures of tensors that may be the same, or trained on a little
SMALLEST = 64  # entries of a tensor that can be a part
PROVEN = 32  # models whose files are compared, at most
ROUNDING = 0.005  # change that a narrower floating-point type makes, at most
SHARED = {  # what a tensor is to another -> what it says of a part, from the closest on
    "equal": "same_weights",
    "rounded": "same_weights",
    "scaled": "same_symmetry",
    "quantized": "same_precision",
    "noise": "fine_tuned",
    "low rank": "fine_tuned",
    "changed": "fine_tuned",
    "pruned": "fine_tuned",
}
WORD = re.compile(r"[./]")


@dataclass(frozen=True)
class Part:
    """Tensors that two models share.

    Attributes:
      a, b: what their names in the query and in the other model begin with; the whole name of a single tensor, empty
        where they have nothing in common.
      kind: `same_weights`, `same_symmetry`, `same_precision` or `fine_tuned`, the loosest of all tensors.
      tensors: of them, without vectors.
      parameters: of these, in the query.
    """

    a: str
    b: str
    kind: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Sharing:
    """A model of the index, and what it shares with the query.

    Attributes:
      id: of the model.
      parts: the largest first.
      share: of the query's parameters in matrices that they hold.
    """

    id: str
    parts: tuple[Part, ...]
    share: float


@dataclass(frozen=True)
class Shared:
    """Models that share parts with a query, those that share most first; files that could not be compared.

    `left` is how many more models have tensors that may be shared and were not looked at.
    """

    models: tuple[Sharing, ...]
    problems: tuple[InputError, ...]
    left: int


def find_parts(
    directory: str | Path, query: str, compare: Compare | None = None, progress: bool = False, most: int = PROVEN
) -> Shared:
    """Finds the models of an index that share parts with a model.

    Args:
      directory: of the index.
      query: a file, or the id of a model of the index.
      compare: gives the relation of two checkpoints; by default `wsrl.comparison.compare.compare`.
      progress: show a progress line on stderr.
      most: models whose files are compared.

    Raises:
      InputError: there is no index, it is damaged, or the query cannot be used.
    """
    store, index = Store(Path(directory)), Index.open(directory)
    own = QueryRows(store, None).row(query, function=False)
    read = partial(index.checkpoint, own.id) if own.id in set(index.ids) else partial(open_checkpoint, query)
    if compare is None:
        from wsrl.comparison.compare import compare  # it is large
    assert compare is not None
    candidates = _candidates(store, _stacked(own.tensors.values()), own.content_digest)
    found, problems = [], []
    tried = candidates[:most]
    for name in tqdm(tried, desc="comparing", unit="model", disable=None if progress else True, mininterval=1.0):
        try:
            a = read()
            b = index.checkpoint(name)
            relation = compare(a, b)
            parts = _parts(a, relation.layers if relation.related else _equal(a, b, relation.layers))
        except CheckpointError as error:
            problems.append(error)
            continue
        if parts:
            total = sum(tensor.size for tensor in a.tensors.values() if tensor.ndim > 1)
            found.append(Sharing(name, parts, min(sum(part.parameters for part in parts) / max(total, 1), 1.0)))
    found.sort(key=lambda sharing: (-sharing.share, sharing.id))
    return Shared(tuple(found), tuple(problems), len(candidates) - len(tried))


def _stacked(tensors) -> Signatures:
    rows = list(tensors)
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _candidates(store: Store, query: Signatures, content: str) -> list[str]:
    """Ids of models with tensors near to those of a query, those that may share most entries first."""
    models = [model for model in store.catalog.models() if not content or model.content_digest != content]
    signatures = [store.signatures(model) for model in models]
    shared = _shared_entries(query, signatures)
    order = np.argsort(-shared, kind="stable")
    return [models[number].id for number in order.tolist() if shared[number] > 0]


def _shared_entries(query: Signatures, others: Sequence[Signatures]) -> Float64[np.ndarray, "models"]:
    """Entries of the query's tensors that each model may have, too; those of near signatures count more."""
    counts = [len(own) if own.ndim == query.ndim and own.shape[1:] == query.shape[1:] else 0 for own in others]
    shared = np.zeros(len(others))
    if not len(query) or not sum(counts):
        return shared
    rows = np.concatenate([own for own, count in zip(others, counts, strict=True) if count])
    owner = np.repeat(np.arange(len(others)), counts)
    for signature, near, far in nearest_tensors(query, rows, NEAR):
        entries = float(np.exp(signature[0]))
        if entries >= SMALLEST - 0.5:
            closest = np.zeros(len(others))
            np.maximum.at(closest, owner[near], 1 - far / (2 * NEAR))
            shared += entries * closest
    return shared


def _parts(a: Checkpoint, layers: Sequence[LayerRelation]) -> tuple[Part, ...]:
    """The shared parts, by the names of the query."""
    matrices = [layer for layer in layers if layer.a is not None and _entries(a, layer.a) >= SMALLEST]
    shared = {layer.a: layer for layer in matrices if layer.b is not None and layer.what in SHARED}
    parts = []
    for prefix, names in _grouped([layer.a or "" for layer in matrices], set(shared)):
        own = [shared[name] for name in names]
        kinds = [SHARED[layer.what] for layer in own]
        kind = max(kinds, key=list(dict.fromkeys(SHARED.values())).index)
        others = _common_prefix([layer.b or "" for layer in own])
        parts.append(Part(prefix, others, kind, len(own), sum(_entries(a, name) for name in names)))
    return tuple(sorted(parts, key=lambda part: (-part.parameters, part.a)))


def _equal(a: Checkpoint, b: Checkpoint, layers: Sequence[LayerRelation]) -> list[LayerRelation]:
    """The tensors of networks that are not related as wholes, too small for a test say, which hold the same numbers."""
    found = []
    for layer in layers:
        x, y = a.tensors.get(layer.a or ""), b.tensors.get(layer.b or "")
        if x is None or y is None:
            continue
        same = (
            x.shape == y.shape
            and x.size >= SMALLEST
            and all(
                np.linalg.norm(own - other) <= ROUNDING * np.linalg.norm(own)
                for (*_, own), (*_, other) in zip(row_chunks(x), row_chunks(y), strict=True)
            )
        )
        found.append(replace(layer, what="equal" if same else "independent"))
    return found


def _entries(checkpoint: Checkpoint, name: str) -> int:
    tensor = checkpoint.tensors[name]
    return tensor.size if sum(n > 1 for n in tensor.shape) > 1 else 0


def _grouped(names: Sequence[str], shared: set) -> Iterator[tuple[str, list[str]]]:
    """Yields the longest stretches of names below one prefix that are shared as a whole, and the prefix."""
    below: dict[str, list[str]] = defaultdict(list)
    for name in names:
        words = [match.start() for match in WORD.finditer(name)]
        for end in (0, *words, len(name)):
            below[name[:end]].append(name)
    taken: set[str] = set()
    for prefix in sorted(below, key=lambda own: (-len(below[own]), len(own))):
        own = below[prefix]
        if taken.isdisjoint(own) and shared.issuperset(own):
            taken.update(own)
            yield _common_prefix(own) if len(own) > 1 else own[0], own


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, whole words."""
    if len(set(names)) == 1:
        return names[0]
    words = [re.split(r"(?<=[./])", name) for name in names]
    common = []
    for own in zip(*words, strict=False):
        if len(set(own)) > 1:
            break
        common.append(own[0])
    return "".join(common).rstrip("./")

"""The models of an index, and one that is asked about, with what any two are to each other by their files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.relation import SAME, Kind, Relation
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.errors import InputError
from wsrl.origins.proof import Compare
from wsrl.readers import open_checkpoint
from wsrl.search.file_identity import located, printable_id
from wsrl.search.index import Index
from wsrl.search.nearest import NearestNeighbors
from wsrl.search.store import Store

NEAREST = 8  # models that each is compared with
COSINE = 0.5  # of relatives, at least: few networks of other origin come as near
UNSHARED = ("independent", "only in a", "only in b")  # tensors that two relatives do not share


@dataclass(frozen=True)
class Node:
    """A model.

    Attributes:
      id: in the index, or the path of the one that is asked about.
      path: of its file or folder.
      open: reads its header.
      copies: ids of models of the same bytes.
    """

    id: str
    path: str
    open: Callable[[], Checkpoint]
    copies: tuple[str, ...] = ()


class Relatives:
    """Models by number, and their relations, which are found when they are first asked for.

    Args:
      directory: of the index.
      query: a model of it, or a file.
      compare: gives the relation of two checkpoints.

    Raises:
      InputError: there is no index, it is damaged, or the query cannot be used.
    """

    def __init__(self, directory: Path, query: str | None = None, compare: Compare | None = None):
        store, index = Store(directory), Index.open(directory)
        self.nodes: list[Node] = []
        self.problems: list[InputError] = []
        rows, first = [], {}
        for place, model in enumerate(store.catalog.models()):
            key = model.content_digest or model.id
            if key in first:
                number = first[key]
                node = self.nodes[number]
                self.nodes[number] = Node(node.id, node.path, node.open, (*node.copies, model.id))
                continue
            first[key] = len(self.nodes)
            self.nodes.append(Node(model.id, located(directory, model.path), partial(index.checkpoint, model.id)))
            rows.append(place)
        vectors = store.weights[rows]
        self.asked = None if query is None else self._find(query)
        if query is not None and self.asked is None:
            vectors = np.concatenate([vectors, _vector(query, store)[None]])
            self.asked = len(self.nodes)
            self.nodes.append(Node(query, query, partial(open_checkpoint, query)))
        self._vectors = vectors
        self._nearest = NearestNeighbors.build(vectors, [str(number) for number in range(len(vectors))])
        self._relations: dict[tuple[int, int], Relation] = {}
        self._compare = compare

    def _find(self, query: str) -> int | None:
        for number, node in enumerate(self.nodes):
            if printable_id(query) in (node.id, *node.copies):
                return number
            if Path(query).exists() and Path(node.path).exists() and Path(query).samefile(node.path):
                return number
        return None

    def near(self, numbers: Sequence[int]) -> list[list[int]]:
        """Returns for some models the nearest others, by their vectors."""
        places, cosines = self._nearest.search(self._vectors[list(numbers)], NEAREST + 1)
        return [
            [int(place) for place in own[score >= COSINE] if place != number][:NEAREST]
            for number, own, score in zip(numbers, places, cosines, strict=True)
        ]

    def relation(self, first: int, second: int) -> Relation:
        """What two models are to each other; `unknown` where a file cannot be read. `a` is the one of lower number."""
        key = min(first, second), max(first, second)
        if key not in self._relations:
            self._relations[key] = self._related(*key)
        return self._relations[key]

    def _related(self, first: int, second: int) -> Relation:
        if self._compare is None:
            from wsrl.comparison.compare import compare  # it is large

            self._compare = compare
        try:
            return self._compare(self.nodes[first].open(), self.nodes[second].open())
        except CheckpointError as error:
            if str(error) not in map(str, self.problems):
                self.problems.append(error)
            return Relation(Kind.UNKNOWN)

    def distance(self, first: int, second: int) -> float:
        """How far the tensors are apart that two models share: root mean square of their relative changes.

        A change counts as 1 at most: what was 0, as biases are before training, has no relative change.
        """
        relation = self.relation(first, second)
        if relation.kind in SAME and relation.kind != Kind.SAME_PRECISION:
            return 0.0
        changes = [layer.change for layer in relation.layers if layer.change is not None and layer.what not in UNSHARED]
        return float(np.sqrt(np.mean(np.square(np.minimum(changes, 1.0))))) if changes else np.inf


def _vector(query: str, store: Store) -> np.ndarray:
    encoder = load_encoder()
    if encoder.hash != store.manifest.encoder:
        reason = f"was filled by the encoder {store.manifest.encoder[:12]}, not by {encoder.hash[:12]}"
        raise InputError(store.directory, reason, "index the model too, and ask for it by its id")
    row = next(iter(encoder.embed([query], function=False)))
    if isinstance(row, CheckpointError):
        raise row
    return row.weights

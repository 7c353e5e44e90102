"""Search among the children of a base: which of them do what a given one does."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from tqdm import tqdm

from wsrl.checkpoint import CheckpointError, unexpected
from wsrl.errors import InputError
from wsrl.readers import open_checkpoint
from wsrl.relative.base import Base
from wsrl.relative.candidates import Candidate, candidate_of, described, find_candidates, state_of
from wsrl.relative.child import read_child
from wsrl.relative.kept import Measured, kept_file, read_kept, write_kept
from wsrl.relative.metric import Metric
from wsrl.relative.neighbors import Gallery
from wsrl.relative.vector import RelativeEncoder
from wsrl.search.address import is_address
from wsrl.search.file_identity import HUB, local_folder, printable_id
from wsrl.search.hit import Hit
from wsrl.search.manifest import MANIFEST

BY = "relative"
EQUAL = 1e-3  # distance of vectors of length 1, and share of the size of a change, up to which changes are the same


@dataclass(frozen=True)
class Children:
    """The children of a base among some candidates.

    Attributes:
      base: as it was named.
      members: the children.
      vectors: of them.
      changes: see `wsrl.relative.kept.Measured`.
      problems: candidates that cannot be used, or are no children of the base.
      copies: candidates other than the base itself that change nothing of it, which are no children.
    """

    base: str
    members: Sequence[Candidate]
    vectors: Float32[np.ndarray, "n dim"]
    changes: Sequence[float]
    problems: Sequence[InputError]
    copies: Sequence[Candidate]


class Query(NamedTuple):
    """A child that is asked for.

    Attributes:
      vector, change: see `Children`.
      place: among the children, if it is one of them.
    """

    vector: Float32[np.ndarray, " dim"]
    change: float
    place: int | None


class RelativeSearch:
    """Opens a base and reads what the candidates change of it.

    Args:
      base: a checkpoint: a file, a folder or hf://owner/name.
      directory: of an index, beside which vectors are kept, or a folder of checkpoints.
      learn: a key of the candidates' metadata, such as `task`, whose values tell what children do: which matrices
        count is learned from those that have it; see `wsrl.relative.fit_weights`. None: nothing is learned.
      progress: show a progress line on stderr.

    Attributes:
      children: that were found.

    Raises:
      InputError: the base or the folder cannot be used, or holds no child of the base.
    """

    def __init__(self, base: str, directory: str | Path, learn: str | None = None, progress: bool = False):
        directory = local_folder(directory, "--relative-to")
        _no_store(base)
        self._encoder = RelativeEncoder(Base(open_checkpoint(base)))
        candidates, problems = find_candidates(directory)
        file = kept_file(directory, state_of(base)) if (directory / MANIFEST).is_file() else None
        known = read_kept(file, self._encoder.dim) if file else {}
        found: dict[str, Measured] = {}
        for candidate in tqdm(candidates, desc="children", unit="model", disable=None if progress else True):
            kept = known.get(candidate.id)
            # What the hub did not give, it may give by now.
            asked = kept is not None and (kept.vector is not None or not candidate.path.startswith(HUB))
            if kept is None or not asked or kept.state != candidate.state:
                kept = self._measure(candidate)
            found[candidate.id] = kept
        changed = found.keys() != known.keys() or any(own is not known[name] for name, own in found.items())
        if file and changed and any(own.vector is not None for own in found.values()):
            with suppress(OSError):  # a folder that cannot be written: they are made anew next time
                write_kept(file, found, self._encoder.dim)
        pairs = [(candidate, found[candidate.id]) for candidate in candidates]
        problems += [CheckpointError(own.path, m.reason, m.fix) for own, m in pairs if m.vector is None]
        members = [(own, m) for own, m in pairs if m.vector is not None and m.vector.any()]
        if not members:
            told = f" ({problems[0]})" if problems else ""
            raise InputError(directory, f"holds no child of {base}{told}", "name the base that they were trained from")
        vectors = np.stack([m.vector for _, m in members if m.vector is not None])
        unchanged = [own for own, m in pairs if m.vector is not None and not m.vector.any()]
        copies = [own for own in unchanged if os.path.realpath(own.path) != os.path.realpath(base)]
        changes = [m.change for _, m in members]
        self.children = Children(base, [own for own, _ in members], vectors, changes, problems, copies)
        self._by_id = {own.id: place for place, (own, _) in enumerate(members)}
        self._by_path = {os.path.realpath(own.path): place for place, (own, _) in enumerate(members)}
        weights = None if learn is None else self._learned(learn)
        self._gallery = Gallery(vectors, Metric(vectors, self._encoder.blocks, weights))

    def search(self, queries: str | Iterable[str], k: int = 10) -> list[Hit]:
        """Returns the children that do most nearly what the queries do, by the mean of their scores.

        Args:
          queries: a checkpoint, or the id of a candidate; or several.
          k: hits at most.

        Raises:
          InputError: a query cannot be used, is no child of the base, or changes nothing.
        """
        asked = [self._query(name) for name in ([queries] if isinstance(queries, str) else queries)]
        if not asked:
            raise InputError("query", "none was given", "name a child of the base")
        scores = np.mean([self._gallery.scores(own.vector, own.place) for own in asked], 0)
        same = self._same(asked[0]) if len(asked) == 1 else np.zeros(len(scores), bool)
        scores = np.where(same, 1.0, self._gallery.shown(scores))
        order = np.lexsort((-scores, ~same))[:k].tolist()
        return [self._hit(i, place, float(scores[place]), bool(same[place])) for i, place in enumerate(order, 1)]

    def _learned(self, key: str) -> Float32[np.ndarray, " blocks"]:
        from wsrl.relative.fit_weights import fit_weights  # JAX, which search does without

        values = [own.metadata.get(key) for own in self.children.members]
        known = [place for place, value in enumerate(values) if value is not None]
        if not known:
            keys = sorted({str(own) for member in self.children.members for own in member.metadata})
            mend = f"name one of {', '.join(keys)}" if keys else "note it by `wsrl annotate`"
            raise InputError(f"--learn {key}", "no child has this key in its metadata", mend)
        label = np.unique([str(values[place]) for place in known], return_inverse=True)[1]
        return fit_weights(self.children.vectors[known], label, self._encoder.blocks)

    def _query(self, name: str) -> Query:
        is_file = Path(name).exists()
        place = self._by_path.get(os.path.realpath(name)) if is_file else self._by_id.get(printable_id(name))
        if place is not None:
            return Query(self.children.vectors[place], self.children.changes[place], place)
        _no_store(name)
        measured = self._measure(candidate_of(name))
        if measured.vector is None:
            raise CheckpointError(name, measured.reason, measured.fix)
        if not measured.vector.any():
            raise InputError(name, f"changes nothing of {self.children.base}", "give a child of it")
        return Query(measured.vector, measured.change, None)

    def _measure(self, candidate: Candidate) -> Measured:
        try:
            vector, change = self._encoder.embed(read_child(candidate.open(), self._encoder.base))
        except CheckpointError as error:
            return Measured(candidate.state, None, 0.0, error.reason, error.fix)
        except Exception as error:  # of files that nobody thought of: one of them ends no search
            wrapped = unexpected(candidate.path, error)
            return Measured(candidate.state, None, 0.0, wrapped.reason, wrapped.fix)
        return Measured(candidate.state, vector, change, "", "")

    def _same(self, query: Query) -> Bool[np.ndarray, " n"]:
        length = max(float(np.linalg.norm(query.vector)), EQUAL)
        far = np.linalg.norm(self.children.vectors - query.vector, axis=1) / length
        sizes = np.array(self.children.changes)
        return (far < EQUAL) & (np.abs(sizes - query.change) <= EQUAL * query.change)

    def _hit(self, rank: int, place: int, score: float, same: bool) -> Hit:
        own = described(self.children.members[place])
        metadata = {**own.metadata, "change": round(self.children.changes[place], 6)}
        told = (own.architecture, own.parameters, None, same, own.path, metadata)
        return Hit(rank, own.id, score, BY, *told)


def _no_store(name: str) -> None:
    if is_address(name):
        raise InputError(name, "is a vector store", "name a checkpoint: a file, a folder or hf://owner/name")

"""Duplicates in an index: candidates by digests and nearest vectors, a sieve by signatures, proofs on the files."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from wsrl.checkpoint import CheckpointError
from wsrl.comparison.relation import Kind, Relation
from wsrl.errors import InputError
from wsrl.origins.candidates import near_pairs
from wsrl.origins.disk import freed, on_disk
from wsrl.origins.keeper import Copy, rank, why_first
from wsrl.origins.proof import Compare, prove
from wsrl.origins.rounding import largest_errors
from wsrl.origins.sieve import Signatures, may_be_same
from wsrl.origins.weight_files import bytes_digest, weight_files
from wsrl.search.catalog import Model
from wsrl.search.file_identity import HUB, file_stat, located
from wsrl.search.index import Index
from wsrl.search.store import Store

KINDS = (Kind.SAME_FILE, Kind.SAME_WEIGHTS, Kind.SAME_SYMMETRY, Kind.SAME_PRECISION)
MOST_COMPARED = 16  # models that one is compared with by its file, the nearest first
UNROUNDED = 32  # bits


@dataclass(frozen=True)
class Group:
    """Models that are the same in one way.

    Attributes:
      kind: what all others are to the first.
      copies: the one to keep first.
      why: it is the one to keep.
      relations: of all but the first to the first; empty where all bytes are the same.
      freed: bytes that removing all but the first would free; those are left out that it would not free.
    """

    kind: Kind
    copies: tuple[Copy, ...]
    why: str
    relations: tuple[Relation, ...]
    freed: int


@dataclass(frozen=True)
class Found:
    """Groups of duplicates, and what could not be looked at.

    Attributes:
      groups: those of identical files first; in each kind those that free most first.
      problems: models that are left out, and why.
      compared: pairs of files that were compared.
    """

    groups: tuple[Group, ...]
    problems: tuple[InputError, ...]
    compared: int


def find_duplicates(
    directory: str | Path,
    kinds: Collection[Kind] = KINDS,
    reference: Sequence[str | Path] = (),
    keep: Sequence[str | Path] = (),
    compare: Compare | None = None,
    progress: bool = False,
) -> Found:
    """Finds the models of an index that are the same, in one way or another.

    Names are no evidence. Digests, vectors and signatures of the index only say which files to compare; files that have
    changed since they were indexed are left out.

    Args:
      directory: of the index.
      kinds: that are looked for; without those that compare weights, no file is opened.
      reference: folders whose files are never to be removed.
      keep: folders whose files are kept rather than others.
      compare: gives the relation of two checkpoints; by default `wsrl.comparison.compare.compare`.
      progress: show a progress line on stderr.

    Raises:
      InputError: there is no index, or it is damaged.
    """
    search = _Search(Path(directory), reference, keep, compare)
    copies = list(search.copies())
    classes = _same_bytes(copies)
    groups = [search.group(Kind.SAME_FILE, rank(own), ()) for own in classes if len(own) > 1]
    if set(kinds) - {Kind.SAME_FILE}:
        groups += search.same_weights([rank(own)[0] for own in classes], progress)
    wanted = [group for group in groups if group.kind in kinds]
    wanted.sort(key=lambda group: (KINDS.index(group.kind), -group.freed, group.copies[0].model.id))
    return Found(tuple(wanted), tuple(search.problems), search.compared)


class _Search:
    def __init__(
        self, directory: Path, reference: Sequence[str | Path], keep: Sequence[str | Path], compare: Compare | None
    ):
        self.directory, self.store, self.index = directory, Store(directory), Index.open(directory)
        self.reference, self.keep = ([_folder(own) for own in own_list] for own_list in (reference, keep))
        self._compare = compare
        self._signatures: dict[str, Signatures] = {}
        self.problems: list[InputError] = []
        self.compared = 0

    def copies(self) -> Iterator[Copy]:
        """The models whose files are as they were when they were indexed."""
        for model in self.store.catalog.models():
            path = located(self.directory, model.path)
            read = partial(self.index.checkpoint, model.id)
            if path.startswith(HUB):
                yield Copy(model, path, (), read)
                continue
            try:
                changed = file_stat(path, model.stat.record if model.stat else None) != model.stat
                files = tuple(map(on_disk, weight_files(path)))
            except OSError as error:
                reason = f"cannot be read ({error.strerror or error})"
                self.problems.append(CheckpointError(path, reason, "index its folder again"))
                continue
            if changed:
                self.problems.append(CheckpointError(path, "has changed since it was indexed", "index it again"))
                continue
            yield Copy(model, path, files, read, _below(path, self.reference), _below(path, self.keep))

    def group(self, kind: Kind, ranked: Sequence[Copy], relations: Sequence[Relation]) -> Group:
        """Groups copies, the one to keep first."""
        first, *others = ranked
        kept = [file for copy in ranked if copy is first or not copy.removable for file in copy.files]
        removed = [file for copy in others if copy.removable for file in copy.files]
        return Group(kind, tuple(ranked), why_first(ranked), tuple(relations), freed(removed, kept))

    def same_weights(self, copies: Sequence[Copy], progress: bool) -> list[Group]:
        """Groups models of different bytes around those that are kept.

        Models are taken in the order in which one would keep them, the most precise first. Each is compared with the
        nearest of those before, until one holds the same weights. A quantized one is compared with all that are near:
        several may round to it, as networks do that differ by a step of training; the one that it is nearest to counts.
        """
        near = near_pairs(self.store, [copy.model.id for copy in copies])
        ranked = rank([copy for copy in copies if near.get(copy.model.id)])
        done: dict[str, Copy] = {}
        first: dict[str, str] = {}  # id of a model -> the one that stands for its group
        members: dict[tuple[str, Kind], list[tuple[Copy, Relation]]] = defaultdict(list)
        for copy in tqdm(ranked, desc="comparing", unit="model", disable=None if progress else True, mininterval=1.0):
            name = copy.model.id
            done[name], first[name] = copy, name
            before = [(done[first[other]], done[other]) for other in near[name] if other in done and other != name]
            found = self.best(before, copy)
            if found is not None:
                standing, relation = found
                first[name] = standing.model.id
                members[standing.model.id, relation.kind].append((copy, relation))
        return [
            self.group(kind, [done[name], *(copy for copy, _ in own)], [relation for _, relation in own])
            for (name, kind), own in members.items()
        ]

    def best(self, before: Sequence[tuple[Copy, Copy]], copy: Copy) -> tuple[Copy, Relation] | None:
        """The model that a copy is the same as, with its relation to it; None if it is a copy of none.

        Args:
          before: models that stand for groups, each with a model of the group that is near to the copy.
          copy: the model.
        """
        asked: dict[str, Relation | None] = {}
        found: list[tuple[Copy, Relation]] = []
        proofs = 0
        for standing, other in before:
            for model in {standing.model.id: standing, other.model.id: other}.values():
                if model.model.id not in asked and not self.may_be_same(model, copy):
                    asked[model.model.id] = None
                elif model.model.id not in asked and proofs < MOST_COMPARED:
                    proofs += 1
                    asked[model.model.id] = self.relation(model, copy)
                relation = asked.get(model.model.id)
                if relation is None or not relation.related:
                    continue  # another form of the same network may be easier to compare
                if relation.kind in (Kind.SAME_FILE, Kind.SAME_WEIGHTS):
                    return standing, relation
                rounded = min(model.stored[1], copy.stored[1]) < UNROUNDED
                if relation.kind == Kind.SAME_SYMMETRY or (relation.kind == Kind.SAME_PRECISION and rounded):
                    found.append((standing, relation))
                break
        strictest = min((relation.kind for _, relation in found), key=KINDS.index, default=None)
        found = [own for own in found if own[1].kind == strictest]
        if strictest != Kind.SAME_PRECISION or len(found) == 1:
            return next(iter(found), None)
        return min(found, key=lambda own: largest_errors(own[0], copy, own[1]))

    def may_be_same(self, first: Copy, second: Copy) -> bool:
        """Whether a proof is needed: by digests and signatures of the index alone."""
        if first.model.weights_digest == second.model.weights_digest:
            return True
        own, other = (self.signatures(copy.model) for copy in (first, second))
        return may_be_same(own, other, min(first.stored[1], second.stored[1]))

    def signatures(self, model: Model) -> Signatures:
        """Of all tensors of a model, as the index holds them."""
        if model.id not in self._signatures:
            self._signatures[model.id] = self.store.signatures(model)
        return self._signatures[model.id]

    def relation(self, first: Copy, second: Copy) -> Relation | None:
        """What two models are to each other, by their files; None if one cannot be read."""
        self.compared += 1
        if self._compare is None:
            from wsrl.comparison.compare import compare  # it is large

            self._compare = compare
        try:
            return prove(first, second, self._compare)
        except CheckpointError as error:
            self.problems.append(error)
            return None


def _same_bytes(copies: Sequence[Copy]) -> list[list[Copy]]:
    """Models by their bytes; those that no digest is known of stand alone."""
    found: dict[object, list[Copy]] = defaultdict(list)
    for copy in copies:
        model = copy.model
        key = (model.content_digest, model.weights_digest) if model.content_digest else model.id
        found[key].append(copy)
    classes = []
    for own in found.values():
        if len(own) == 1:
            classes.append(own)
            continue
        split: dict[str, list[Copy]] = defaultdict(list)
        for copy in own:
            split[bytes_digest(copy.path, copy.model.content_digest)].append(copy)
        classes += split.values()
    return classes


def _folder(path: str | Path) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise InputError(path, "is no folder", "name a folder that is there")
    return folder


def _below(path: str, folders: Sequence[Path]) -> bool:
    """Whether a path lies in one of the folders, by its own name or where links lead."""
    places = {Path(path).absolute(), Path(path).resolve()}
    return any(place.is_relative_to(folder) for place in places for own in folders for folder in {own, own.resolve()})

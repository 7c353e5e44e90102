"""Models whose names, configurations, cards and labels disagree with their weights or with the models near them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.comparison.relation import Kind
from wsrl.errors import InputError
from wsrl.origins.adapter_base import adapter_kind
from wsrl.origins.proof import Compare
from wsrl.origins.relatives import Node, Relatives
from wsrl.origins.stated import Disagreement, disagreements
from wsrl.readers import open_checkpoint
from wsrl.readers.declared import declared_bases, names_model
from wsrl.search.facts import Facts
from wsrl.search.functional import Functional, functional_models
from wsrl.search.nearest import NearestNeighbors
from wsrl.search.store import Store

NEAREST = 5  # models by function that have to agree with each other, and be of another label
COSINE = 0.5  # of theirs, at least
PREDICTED = 0.9  # of the models have the label of the nearest one, if a label is to be doubted by neighbors
OF_ORIGIN = ("license", "licence", "base_model", "library_name", "pipeline_tag")  # equal for equal weights


@dataclass(frozen=True)
class Examined:
    """A model, by path or by id, and what is said of it that is not so."""

    model: str
    disagreements: tuple[Disagreement, ...]


def examine(path: str | Path) -> Examined:
    """Compares the name and configuration of a checkpoint with its tensors.

    Raises:
      CheckpointError: the file cannot be used.
    """
    return Examined(str(path), tuple(_own(open_checkpoint(path))))


def examine_index(
    directory: str | Path, compare: Compare | None = None, progress: bool = False
) -> tuple[list[Examined], list[InputError]]:
    """Examines all models of an index, and what its labels and declared bases say.

    A label that models share, such as `task`, is doubted where the `NEAREST` models by function, none of them farther
    than a cosine of `COSINE`, all have one other label, if neighbors tell such labels in this index. A base that a
    model declares is doubted where it is in the index and the comparison finds no relation. Models of the same weights
    should have the same license, base, library and task.

    Args:
      directory: of the index.
      compare: gives the relation of two checkpoints; by default `wsrl.comparison.compare.compare`.
      progress: show a progress line on stderr.

    Returns:
      Models with a disagreement, in the order of the index; and why others could not be read.

    Raises:
      InputError: there is no index, or it is damaged.
    """
    relatives, store = Relatives(Path(directory), compare=compare), Store(Path(directory))
    numbers = {node.id: number for number, node in enumerate(relatives.nodes)}
    found: dict[str, list[Disagreement]] = defaultdict(list)
    problems: list[InputError] = []
    for node in tqdm(relatives.nodes, desc="examining", unit="model", disable=None if progress else True):
        try:
            checkpoint = node.open()
        except CheckpointError as error:
            problems.append(error)
            continue
        for own in (*_own(checkpoint), *_of_declared(relatives, numbers, node, checkpoint)):
            found[node.id].append(own)
    for name, own in (*_of_neighbors(functional_models(store)), *_of_same_weights(store)):
        found[name].append(own)
    return [Examined(name, tuple(found[name])) for name in store.ids if name in found], problems + relatives.problems


def _own(checkpoint: Checkpoint) -> Iterator[Disagreement]:
    return disagreements(checkpoint, bool(adapter_kind(checkpoint.tensors)))


def _of_declared(
    relatives: Relatives, numbers: Mapping[str, int], node: Node, checkpoint: Checkpoint
) -> Iterator[Disagreement]:
    for declared in declared_bases(checkpoint.metadata, node.path):
        for other in relatives.nodes:
            if names_model(declared.name, other.path, node.path):
                relation = relatives.relation(numbers[node.id], numbers[other.id])
                if relation.kind == Kind.UNRELATED:
                    yield Disagreement(declared.where, f"made from {declared.name}", f"unrelated to {other.id}")


def _of_neighbors(models: Functional) -> Iterator[tuple[str, Disagreement]]:
    """Labels that all near models contradict."""
    if len(models.ids) <= NEAREST:
        return
    places, cosines = NearestNeighbors.build(models.vectors, models.ids).search(models.vectors, NEAREST + 1)
    near = [
        [int(place) for place in row[cosine >= COSINE] if place != own][:NEAREST]
        for own, (row, cosine) in enumerate(zip(places, cosines, strict=True))
    ]
    for key in sorted({key for about in models.metadata for key in about}):
        labels = [value if isinstance(value := about.get(key), str) else None for about in models.metadata]
        shared = {label for label, count in Counter(labels).items() if label is not None and count > NEAREST}
        told = [labels[own] == labels[others[0]] for own, others in enumerate(near) if others and labels[own]]
        if sum(told) < PREDICTED * max(len(told), 1):
            continue
        for own, others in enumerate(near):
            theirs = {labels[place] for place in others}
            if len(others) == NEAREST and len(theirs) == 1 and labels[own] in shared - theirs and theirs <= shared:
                found = f"the {NEAREST} nearest by function are {theirs.pop()}"
                yield models.ids[own], Disagreement(f"label {key}", str(labels[own]), found)


def _of_same_weights(store: Store) -> Iterator[tuple[str, Disagreement]]:
    metadata = dict(zip(store.ids, Facts(store).metadata, strict=True))
    groups: dict[str, list[str]] = defaultdict(list)
    for name, digest in zip(store.ids, store.catalog.column("weights_digest"), strict=True):
        groups[digest].append(name)
    for names in groups.values():
        for key in OF_ORIGIN:
            told = {name: _text(metadata[name][key]) for name in names if metadata[name].get(key)}
            first = next(iter(told), None)
            for name, value in told.items():
                if first is not None and value != told[first]:
                    found = f"{first} has the same weights, and says {told[first]}"
                    yield name, Disagreement(f"label {key}", value, found)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

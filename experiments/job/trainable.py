"""Models of a zoo that can be trained further: their architectures and variables besides their graphs."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Float32

from wsrl.annotations import Config
from wsrl.errors import InputError
from wsrl.graph.size import network_size
from wsrl.graph.tiles import TILE, TileGraph
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.load import load_networks
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import Classifier
from wsrl.zoo.stacked import Tree, initialize


@dataclass(frozen=True)
class Trainable:
    """Models of a zoo, by place.

    Attributes:
      records, architectures, variables, graphs: of equal length.
    """

    records: list[Record]
    architectures: list[Classifier]
    variables: list[Tree]
    graphs: list[TileGraph]

    @functools.cached_property
    def sizes(self) -> Float32[np.ndarray, "models 3"]:
        """See `network_size`."""
        return np.stack([network_size(graph) for graph in self.graphs])

    def by_architecture(self, places: Sequence[int]) -> dict[Classifier, list[int]]:
        """The places, grouped."""
        groups: dict[Classifier, list[int]] = {}
        for place in places:
            groups.setdefault(self.architectures[place], []).append(place)
        return groups


def final_checkpoints(records: Sequence[Record]) -> list[Record]:
    """The last checkpoint of every run; copies are left out."""
    final: dict[str, Record] = {}
    for record in records:
        latest = final.get(record.get("run"))
        if record.get("copy") is None and (latest is None or record.step > latest.step):
            final[record.get("run")] = record
    return list(final.values())


def tasks_of_lineages(records: Sequence[Record]) -> dict[str, set[str]]:
    """The tasks that any model of a lineage was trained on."""
    tasks_of: dict[str, set[str]] = {}
    for record in records:
        tasks_of.setdefault(record.get("lineage"), set()).add(record.task)
    return tasks_of


def load_trainable(zoo: Path, records: Sequence[Record], config: Config) -> Trainable:
    """Reads models of a zoo that the section `zoo` of a configuration made.

    Raises:
      InputError: none is usable, or their architectures are not those of the configuration.
    """
    networks = load_networks(zoo, records, TILE)
    if not networks.records:
        raise InputError(zoo, "no usable final checkpoint", "train the zoo again")
    trees = [flax.traverse_util.unflatten_dict(dict(c.tensors), sep="/") for c in networks.checkpoints]
    variables = [{"batch_stats": {}} | jax.tree.map(np.asarray, tree) for tree in trees]
    architectures = [
        find_architecture(record, own, config) for record, own in zip(networks.records, variables, strict=True)
    ]
    return Trainable(networks.records, architectures, variables, networks.graphs)


def find_architecture(record: Record, variables: Tree, zoo: Config) -> Classifier:
    """The variant of the record's family whose settings and shapes of parameters are those of a checkpoint.

    Raises:
      InputError: the catalogue has none.
    """
    family = CATALOGUES[zoo.catalogue].get(record.architecture)
    shapes = jax.tree.map(np.shape, variables["params"])
    for variant in family.variants if family else ():
        model = variant.clone(num_classes=zoo.num_classes)
        told = model.activation, list(model.conv_strides), model.heads, model.pooling, model.image_size
        size = record.get("input_shape")[0] if model.image_size else None
        strides, pooling = list(record.get("strides")), record.get("pooling") or "none"
        if told != (record.activation, strides, record.get("heads"), pooling, size):
            continue
        if _shapes(model, zoo.image_size) == shapes:  # pyright: ignore[reportArgumentType]
            return model
    reason = f"the catalogue {zoo.catalogue!r} has no architecture of these shapes"
    raise InputError(record.path, reason, "train the zoo again")


@functools.cache
def _shapes(model: Classifier, image_size: int) -> Tree:
    return jax.tree.map(np.shape, initialize(model, image_size, 0, 1.0)["params"])

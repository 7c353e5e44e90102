"""Many networks: read into graphs, sorted into buckets of like shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsrl.checkpoint import Checkpoint
from wsrl.graph.batching import Batch, make_batch
from wsrl.graph.plans import Plan, Profile, make_plan, merge, profile
from wsrl.graph.tiles import TileGraph, to_graph
from wsrl.program.network import canonical_network
from wsrl.program.program import Program
from wsrl.program.read import read_program


def checkpoint_graph(checkpoint: Checkpoint, tile: int, program: Program | None = None) -> TileGraph:
    """Checkpoint -> program -> canonical weights -> graph of tiles.

    Args:
      checkpoint: its values are read.
      tile: neurons a tile.
      program: of the checkpoint; the most usual one that it allows where none is given.

    Raises:
      CheckpointError: the checkpoint's tensors are not understood, or products of them are beyond float32.
    """
    return to_graph(canonical_network(checkpoint, program or read_program(checkpoint)), tile)


@dataclass(frozen=True)
class Bucket:
    """Networks that one compiled program serves.

    Attributes:
      members: places of the networks in the whole collection.
      graphs: of the members.
      plan: shapes of a batch; it holds `size` of the members, whichever they are.
      size: networks a batch.
    """

    members: np.ndarray
    graphs: tuple[TileGraph, ...]
    plan: Plan
    size: int

    @property
    def classes(self) -> int:
        """Output neurons that a batch has room for."""
        return self.plan.outputs * self.plan.tile

    def batch(self, places: Sequence[int]) -> Batch:
        """Batches at most `size` members by their places in the bucket."""
        return make_batch([self.graphs[i] for i in places], self.plan)


def sweep_cost(profile: Profile) -> int:
    """Tiles of weights times the positions that they are applied at: what a sweep costs, in its own unit."""
    return int((profile.edges * profile.positions).sum())


class Planner:
    """Sorts networks into buckets of like shapes, window after window, with few plans.

    Architectures join a plan, the costliest first, as long as padding to common shapes costs none of them more than
    `slack` times its own sweep. So there are few plans, each of which is a compiled program, and little padding. An
    architecture that was seen in an earlier window keeps its plan; new ones get plans of their own.

    Args:
      batch_cost: sweep cost of a batch, which bounds the memory of the states.
      slack: cost of a padded network over its own.
      max_size: networks a batch at most.
    """

    def __init__(self, batch_cost: int = 2048, slack: float = 1.6, max_size: int = 64):
        self.batch_cost = batch_cost
        self.slack = slack
        self.max_size = max_size
        self.plans: dict[tuple, tuple[Plan, int]] = {}  # of each architecture, with the networks a batch

    def buckets(self, graphs: Sequence[TileGraph]) -> list[Bucket]:
        """Buckets of the networks of a window, from `to_graph`; members are places in the window."""
        profiles = [profile(graph) for graph in graphs]
        architectures: dict[tuple, list[int]] = {}
        for i, p in enumerate(profiles):
            architectures.setdefault(p.key, []).append(i)
        tile = graphs[0].nodes.bias.shape[1] if graphs else 0
        self._plan({key: (profiles[own[0]], len(own)) for key, own in architectures.items()}, tile)
        members: dict[tuple[Plan, int], list[int]] = {}
        for key, own in architectures.items():
            members.setdefault(self.plans[key], []).extend(own)
        return [
            Bucket(np.array(sorted(own)), tuple(graphs[i] for i in sorted(own)), plan, size)
            for (plan, size), own in members.items()
        ]

    def _plan(self, architectures: dict[tuple, tuple[Profile, int]], tile: int) -> None:
        """Plans architectures, each with the number of its networks, that have no plan yet."""
        new = [(key, own, count) for key, (own, count) in architectures.items() if key not in self.plans]
        found: list[tuple[Profile, int, int, list[tuple]]] = []  # (merged profile, least own cost, networks, keys)
        for key, own, count in sorted(new, key=lambda item: -sweep_cost(item[1])):
            for n, (merged, least, others, keys) in enumerate(found):
                if merged.compatible(own):
                    joint = merge(merged, own)
                    cheapest = min(least, sweep_cost(own))
                    if sweep_cost(joint) <= self.slack * cheapest:
                        found[n] = (joint, cheapest, others + count, [*keys, key])
                        break
            else:
                found.append((own, sweep_cost(own), count, [key]))
        for joint, _, count, keys in found:
            size = int(np.clip(self.batch_cost // max(sweep_cost(joint), 1), 1, min(self.max_size, count)))
            self.plans |= dict.fromkeys(keys, (make_plan(joint, size, tile), size))


def make_buckets(
    graphs: Sequence[TileGraph], batch_cost: int = 2048, slack: float = 1.6, max_size: int = 64
) -> list[Bucket]:
    """Buckets of a collection that is held whole; see `Planner`."""
    return Planner(batch_cost, slack, max_size).buckets(graphs)

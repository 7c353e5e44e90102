"""Many networks: read into graphs, sorted into buckets of like shapes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsrl.annotations import Graph
from wsrl.canonical import canonicalize
from wsrl.checkpoint import Checkpoint
from wsrl.graph.batching import Batch, make_batch
from wsrl.graph.plans import Plan, Profile, make_plan, merge, profile
from wsrl.graph.tiles import to_graph
from wsrl.network import read_network
from wsrl.wiring.infer import infer_wiring


def checkpoint_graph(checkpoint: Checkpoint, tile: int) -> Graph:
    """Checkpoint -> wiring -> canonical weights -> graph of tiles.

    Raises:
      CheckpointError: the checkpoint's tensors are not understood.
    """
    return to_graph(canonicalize(read_network(checkpoint, infer_wiring(checkpoint))), tile)


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
    graphs: tuple[Graph, ...]
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


def make_buckets(
    graphs: Sequence[Graph], batch_cost: int = 2048, slack: float = 1.6, max_size: int = 64
) -> list[Bucket]:
    """Sorts networks into buckets of like shapes.

    Architectures join a bucket, the costliest first, as long as padding to common shapes costs none of them more than
    `slack` times its own sweep. So there are few buckets, and each is a compiled program, and little padding.

    Args:
      graphs: from `to_graph`.
      batch_cost: sweep cost of a batch, which bounds the memory of the states.
      slack: cost of a padded network over its own.
      max_size: networks a batch at most.
    """
    profiles = [profile(graph) for graph in graphs]
    architectures: dict[tuple, list[int]] = {}
    for i, p in enumerate(profiles):
        architectures.setdefault(p.key, []).append(i)
    found: list[tuple[Profile, int, list[int]]] = []  # (merged profile, least own cost, members)
    for members in sorted(architectures.values(), key=lambda members: -sweep_cost(profiles[members[0]])):
        own = profiles[members[0]]
        for n, (merged, least, others) in enumerate(found):
            if merged.compatible(own):
                joint = merge(merged, own)
                cheapest = min(least, sweep_cost(own))
                if sweep_cost(joint) <= slack * cheapest:
                    found[n] = (joint, cheapest, others + members)
                    break
        else:
            found.append((own, sweep_cost(own), members))
    tile = graphs[0].nodes["bias"].shape[1] if graphs else 0
    buckets = []
    for joint, _, members in found:
        size = int(np.clip(batch_cost // max(sweep_cost(joint), 1), 1, min(max_size, len(members))))
        plan = make_plan(joint, size, tile)
        buckets.append(Bucket(np.array(sorted(members)), tuple(graphs[i] for i in sorted(members)), plan, size))
    return buckets

"""Which architecture to train on a data set, from how the architectures of a zoo did on the tasks nearest to it."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

TEMPERATURE = 0.1  # of the weights of tasks, in units of similarity
PRIOR = 2.0  # models of no effect that each architecture is thought to have, at the weight of the nearest task
DESCRIBED = ("architecture", "width", "depth")  # keys of the metadata that tell an architecture


class Suited(NamedTuple):
    """An architecture.

    Attributes:
      architecture: family, or the class of the network where no metadata names one.
      width, depth: as the metadata has them; None if it does not.
      models: that were trained, the last checkpoint of each run.
      effect: by how much its models are more accurate than others on the same tasks, near tasks counted most.
      accuracy: expected on the data: that of models of the nearest tasks, plus the effect.
    """

    architecture: str
    width: int | None
    depth: int | None
    models: int
    effect: float
    accuracy: float


def rank_architectures(
    metadata: Sequence[Mapping[str, object]],
    kinds: list[str],
    accuracy: Float[np.ndarray, "n"],
    similarity: Float[np.ndarray, "n"],
    expected: float,
) -> list[Suited]:
    """Ranks the architectures of a zoo for a data set, the best first.

    The accuracy of a model is that of its task plus an effect of its architecture. The effect is the mean, over the
    models of an architecture, of what they are above the mean of all models of their task, each weighted by how near
    its task is to the data; it is shrunk to 0 by `PRIOR` models without an effect. So hard tasks do not count against
    the architectures that were tried on them.

    Args:
      metadata: of the models; `task`, and `run` and `step` where a run left several checkpoints.
      kinds: classes of their architectures.
      accuracy: of the models, measured or predicted, 0 to 1.
      similarity: of the models to the data, as they are ranked.
      expected: accuracy that is expected of a model of the zoo.
    """
    last = _last_of_runs(metadata)
    task = np.unique([str(metadata[i].get("task", "")) for i in last], return_inverse=True)[1]
    count = np.bincount(task)
    nearness = np.bincount(task, similarity[last]) / count
    weight = np.exp((nearness - nearness.max()) / TEMPERATURE)[task]
    above = accuracy[last] - (np.bincount(task, accuracy[last]) / count)[task]
    members: dict[tuple[str, int | None, int | None], list[int]] = defaultdict(list)
    for place, number in enumerate(last):
        members[_described(metadata[number], kinds[number])].append(place)
    found = []
    for (architecture, width, depth), own in members.items():
        effect = float((weight[own] * above[own]).sum() / (weight[own].sum() + PRIOR))
        found.append(Suited(architecture, width, depth, len(own), effect, float(np.clip(expected + effect, 0, 1))))
    return sorted(found, key=lambda one: -one.effect)


def _described(about: Mapping[str, object], kind: str) -> tuple[str, int | None, int | None]:
    family, width, depth = (about.get(key) for key in DESCRIBED)
    return (
        family if isinstance(family, str) else kind,
        width if isinstance(width, int) else None,
        depth if isinstance(depth, int) else None,
    )


def _last_of_runs(metadata: Sequence[Mapping[str, object]]) -> Int[np.ndarray, "m"]:
    """Places of the last checkpoint of each run, and of models that name none."""
    last: dict[Hashable, int] = {}
    most: dict[Hashable, int] = {}
    for place, about in enumerate(metadata):
        run, step = about.get("run"), about.get("step")
        key = run if isinstance(run, str) else place
        reached = step if isinstance(step, int) else 0
        if key not in last or reached > most[key]:
            last[key], most[key] = place, reached
    return np.array(sorted(last.values()), np.int64)

"""In which order a map was flattened: channels first or last, as far as names or the weights that read it tell.

PyTorch flattens channels first, but a network may turn its maps before, as those do that were trained in other
frameworks; names and shapes do not show it. In a list of modules nothing can be turned in between. Elsewhere trained
weights tell: what a unit reads at neighboring places of one channel is alike, as in the images that it was trained on,
and what it reads from neighboring channels is not, for channels have no order. Random weights tell nothing.
"""

import numpy as np
from jaxtyping import Float

from wsrl.checkpoint import CheckpointError, LazyTensor, Tensor
from wsrl.wiring.order import Words
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Entry, Env

MOST_READ = 2**18  # numbers of a matrix that are looked at
ALIKE = 0.05  # difference of the two correlations, and
SURE = 8  # in standard deviations of random weights, from which on they tell
KNOWN = Words(r"^features_extractor\.")  # stable-baselines3
PAIR = {"features", "classifier"}  # VGG and AlexNet of torchvision, and what is built like them


def flattened_in_list(env: Env, map_: Entry) -> bool:
    """Whether a map and the dense layer that reads it are members of one list, one after the other."""
    scope: Env | None = env
    while scope is not None and not scope.entries:
        scope = scope.parent
    return scope is not None and scope.only_last and scope.entries[-1] is map_


def flattened_by_name(root: Node, node: Node) -> bool:
    """Whether a dense layer belongs to networks that are known to flatten channels first."""
    above = root
    for name in node.path:
        if name == "classifier" and above.children.keys() >= PAIR:
            return True
        above = above.children.get(name, above)
    return bool(KNOWN.search(node.dotted))


def channels_first(weight: Tensor, channels: int) -> bool | None:
    """Tells from the weights of a dense layer in which order the map was flattened that it reads.

    Args:
      weight: [units, entries of the map].
      channels: of the map.

    Returns:
      Whether the channels vary slowest; None where the weights do not tell.
    """
    units, entries = weight.shape
    rows = min(units, max(1, MOST_READ // entries))
    try:
        values = weight.rows(0, rows) if isinstance(weight, LazyTensor) else np.asarray(weight[:rows])
    except CheckpointError:
        return None
    values = values.astype(np.float32, copy=False)
    first, last = values.reshape(rows, channels, -1), values.reshape(rows, -1, channels)
    difference = _correlation(first[..., :-1], first[..., 1:]) - _correlation(last[:, :-1], last[:, 1:])
    if not abs(difference) > max(ALIKE, SURE / np.sqrt(values.size)):
        return None
    return difference > 0


def _correlation(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt(np.square(a).mean() * np.square(b).mean()))
    return float((a * b).mean()) / spread if spread > 0 else 0.0

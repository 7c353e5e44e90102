"""Wirings that have been inferred are kept: networks of one architecture differ in nothing that inference looks at."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Wiring

MOST = 256  # kept at a time
READ = ("config", "graph", "keras_config", "activation")  # metadata that inference looks at

V = TypeVar("V")


class Memory(Generic[V]):
    """Results of a function by what they depend on; the one that was asked for longest ago goes first."""

    def __init__(self, most: int = MOST):
        self.most = most
        self._kept: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Returns what is kept for a key; makes it where nothing is."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


WIRINGS: Memory[Wiring] = Memory()


def remembered_wiring(checkpoint: Checkpoint) -> Wiring:
    """Returns what `infer_wiring` does, and raises the same."""
    return WIRINGS.get(wiring_key(checkpoint), lambda: infer_wiring(checkpoint))


def wiring_key(checkpoint: Checkpoint) -> Hashable:
    """Equal for checkpoints that have the same wiring."""
    told = repr([checkpoint.metadata.get(name) for name in READ])
    return tuple((name, tuple(tensor.shape)) for name, tensor in checkpoint.tensors.items()), told

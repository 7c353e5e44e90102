"""The one way from networks to what an encoder says of them: training, evaluation and the index all use it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from wsrl.encoder.dense_encoder import read_swept, sweep_networks
from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.swept import Encoding, Swept
from wsrl.graph.collection import Bucket


@runtime_checkable
class Batches(Protocol):
    """Networks that one compiled program serves; `wsrl.graph.collection.Bucket` is one.

    Attributes:
      members: places of the networks in the whole collection.
      size: networks a batch.
      classes: output neurons that a batch has room for.
    """

    @property
    def members(self) -> np.ndarray: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102

    def batch(self, places: Sequence[int]) -> Any:
        """Batches members by their places among them; arrays have `size` + 1 networks, the last is padding."""
        ...


class NetworkMap:
    """Applies a function of parameters and a batch to many networks, on all devices.

    Programs are compiled once for each shape of batch, several at a time.

    Args:
      function: (params, batch) -> tree of arrays, the leading axis of each is that of the batch's networks.
    """

    def __init__(self, function: Callable[[Any, Any], Any]):
        # where there are several processes, each has devices of its own
        self.run = jax.pmap(function, in_axes=(None, 0), devices=jax.local_devices())
        self.devices = jax.local_device_count()
        self.programs: dict[Any, Callable] = {}

    def __call__(self, params: Any, buckets: Sequence[Batches], progress: str | None = None) -> Any:
        """Returns a tree of NumPy arrays in the order of the collection.

        Args:
          params: of the function.
          buckets: whose members are, together, 0 to n - 1.
          progress: label of a progress line, or None for no line.
        """
        count = sum(len(bucket.members) for bucket in buckets)
        params = jax.device_get(params)  # programs are compiled for parameters that lie on no device
        self._compile(params, buckets)
        parts: list[tuple[np.ndarray, Any]] = []
        with tqdm(total=count, desc=progress, unit="model", disable=progress is None, mininterval=1.0) as line:
            for bucket in buckets:
                program = self.programs[_shapes(bucket.batch([0]))]
                for group in self._groups(bucket):
                    result = jax.tree.map(np.asarray, program(params, self._stack(bucket, group)))
                    for device, places in enumerate(group):
                        own = jax.tree.map(lambda leaf, at=(device, slice(len(places))): leaf[at], result)  # noqa: B008
                        parts.append((bucket.members[places], own))
                        line.update(len(places))
        return jax.tree.map(lambda *leaves: _gather([m for m, _ in parts], leaves, count), *[p for _, p in parts])

    def _groups(self, bucket: Batches) -> Iterator[list[list[int]]]:
        """Places of the members of one batch a device."""
        places = range(len(bucket.members))
        packs = [list(places[i : i + bucket.size]) for i in range(0, len(places), bucket.size)]
        for i in range(0, len(packs), self.devices):
            yield packs[i : i + self.devices]

    def _stack(self, bucket: Batches, group: list[list[int]]) -> Any:
        batches = [bucket.batch(places) for places in group]
        batches += batches[-1:] * (self.devices - len(batches))  # every device gets a batch
        return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def _compile(self, params: Any, buckets: Sequence[Batches]) -> None:
        missing = {}
        for bucket in buckets:
            key = _shapes(bucket.batch([0]))
            if key not in self.programs:
                missing[key] = self._stack(bucket, [[0]])
        with ThreadPoolExecutor(2) as pool:  # compilation is serial in itself and does not hold the interpreter
            compiled = pool.map(lambda batch: self.run.lower(params, batch).compile(), missing.values())
            self.programs |= zip(missing, compiled, strict=True)


def _shapes(batch: Any) -> Any:
    """Equal for batches that one program serves."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def _gather(members: Sequence[np.ndarray], leaves: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Puts the parts of an array into the order of the collection; shorter trailing axes are padded with zeros."""
    shape = np.max([leaf.shape[1:] for leaf in leaves], axis=0).astype(int) if leaves[0].ndim > 1 else ()
    gathered = np.zeros((count, *shape), leaves[0].dtype)
    for places, leaf in zip(members, leaves, strict=True):
        gathered[(places, *(slice(n) for n in leaf.shape[1:]))] = leaf
    return gathered


class SweptNetworks:
    """Networks after the sweeps, in batches for the read-out; a drop-in for their graphs where inputs are fixed.

    Args:
      swept: arrays of the whole collection.
      members: places of the networks that are served.
      size: networks a batch.
    """

    def __init__(self, swept: Swept, members: np.ndarray, size: int):
        self.swept = swept
        self.members = members
        self.size = size
        self.classes = swept.mask.shape[1]

    def batch(self, places: Sequence[int]) -> Swept:
        """Swept arrays of [size + 1] networks."""
        rows = self.members[list(places)]
        padding = self.size + 1 - len(rows)
        return Swept(*(np.pad(leaf[rows], [(0, padding)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in self.swept))


class Embedder:
    """Embeds networks: sweep, then read out.

    Args:
      encoder: its parameters are given at each call.
      read_size: networks a batch of the read-out.
      dense: compute in NumPy, one network after the other, where nothing has to be compiled; else in programs of JAX.
        None leaves it to the machine: NumPy where JAX has nothing but CPUs, for encoders in float32.
    """

    def __init__(self, encoder: ResponseEncoder, read_size: int = 128, dense: bool | None = None):
        self.encoder = encoder
        self.read_size = read_size
        self.dense = jax.default_backend() == "cpu" and encoder.dtype == "float32" if dense is None else dense
        self.sweeps = NetworkMap(lambda params, batch: encoder.apply({"params": params}, batch, method="sweep"))
        self.readouts = NetworkMap(lambda params, swept: encoder.apply({"params": params}, swept, method="read"))

    def sweep(self, params: Any, buckets: Sequence[Bucket], progress: str | None = None) -> Swept:
        """Sweeps the learned inputs through networks; classes are as many as the largest output layer has."""
        if self.dense:
            graphs = {int(place): g for b in buckets for place, g in zip(b.members, b.graphs, strict=True)}
            inputs = np.asarray(params["inputs"], np.float32)
            return sweep_networks(self.encoder, inputs, len(graphs), lambda i: dense_network(graphs[i]), progress)
        swept = self.sweeps(params, buckets, progress)
        classes = int(np.flatnonzero(swept.mask.any(0)).max()) + 1
        cut = {name: getattr(swept, name)[:, :classes] for name in ("logits", "templates", "mask")}
        return swept._replace(**cut)

    def read(self, params: Any, swept: Swept) -> Encoding:
        """Reads out embeddings [n, dim] and predicted accuracies [n] of swept networks."""
        if not self.dense:
            return self.readouts(params, [SweptNetworks(swept, np.arange(len(swept.mask)), self.read_size)])
        return read_swept(self.encoder, jax.tree.map(np.asarray, params), swept)

    def __call__(self, params: Any, buckets: Sequence[Bucket], progress: str | None = None) -> Encoding:
        """Embeds networks from their graphs."""
        return self.read(params, self.sweep(params, buckets, progress))

    @property
    def compilations(self) -> int:
        """Programs compiled so far."""
        return len(self.sweeps.programs) + len(self.readouts.programs)

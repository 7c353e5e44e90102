"""Processes that train one encoder together, as on slices of several TPU hosts; see `jax.distributed`.

All processes run the same program and see the same folders. What is written is written by the first one, the leader,
but for checkpoints, of which Orbax writes from every process what it holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from wsrl.errors import InputError

AXIS = "devices"
AUTO = "auto"
LONGEST = 7 * 86_400  # seconds that a process waits for the leader to train a zoo, say

T = TypeVar("T")


def join(coordinator: str, processes: int | None = None, process_id: int | None = None) -> None:
    """Makes this process one of several; call it before anything is computed.

    Args:
      coordinator: `host:port` of the first process; or "auto" where the cluster tells all, as Cloud TPU does. Empty
        for a process by itself.
      processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      InputError: they do not fit together, or the coordinator is not reached.
    """
    if not coordinator:
        if processes is not None or process_id is not None:
            raise InputError("--coordinator", "is missing", "name the first process's HOST:PORT, or auto")
        return
    address = None if coordinator == AUTO else coordinator
    if address and (processes is None or process_id is None):
        raise InputError("--processes", "is missing, or --process_id is", "give both to every process")
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise InputError("--process_id", f"{process_id} is none of {processes} processes", "count from 0")
    try:
        jax.distributed.initialize(address, processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = f"cannot be joined ({str(error).splitlines()[0]})"
        raise InputError(coordinator, reason, "check the address, and that all processes were started") from error


@dataclass(frozen=True)
class Hosts:
    """The devices that a training runs on.

    Attributes:
      together: those of all processes, which then all have to take part; else those of this one.
    """

    together: bool

    @property
    def devices(self) -> list[Any]:
        """In the order of the leading axis of a step's arrays."""
        return jax.devices() if self.together else jax.local_devices()

    @property
    def writes(self) -> bool:
        """Whether this process writes what is not a checkpoint."""
        return leads() or not self.together

    def own(self, tree: T) -> T:
        """Returns this process's part of arrays whose leading axis is that of the devices."""
        places = [place for place, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        return jax.tree.map(lambda leaf: leaf[np.array(places)], tree) if len(places) < len(self.devices) else tree

    def replicate(self, tree: T) -> T:
        """Puts a tree on all devices, as a step leaves it, so that the next step does not compile again."""
        return jax.device_put(tree, NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec()))

    def meet(self) -> None:
        """Waits until all that train together have come here, as collectives of devices would not wait long."""
        if self.together:
            wait_for_all("training")

    def savable(self, tree: T) -> T:
        """Returns a tree as Orbax takes it: where processes train together, arrays of all of them."""
        return self.replicate(jax.device_get(tree)) if self.together and jax.process_count() > 1 else tree


ALONE, TOGETHER = Hosts(False), Hosts(True)


def leads() -> bool:
    """Whether this is the first process, or the only one."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have called it; by the coordinator, since collectives of devices do not wait long."""
    if jax.process_count() > 1:
        multihost.get_barrier_sync_fn()(key=name, timeout_ms=LONGEST * 1000)


@contextmanager
def leader_first(name: str) -> Iterator[None]:
    """Lets the leader do something, then the others, which find in the folders what it has done."""
    if not leads():
        wait_for_all(name)
    yield
    if leads():
        wait_for_all(name)

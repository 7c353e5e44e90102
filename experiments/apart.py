"""What is measured in a process of its own, whose memory and caches nothing else has touched."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


class DiedError(Exception):
    """The process ended without an answer; `status` is its exit status."""

    def __init__(self, status: int | None):
        super().__init__(f"the process that measures ended with exit status {status}")


def measured_apart(job: Callable[..., T], *args: object) -> T:
    """Calls a function of a module in a process of its own and returns what it returns.

    Raises:
      DiedError: the process did not live to answer, as where the memory is too small.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_send, args=(sender, job, *args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise DiedError(process.exitcode) from error
    finally:
        process.join()


def _send(sender: Connection, job: Callable[..., T], *args: object) -> None:
    sender.send(job(*args))

"""Errors, latency and growth of `wsrl serve` under mixed load on loopback, while another process writes its index.

python -m experiments.benchmarks.serving [--minutes 60] [--rate 5] [--models 500] [--every 10]

Small networks of random weights are written to a temporary folder and indexed, and `wsrl serve` is started as a process
of its own. Clients send requests at a bounded rate, mixed at random: searches by id, by both vectors, with conditions
and by files that are sent (random weights, new ones each time), models, the page, and wrong requests of each kind that
is refused. Meanwhile a further process adds models to the index and removes them again, every so many seconds.

The first table has a line for each kind of request: how many, the errors (any status but the one that is due, an answer
that is not whole, a connection that breaks), and median, 99th percentile and maximum of the milliseconds to the end of
the answer. The second shows the server at the start, at each tenth of the time and at the end: memory, of it what is
not mapped from files, open file descriptors, threads, and the models of the index. The exit status is 1 after an error.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np
from tqdm import tqdm

from experiments.benchmarks.streaming import classifier, write_random
from experiments.scale.measures import resident
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.search.index import Index

CLIENTS = 2
KINDS = 24  # of networks that are made
ADDED = 5  # models at once
KEPT = 2  # rounds of additions until they are removed
LIMIT = 2  # MB that may be sent
STARTING = 120  # seconds that the server may take
TENTHS = 10
SHOWN = 10  # errors that are printed
BINARY = {"Content-Type": "application/octet-stream"}


class Request(NamedTuple):
    """What is asked, and the status that is due."""

    path: str
    query: dict[str, object]
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    status: int = 200


@dataclass
class Answers:
    """Seconds of the answers by kind of request, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[str, int] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)


class Load:
    """Draws requests.

    Args:
      ids: of models that stay in the index.
      folder: for files that are sent.
      seed: of the draws.
    """

    def __init__(self, ids: Sequence[str], folder: Path, seed: int):
        self._ids, self._rng = ids, np.random.default_rng(seed)
        self._file = folder / f"sent-{seed}.safetensors"
        self._shares: dict[str, tuple[float, Callable[[], Request]]] = {
            "search": (0.30, lambda: Request("/api/search", {"id": self._id()})),
            "search by weights": (0.15, lambda: Request("/api/search", {"id": self._id(), "k": 11, "by": "weights"})),
            "search with conditions": (0.15, self._conditions),
            "search by a file": (0.12, self._sent),
            "model": (0.10, lambda: Request("/api/model", {"id": self._id()})),
            "ids of all models": (0.03, lambda: Request("/api/models", {})),
            "info": (0.03, lambda: Request("/api/info", {})),
            "page": (0.02, lambda: Request("/", {})),
            "refused": (0.10, self._refused),
        }

    def draw(self) -> tuple[str, Request]:
        """Returns a request and its kind."""
        kinds = list(self._shares)
        kind = kinds[self._rng.choice(len(kinds), p=[share for share, _ in self._shares.values()])]
        return kind, self._shares[kind][1]()

    def _id(self) -> str:
        return self._ids[int(self._rng.integers(len(self._ids)))]

    def _conditions(self) -> Request:
        least = int(self._rng.integers(1000, 20_000))
        return Request("/api/search", {"id": self._id(), "where": [f"parameters>{least}", "size<1GB"]})

    def _sent(self) -> Request:
        write_random(self._file, classifier(int(self._rng.integers(KINDS))), np.float32, int(self._rng.integers(2**31)))
        return Request("/api/search", {"name": "sent.safetensors"}, self._file.read_bytes(), BINARY)

    def _refused(self) -> Request:
        wrong = (
            Request("/api/search", {"id": "no such model"}, status=400),
            Request("/api/search", {"id": str(self._file.absolute())}, status=400),
            Request("/api/search", {"id": self._id(), "where": "color=red"}, status=400),
            Request("/api/search", {"id": self._id(), "k": 0}, status=422),
            Request("/api/search", {"name": "a.pt"}, b"no model", BINARY, 400),
            Request("/api/search", {"name": "a.pt"}, b"x", {"Content-Type": "text/plain"}, 415),
            Request("/api/search", {"name": "a.pt"}, bytes(LIMIT * 10**6 + 1), BINARY, 413),
            Request("/api/models", {}, headers={"Host": "models.example"}, status=400),
            Request("/nowhere", {}, status=404),
        )
        return wrong[int(self._rng.integers(len(wrong)))]


def ask(port: int, load: Load, rate: float, answers: Answers, stop: threading.Event) -> None:
    """Sends requests at a rate until it is told to stop."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        due = max(due + 1 / rate, time.monotonic() - 1)  # what could not be sent in time is not made up for
        kind, request = load.draw()
        start = time.perf_counter()
        try:
            method = "GET" if request.body is None else "POST"
            path = f"{request.path}?{urlencode(request.query, doseq=True)}"
            connection.request(method, path, request.body, dict(request.headers))
            answer = connection.getresponse()
            problem = _problem(request, answer.status, answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = repr(error)
            connection.close()
        answers.seconds[kind].append(time.perf_counter() - start)
        if problem:
            answers.errors[kind] += 1
            answers.messages.append(f"{kind}: {problem}")
    connection.close()


def _problem(request: Request, status: int, content: bytes) -> str:
    """What is wrong with an answer; nothing if all is well."""
    if status != request.status:
        return f"status {status} in place of {request.status}: {content[:200]!r}"
    if request.path == "/":
        return "" if content.rstrip().endswith(b"</html>") else "half a page"
    if status == 200:
        body, searched = json.loads(content), request.path == "/api/search" and "where" not in request.query
        return "no hits" if searched and not body["hits"] else ""
    return "" if b"Traceback" not in content else f"{content[:200]!r}"


def write_index(index: Path, folder: Path, every: float, stop: Event) -> None:
    """Adds models to an index and removes them again, until it is told to stop."""
    encoder, rng = load_encoder(), np.random.default_rng(0)
    folder.mkdir()
    opened, rounds = Index.open(index, encoder), []
    stay = set(opened.ids)
    while not stop.wait(every):
        for number in range(ADDED):
            path = folder / f"{len(rounds):05d}-{number}.safetensors"
            write_random(path, classifier(int(rng.integers(KINDS))), np.float32, int(rng.integers(2**31)))
        opened.add(encoder, [str(folder)])
        rounds.append([name for name in opened.ids if name not in stay])
        stay.update(rounds[-1])
        if len(rounds) > KEPT:
            opened.remove(rounds[-1 - KEPT])
            for path in folder.glob(f"{len(rounds) - 1 - KEPT:05d}-*"):
                path.unlink()


@contextmanager
def serving(index: Path, log: Path) -> Iterator[tuple[int, int]]:
    """Runs `wsrl serve`; its process and its port.

    Raises:
      RuntimeError: it does not start, or has ended by itself.
    """
    words = [sys.executable, "-m", "wsrl", "serve", "--index", str(index), "--port", "0", "--limit", str(LIMIT)]
    with open(log, "wb") as errors:
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout
        found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
        if found is None or not _answers(int(found[1])):
            raise RuntimeError(f"the server does not start: {log.read_text()}")
        yield server.pid, int(found[1])
        if server.poll() is not None:
            raise RuntimeError(f"the server has ended with status {server.returncode}: {log.read_text()[-2000:]}")
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    begin = time.monotonic()
    while time.monotonic() < begin + STARTING:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTING)
        try:
            connection.request("GET", "/api/info")
            return connection.getresponse().status == 200
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    return False


def state(begin: float, process: int, index: Path) -> list[str]:
    """A line of the second table."""
    status = Path(f"/proc/{process}/status").read_text()
    threads = re.search(r"Threads:\s*(\d+)", status)
    memory = [f"{resident(process, part) / 1e6:.0f}" for part in ("VmRSS", "RssAnon")]
    descriptors = len(os.listdir(f"/proc/{process}/fd"))
    models = json.loads((index / "manifest.json").read_bytes())["models"]
    minutes = (time.monotonic() - begin) / 60
    return [f"{minutes:.1f}", *memory, str(descriptors), threads[1] if threads else "", str(models)]


def by_kind(answers: Answers) -> list[list[str]]:
    """The first table."""
    rows = [["", "requests", "errors", "median ms", "p99 ms", "max ms"]]
    kinds = {**answers.seconds, "all": [own for seconds in answers.seconds.values() for own in seconds]}
    for kind, seconds in kinds.items():
        errors = sum(answers.errors.values()) if kind == "all" else answers.errors[kind]
        milliseconds = 1e3 * np.quantile(seconds, [0.5, 0.99, 1.0])
        rows.append([kind, str(len(seconds)), str(errors), *(f"{value:.1f}" for value in milliseconds)])
    return rows


def run(minutes: float, rate: float, models: int, every: float, work: Path) -> int:
    """Puts the server under load, prints both tables and returns the exit status."""
    zoo, index, log = work / "models", work / "zoo.index", work / "log"
    zoo.mkdir()
    for number in range(models):
        write_random(zoo / f"{number:05d}.safetensors", classifier(number % KINDS), np.float32, number)
    ids = Index.build(load_encoder(), str(zoo), index, progress=True).ids
    answers, stop = Answers(), threading.Event()
    context = multiprocessing.get_context("spawn")
    stop_writing = context.Event()
    writer = context.Process(target=write_index, args=(index, work / "more", every, stop_writing))
    with serving(index, log) as (process, port):
        loads = [Load(ids, work, seed) for seed in range(CLIENTS)]
        clients = [threading.Thread(target=ask, args=(port, load, rate / CLIENTS, answers, stop)) for load in loads]
        begin = time.monotonic()
        states = [state(begin, process, index)]
        try:
            for one in (*clients, writer):
                one.start()
            for tenth in tqdm(range(1, TENTHS + 1), desc="load", unit="tenth", disable=None):
                time.sleep(max(0.0, begin + tenth * minutes * 60 / TENTHS - time.monotonic()))
                states.append(state(begin, process, index))
        finally:
            stop.set()
            stop_writing.set()
            for one in (*clients, writer):
                one.join()
    print_rows(by_kind(answers), 24)
    print_rows([["minutes", "memory MB", "unmapped MB", "descriptors", "threads", "models"], *states], 14)
    logged = log.read_text()
    for message in (*answers.messages[:SHOWN], *logged.splitlines()[-SHOWN:]):
        print(message)
    if writer.exitcode:
        print(f"the process that writes the index has ended with status {writer.exitcode}")
    return 1 if answers.messages or logged or writer.exitcode else 0


def print_rows(rows: Sequence[Sequence[str]], first: int) -> None:
    """Prints a table, whose first column has a width of its own."""
    for name, *cells in rows:
        print(f"{name:<{first}}" + "".join(f"{cell:>13}" for cell in cells), flush=True)
    print()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", metavar="N", type=float, default=60, help="of load (default 60)")
    parser.add_argument("--rate", metavar="N", type=float, default=5, help="requests a second (default 5)")
    parser.add_argument("--models", metavar="N", type=int, default=500, help="of the index (default 500)")
    parser.add_argument("--every", metavar="N", type=float, default=10, help="seconds between additions (default 10)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="wsrl-serving-") as folder:
        return run(args.minutes, args.rate, args.models, args.every, Path(folder))


if __name__ == "__main__":
    sys.exit(main())

"""Searches by HTTP of an index that is added to meanwhile: errors, latencies, memory of the server."""

import http.client
import json
import multiprocessing
import shutil
import socket
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from experiments.scale.datasets import FAMILIES, Dataset, dataset, open_dataset
from experiments.scale.made_up import embedded, made_up
from experiments.scale.measures import resident
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.report.tables import print_table, write_table
from wsrl.search.catalog import Change
from wsrl.search.commit import commit, writing
from wsrl.search.derive import commit_derived
from wsrl.search.fixed_point import single
from wsrl.search.store import Store
from wsrl.serve.app import make_app
from wsrl.serve.models import ServedIndex

CLIENTS = 2
EVERY = 5.0  # seconds between additions
ADDED = 100  # models at once
PARTS = 50_000  # models that are committed at once when the index is made
ENCODER = "0" * 64
HOST = "127.0.0.1"
SPAWN = multiprocessing.get_context("spawn")  # a process that shares nothing with this one
START = 600  # seconds that the server may take to answer first
NOTE = (
    "{clients} clients ask `wsrl serve` by HTTP on loopback for the ten nearest of a random model, one request after "
    "another, while another process adds {added} models every {every:g} seconds; the server goes over to each new "
    "state. Memory is that of the server, with mapped vectors and without, after the first minute and at the end."
)


class Answers(NamedTuple):
    """Seconds of each answer, and what went wrong."""

    seconds: list[float]
    errors: list[str]


def soak(workdir: Path, index: Path | None, models: int, minutes: float) -> None:
    """Searches an index of families and adds to it, and writes the table `soak`.

    Args:
      workdir: keeps data and results.
      index: that the families are made of.
      models: of the index at first.
      minutes: that it takes.

    Raises:
      InputError: the index cannot be used, or the server does not start.
    """
    if index is None:
        raise InputError("--families", "is not given", "name an index that vectors are made of")
    require("uvicorn", "serve")
    data = dataset(workdir / "data", FAMILIES, models, index)
    folder = workdir / "soak.index"
    shutil.rmtree(folder, ignore_errors=True)
    store = None
    for start in tqdm(range(0, models, PARTS), desc="index", unit="commit", disable=None):
        store = _add(folder, store, single(data.vectors[start : start + PARTS]), start)
    assert store
    commit_derived(folder, store)
    port = _free_port()
    server = SPAWN.Process(target=_serve, args=(folder, port), daemon=True)
    server.start()
    try:
        _wait(port, server)
        row = _run(data, folder, port, server.pid or 0, minutes)
    finally:
        server.terminate()
        server.join()
    note = NOTE.format(clients=CLIENTS, added=ADDED, every=EVERY)
    write_table(workdir, "soak", "Searches while models are added", note, [row], None)
    print_table([row])


def _run(data: Dataset, folder: Path, port: int, process: int, minutes: float) -> dict[str, float | int | None]:
    answers, stop = Answers([], []), threading.Event()
    models = len(data.vectors)
    clients = [threading.Thread(target=_ask, args=(port, models, seed, answers, stop)) for seed in range(CLIENTS)]
    stop_writing, (ours, theirs) = SPAWN.Event(), SPAWN.Pipe(duplex=False)
    writer = SPAWN.Process(target=_write, args=(data.folder, folder, EVERY, stop_writing, theirs), daemon=True)
    begin, first = time.monotonic(), None
    try:
        for one in (*clients, writer):
            one.start()
        with tqdm(total=round(minutes * 60), desc="soak", unit="s", disable=None) as line:
            while (passed := time.monotonic() - begin) < minutes * 60:
                line.update(int(passed) - line.n)
                first = memory(process) if first is None and passed > 60 else first
                time.sleep(0.1)
    finally:
        stop.set()
        stop_writing.set()
        for client in clients:
            client.join()
    adding: list[float] = ours.recv()
    writer.join()
    milliseconds = 1e3 * np.array(answers.seconds)
    median, slow = np.quantile(milliseconds, [0.5, 0.99])
    last = memory(process)
    return {
        "models": models,
        "minutes": minutes,
        "searches": len(milliseconds),
        "errors": len(answers.errors),
        "median ms": median,
        "p99 ms": slow,
        "p99, times median": slow / median,
        "models added": ADDED * len(adding),
        f"seconds to add {ADDED}": float(np.median(adding)),
        **{f"{name}, first": value for name, value in (first or last).items()},
        **{f"{name}, last": value for name, value in last.items()},
    }


def memory(process: int) -> dict[str, float]:
    """Memory of a process, mapped files included, and without them."""
    return {"memory MB": resident(process) / 1e6, "unmapped MB": resident(process, "RssAnon") / 1e6}


def _write(data: Path, folder: Path, every: float, stop: Event, seconds: Connection) -> None:
    """Adds models until it is told to stop, and tells how long each addition took."""
    vectors, rng, adding = open_dataset(data).vectors, np.random.default_rng(0), []
    while not adding or not stop.wait(max(0.0, every - adding[-1])):
        start = time.perf_counter()
        near = single(vectors[rng.integers(len(vectors), size=ADDED)])
        own = near + 0.01 * rng.standard_normal(near.shape, np.float32)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        _add(folder, Store(folder), own, len(vectors) + ADDED * len(adding))
        adding.append(time.perf_counter() - start)
    seconds.send(adding)


def _add(folder: Path, store: Store | None, vectors: Float32[np.ndarray, "n dim"], first: int) -> Store:
    models = [made_up(number) for number in range(first, first + len(vectors))]
    rows = [(model, embedded(model, vector)) for model, vector in zip(models, vectors, strict=True)]
    with writing(folder):
        return commit(folder, store, ENCODER, rows, Change())


def _serve(folder: Path, port: int) -> None:
    uvicorn = require("uvicorn", "serve")
    uvicorn.run(make_app(ServedIndex(folder, None, "weights"), 1), host=HOST, port=port, log_level="error")


def _ask(port: int, models: int, seed: int, answers: Answers, stop: threading.Event) -> None:
    rng = np.random.default_rng(seed)
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    while not stop.is_set():
        asked = urlencode({"id": f"models/{rng.integers(models):08d}.safetensors", "k": 10, "by": "weights"})
        start = time.perf_counter()
        try:
            connection.request("GET", f"/api/search?{asked}")
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status != 200 or len(content["hits"]) != 10:
                answers.errors.append(str(content))
        except (OSError, ValueError, http.client.HTTPException) as error:
            answers.errors.append(str(error))
            connection.close()
        answers.seconds.append(time.perf_counter() - start)
    connection.close()


def _wait(port: int, server: BaseProcess) -> None:
    begin = time.monotonic()
    while time.monotonic() < begin + START and server.is_alive():
        try:
            with socket.create_connection((HOST, port), timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise InputError("wsrl serve", "does not start", "look at the error above")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]

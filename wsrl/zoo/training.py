"""Building a zoo: chunks of runs trained together, their checkpoints and the manifest.

A chunk's models are stacked along an axis that is sharded over the devices. A build that was interrupted
goes on after the last chunk that reached the manifest.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int32
from tqdm import tqdm

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.zoo.bank import ImageBank, ZooImages, draw_batches, load_zoo_images, run_arrays
from wsrl.zoo.copies import copy_chunks, draw_copies, make_copies
from wsrl.zoo.manifest import MANIFEST, Record, append_records, read_manifest
from wsrl.zoo.models import Classifier
from wsrl.zoo.predictions import predict
from wsrl.zoo.recipes import Config, Run, draw_runs
from wsrl.zoo.stacked import Tree, initialize, train_models
from wsrl.zoo.storage import STORAGES, checkpoint_bytes, read_variables, write_checkpoints
from wsrl.zoo.tasks import Task

Batches = tuple[Int32[np.ndarray, "steps batch"], Int32[np.ndarray, "steps batch"]]  # rows of the bank, output units

STATE = "zoo.json"  # the configuration of a zoo and its diverged runs
RUN_KEYS = (
    *("lineage", "seen", "optimizer", "learning_rate", "weight_decay", "init_scale", "dropout"),
    *("data_fraction", "label_noise", "class_order"),
)  # fields of a run that its records repeat


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Runs of one architecture that are trained together, padded to `size` models."""

    runs: tuple[Run, ...]
    size: int

    @property
    def model(self) -> Classifier:
        """The architecture."""
        return self.runs[0].model


def make_chunks(runs: Sequence[Run], chunk_size: int) -> list[Chunk]:
    """Group runs by architecture and length into chunks of one size for each architecture: roots, children, distilled
    runs.
    """
    groups: dict[tuple[int, str, int, int], list[Run]] = {}
    for run in runs:
        stage = 2 if run.teacher else 1 if run.parent else 0
        groups.setdefault((stage, run.family, run.variant, run.stretch), []).append(run)
    chunks = []
    for (_, family, variant, _), group in sorted(groups.items(), key=lambda item: item[0]):
        number = len(groups.get((0, family, variant, 1), group))
        size = -(-number // -(-number // chunk_size))
        chunks += [Chunk(tuple(group[i : i + size]), size) for i in range(0, len(group), size)]
    return chunks


def train_chunk(
    chunk: Chunk,
    directory: Path,
    config: Config,
    bank: ImageBank,
    device_bank: jax.Array,
    final: Mapping[str, Record] = MappingProxyType({}),
) -> Iterator[tuple[int, Tree, Float[np.ndarray, " models"]]]:
    """Train the runs of a chunk together; yields (step, variables, accuracies) at each checkpoint.

    Runs that are stretched are trained for several times the steps by the same program, segment after segment.

    Children (all runs of a chunk or none) start from their parent's last checkpoint and are trained for one
    checkpoint's worth of steps. `final` has the last record of each run in `directory` that is a parent or a teacher.
    Variables are NumPy arrays with models as their first axis.
    """
    segment = config.steps // config.checkpoints
    stretch = chunk.runs[0].stretch if chunk.runs[0].parent is None else 1
    segments = stretch * (config.checkpoints if chunk.runs[0].parent is None else 1)
    mesh = device_bank.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
    sharding = NamedSharding(mesh, PartitionSpec("models"))

    def stack(trees: list[Tree]) -> Tree:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    size = -(-chunk.size // mesh.size) * mesh.size
    padding = [0] * (size - len(chunk.runs))
    padded = [*chunk.runs, *[chunk.runs[i] for i in padding]]
    drawn = [draw_batches(run, bank, segments * segment, config.batch_size) for run in chunk.runs]
    drawn = _taught(chunk.runs, drawn, directory, final, device_bank)
    runs = stack([run_arrays(run, bank, segments * segment) for run in padded])
    batches = stack([*drawn, *[drawn[i] for i in padding]])
    variables = stack([_initial_variables(run, directory, config, final) for run in padded])
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    state = {"variables": variables, "first": zeros, "second": zeros, "step": np.zeros(size, np.int32)}
    state, runs = jax.device_put((state, runs), sharding)
    for number in range(1, segments + 1):
        steps = slice((number - 1) * segment, number * segment)
        part = jax.device_put(jax.tree.map(lambda x, steps=steps: x[:, steps], batches), sharding)
        state, accuracy = train_models(chunk.model, state, part, runs, device_bank)
        if number % stretch == 0:
            yield number * segment, jax.device_get(state["variables"]), np.asarray(accuracy)


def _initial_variables(run: Run, directory: Path, config: Config, final: Mapping[str, Record]) -> Tree:
    if run.parent is None:
        return initialize(run.model, config.image_size, run.seed, run.init_scale)
    return read_variables(directory, final[run.parent])


def _taught(
    runs: Sequence[Run],
    batches: list[Batches],
    directory: Path,
    final: Mapping[str, Record],
    device_bank: jax.Array,
) -> list[Batches]:
    """The batches, with a teacher's predictions for labels where a run has one.

    Labels rather than probabilities, as of a teacher that can only be asked (Tramer et al., "Stealing Machine Learning
    Models via Prediction APIs", 2016).
    """
    places = [i for i, run in enumerate(runs) if run.teacher]
    teachers = [run.teacher for run in runs if run.teacher]
    variables = [read_variables(directory, final[teacher.id]) for teacher in teachers]
    rows = [batches[i][0].ravel() for i in places]
    batches = list(batches)
    predicted = predict([teacher.model for teacher in teachers], variables, rows, device_bank)
    for i, units in zip(places, predicted, strict=True):
        batches[i] = batches[i][0], units.reshape(batches[i][0].shape)
    return batches


def _record(
    run: Run, task: Task, variables: Tree, step: int, accuracy: float, config: Config, final: Mapping[str, Record]
) -> Record:
    model = run.model
    return Record(
        id=f"{run.id}/{step}",
        path=f"checkpoints/{run.id}/{step}.safetensors",
        task=task.id,
        dataset=task.dataset,
        architecture=run.family,
        activation=model.activation,
        seed=run.seed,
        parent=run.parent and final[run.parent].id,
        step=step,
        accuracy=round(accuracy, 6),
        split=run.split,
        extra={
            "run": run.id,
            **{key: getattr(run, key) for key in RUN_KEYS},
            **({"teacher": final[run.teacher.id].id} if run.teacher else {}),
            "transform": task.transform,
            "labels": task.labels,
            "width": max(model.widths),  # pyright: ignore[reportAttributeAccessIssue]
            "depth": len(model.widths),  # pyright: ignore[reportAttributeAccessIssue]
            "batch_size": config.batch_size,
            "input_shape": [model.image_size or config.image_size] * 2 + [1],
            "strides": list(model.conv_strides),
            **({"pooling": model.pooling} if model.pooling != "none" else {}),
            **({"pixels": list(model.pixels)} if model.pixels != (1.0, 0.0) else {}),
            "heads": model.heads,
            "parameters": sum(w.size for w in jax.tree.leaves(variables["params"])),
            "steps": run.stretch * config.steps if run.parent is None else config.steps // config.checkpoints,
        },
    )


def _sources(run: Run) -> set[str]:
    """Ids of the runs that a run is made from."""
    return {source for source in (run.parent, run.teacher and run.teacher.id) if source}


def _open_zoo(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Record]]:
    """State of the zoo in a directory and the last record of each run. Raises InputError if it has other settings."""
    path = directory / STATE
    if not path.exists():
        if (directory / MANIFEST).exists():
            raise InputError(directory, f"holds a zoo without {STATE}", "name an empty directory")
        state = {"settings": settings, "diverged": []}
        write_atomically(path, json.dumps(state, indent=1).encode())
        return state, {}
    try:
        state = json.loads(path.read_bytes())
        held, _ = state["settings"], set(state["diverged"])  # both must be there
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"not readable ({error})", "name an empty directory") from error
    if held != settings:
        keys = sorted(key for key in {**held, **settings} if held.get(key) != settings.get(key))
        reason = f"holds a zoo of another configuration (differs in {', '.join(keys)})"
        raise InputError(directory, reason, "name another directory or restore the configuration")
    records = read_manifest(directory)[0] if (directory / MANIFEST).exists() else []
    return state, {record.get("run"): record for record in records}


def train_zoo(
    config: Config, directory: str | Path, seed: int = 0, images: ZooImages | None = None
) -> dict[str, int | float]:
    """Train all models of a zoo into a directory; goes on where an earlier build was interrupted.

    Args:
        config: the section `zoo`.
        directory: where `models.jsonl`, `zoo.json` and `checkpoints/` or `shards/` go.
        seed: fixes data, tasks, runs and training.
        images: from `load_zoo_images` with the same arguments; loaded where they are not given.

    Returns counts: models and checkpoints trained now, seconds, diverged runs (left out of the zoo) and
    compiled programs. Raises InputError for unusable settings or a directory with another zoo.
    """
    started = time.perf_counter()
    if config.steps % config.checkpoints:
        raise InputError("zoo.steps", f"not a multiple of {config.checkpoints} checkpoints", "change either")
    if config.storage not in STORAGES:
        raise InputError("zoo.storage", f"no storage {config.storage!r}", f"choose from {', '.join(STORAGES)}")
    directory = Path(directory)
    places = ("dir", "data_dir")  # a moved folder is the same zoo
    settings = {key: value for key, value in config.to_dict().items() if key not in places} | {"seed": seed}
    state, final = _open_zoo(directory, json.loads(json.dumps(settings)))
    images = images or load_zoo_images(config, seed)
    tasks, bank = {task.id: task for task in images.tasks}, images.bank
    runs = draw_runs(config, images.tasks, seed)
    mesh = Mesh(np.array(jax.local_devices()), ("models",))
    device_bank = jax.device_put(bank.images, NamedSharding(mesh, PartitionSpec()))
    counts = {"models": 0, "checkpoints": 0}
    programs = set()

    def add(made: Sequence[tuple[Record, bytes]], shard: str) -> None:
        if not made:
            return
        written = write_checkpoints(directory, config.storage, shard, made)
        records = [record for record in written if record.get("run") not in final]
        append_records(directory, records)
        final.update({record.get("run"): record for record in records})
        counts["models"] += len({record.get("run") for record in records})
        counts["checkpoints"] += len(records)

    with tqdm(total=len(runs) + config.num_copies, desc="zoo", unit="model", smoothing=0.1) as progress:
        for chunk in make_chunks(runs, config.chunk_size):
            diverged = set(state["diverged"])
            trained = tuple(run for run in chunk.runs if _sources(run) <= final.keys())  # the others' have diverged
            if all(run.id in diverged or run.id in final for run in trained):
                progress.update(len(chunk.runs))
                continue
            shard = chunk.runs[0].id
            chunk = dataclasses.replace(chunk, runs=trained)
            programs.add((chunk.model, chunk.size))
            made: list[tuple[Record, bytes]] = []
            for step, variables, accuracies in train_chunk(chunk, directory, config, bank, device_bank, final):
                for i, run in enumerate(chunk.runs):
                    own = jax.tree.map(lambda w, i=i: w[i], variables)
                    if not all(np.isfinite(w).all() for w in jax.tree.leaves(own)):
                        diverged.add(run.id)
                        continue
                    record = _record(run, tasks[run.task], own, step, float(accuracies[i]), config, final)
                    tensors: Any = flax.traverse_util.flatten_dict(own, sep="/")
                    made.append((record, checkpoint_bytes(tensors, chunk.model, config.image_size)))
            if len(diverged) > len(state["diverged"]):
                state["diverged"] = sorted(diverged)
                write_atomically(directory / STATE, json.dumps(state, indent=1).encode())
            add([(record, content) for record, content in made if record.get("run") not in diverged], shard)
            progress.update(len(chunk.runs))
        of = {run.id: run for run in runs}
        for copies in copy_chunks(draw_copies(list(final.values()), config.num_copies, seed), of, config.chunk_size):
            if not all(copy.run in final for copy in copies):
                add(make_copies(copies, of, directory, config.image_size, bank, device_bank), copies[0].run)
            progress.update(len(copies))
    seconds = time.perf_counter() - started
    return {**counts, "seconds": seconds, "diverged": len(state["diverged"]), "programs": len(programs)}

"""Building a zoo: chunks of runs trained together, their checkpoints and the manifest.

A chunk's models are stacked along an axis that is sharded over the devices. A build that was interrupted
goes on after the last chunk that reached the manifest.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from tqdm import tqdm

from wsrl.data import load_image_set
from wsrl.errors import InputError
from wsrl.zoo.bank import ImageBank, draw_batches, image_bank, run_arrays
from wsrl.zoo.manifest import MANIFEST, Record, append_records, read_manifest, write_atomically
from wsrl.zoo.models import FAMILIES, Classifier
from wsrl.zoo.recipes import Config, Run, draw_runs
from wsrl.zoo.stacked import Tree, initialise, train_models
from wsrl.zoo.tasks import Task, draw_tasks

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
        return FAMILIES[self.runs[0].family][self.runs[0].variant]


def make_chunks(runs: Sequence[Run], chunk_size: int) -> list[Chunk]:
    """Group runs by architecture into chunks of one size for each architecture, parents before children."""
    groups: dict[tuple[bool, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.parent is not None, run.family, run.variant), []).append(run)
    chunks = []
    for (_, family, variant), group in sorted(groups.items(), key=lambda item: item[0]):
        number = len(groups.get((False, family, variant), group))
        size = -(-number // -(-number // chunk_size))
        chunks += [Chunk(tuple(group[i : i + size]), size) for i in range(0, len(group), size)]
    return chunks


def train_chunk(
    chunk: Chunk, directory: Path, config: Config, bank: ImageBank, device_bank: jax.Array
) -> Iterator[tuple[int, Tree, Float[np.ndarray, " models"]]]:
    """Train the runs of a chunk together; yields (step, variables, accuracies) at each checkpoint.

    Children (all runs of a chunk or none) start from their parent's last checkpoint in `directory` and are
    trained for one checkpoint's worth of steps. Variables are NumPy arrays with models as their first axis.
    """
    segment = config.steps // config.checkpoints
    checkpoints = config.checkpoints if chunk.runs[0].parent is None else 1
    mesh = device_bank.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
    sharding = NamedSharding(mesh, PartitionSpec("models"))

    def stack(trees: list[Tree]) -> Tree:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    size = -(-chunk.size // mesh.size) * mesh.size
    padded = [*chunk.runs, *[chunk.runs[0]] * (size - len(chunk.runs))]
    runs = stack([run_arrays(run, bank, checkpoints * segment) for run in padded])
    batches = stack([draw_batches(run, bank, checkpoints * segment, config.batch_size) for run in padded])
    variables = stack([_initial_variables(run, chunk.model, directory, config) for run in padded])
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    state = {"variables": variables, "first": zeros, "second": zeros, "step": np.zeros(size, np.int32)}
    state, runs = jax.device_put((state, runs), sharding)
    for checkpoint in range(1, checkpoints + 1):
        steps = slice((checkpoint - 1) * segment, checkpoint * segment)
        part = jax.device_put(jax.tree.map(lambda x, steps=steps: x[:, steps], batches), sharding)
        state, accuracy = train_models(chunk.model, state, part, runs, device_bank)
        yield checkpoint * segment, jax.device_get(state["variables"]), np.asarray(accuracy)


def _initial_variables(run: Run, model: Classifier, directory: Path, config: Config) -> Tree:
    if run.parent is None:
        return initialise(model, config.image_size, run.seed, run.init_scale)
    return _read_variables(directory / _path(run.parent, config.steps))


def _path(run: str, step: int) -> str:
    return f"checkpoints/{run}/{step}.safetensors"


def _read_variables(path: Path) -> Tree:
    with safetensors.safe_open(path, "numpy") as file:
        flat = {tuple(key.split("/")): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {"batch_stats": {}} | flax.traverse_util.unflatten_dict(flat)


def _write_checkpoint(path: Path, variables: Tree, model: Classifier, image_size: int) -> None:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    metadata = {
        "framework": "flax",
        "activation": model.activation,
        "input_shape": f"{image_size},{image_size},1",
        "strides": ",".join(map(str, model.conv_strides)),
    }
    if model.heads:
        metadata["heads"] = str(model.heads)
    arrays = {key: np.ascontiguousarray(value) for key, value in flat.items() if isinstance(value, np.ndarray)}
    write_atomically(path, _sorted_header(safetensors.numpy.save(arrays, metadata)))


def _sorted_header(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file, which the library writes in an order of its own each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(size) + content[8 + size :]


def _record(run: Run, task: Task, variables: Tree, step: int, accuracy: float, config: Config) -> Record:
    model = FAMILIES[run.family][run.variant]
    return Record(
        id=f"{run.id}/{step}",
        path=_path(run.id, step),
        task=task.id,
        dataset=task.dataset,
        architecture=run.family,
        activation=model.activation,
        seed=run.seed,
        parent=run.parent and f"{run.parent}/{config.steps}",
        step=step,
        accuracy=round(accuracy, 6),
        split=run.split,
        extra={
            "run": run.id,
            **{key: getattr(run, key) for key in RUN_KEYS},
            "transform": task.transform,
            "labels": task.labels,
            "width": max(model.widths),  # pyright: ignore[reportAttributeAccessIssue]
            "depth": len(model.widths),  # pyright: ignore[reportAttributeAccessIssue]
            "batch_size": config.batch_size,
            "input_shape": [config.image_size, config.image_size, 1],
            "strides": list(model.conv_strides),
            "heads": model.heads,
            "parameters": sum(w.size for w in jax.tree.leaves(variables["params"])),
            "steps": config.steps if run.parent is None else config.steps // config.checkpoints,
        },
    )


def _open_zoo(directory: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """State of the zoo in a directory and the runs it holds. Raises InputError if it has other settings."""
    path = directory / STATE
    if not path.exists():
        if (directory / MANIFEST).exists():
            raise InputError(directory, f"holds a zoo without {STATE}", "name an empty directory")
        state = {"settings": settings, "diverged": []}
        write_atomically(path, json.dumps(state, indent=1).encode())
        return state, set()
    try:
        state = json.loads(path.read_bytes())
        held, diverged = state["settings"], set(state["diverged"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"not readable ({error})", "name an empty directory") from error
    if held != settings:
        keys = sorted(key for key in {**held, **settings} if held.get(key) != settings.get(key))
        reason = f"holds a zoo of another configuration (differs in {', '.join(keys)})"
        raise InputError(directory, reason, "name another directory or restore the configuration")
    records = read_manifest(directory)[0] if (directory / MANIFEST).exists() else []
    return state, {record.get("run") for record in records} | diverged


def train_zoo(config: Config, directory: str | Path, seed: int = 0) -> dict[str, int | float]:
    """Train all models of a zoo into a directory; goes on where an earlier build was interrupted.

    Args:
        config: the section `zoo`.
        directory: where `models.jsonl`, `zoo.json` and `checkpoints/` go.
        seed: fixes data, tasks, runs and training.

    Returns counts: models and checkpoints trained now, seconds, diverged runs (left out of the zoo) and
    compiled programs. Raises InputError for unusable settings or a directory with another zoo.
    """
    started = time.perf_counter()
    if config.steps % config.checkpoints:
        raise InputError("zoo.steps", f"not a multiple of {config.checkpoints} checkpoints", "change either")
    directory = Path(directory)
    places = ("dir", "data_dir")  # a moved folder is the same zoo
    settings = {key: value for key, value in config.to_dict().items() if key not in places} | {"seed": seed}
    state, done = _open_zoo(directory, json.loads(json.dumps(settings)))
    image_sets = [
        load_image_set(name, config.data_dir, config.image_size, config.max_images, seed)
        for name in config.datasets.split(",")
    ]
    numbers = config.num_tasks, config.num_test_tasks, config.num_validation_tasks
    tasks = {task.id: task for task in draw_tasks(image_sets, *numbers, seed, config.num_classes)}
    bank = image_bank(image_sets, list(tasks.values()), config.test_images)
    runs = draw_runs(config, list(tasks.values()), seed)
    mesh = Mesh(np.array(jax.devices()), ("models",))
    device_bank = jax.device_put(bank.images, NamedSharding(mesh, PartitionSpec()))
    counts = {"models": 0, "checkpoints": 0}
    programs = set()
    with tqdm(total=len(runs), desc="zoo", unit="model", smoothing=0.1) as progress:
        for chunk in make_chunks(runs, config.chunk_size):
            diverged = set(state["diverged"])
            trained = tuple(run for run in chunk.runs if run.parent not in diverged)
            if all(run.id in done for run in trained):
                progress.update(len(chunk.runs))
                continue
            chunk = dataclasses.replace(chunk, runs=trained)
            programs.add((chunk.model, chunk.size))
            records: list[Record] = []
            for step, variables, accuracies in train_chunk(chunk, directory, config, bank, device_bank):
                for i, run in enumerate(chunk.runs):
                    own = jax.tree.map(lambda w, i=i: w[i], variables)
                    if not all(np.isfinite(w).all() for w in jax.tree.leaves(own)):
                        diverged.add(run.id)
                        continue
                    _write_checkpoint(directory / _path(run.id, step), own, chunk.model, config.image_size)
                    records.append(_record(run, tasks[run.task], own, step, float(accuracies[i]), config))
            if len(diverged) > len(state["diverged"]):
                state["diverged"] = sorted(diverged)
                write_atomically(directory / STATE, json.dumps(state, indent=1).encode())
            records = [record for record in records if record.get("run") not in diverged | done]
            append_records(directory, records)
            counts["models"] += len({record.get("run") for record in records})
            counts["checkpoints"] += len(records)
            progress.update(len(chunk.runs))
    seconds = time.perf_counter() - started
    return {**counts, "seconds": seconds, "diverged": len(state["diverged"]), "programs": len(programs)}

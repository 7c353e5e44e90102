"""A small made-up zoo for the tests of evaluation and report."""

import numpy as np

from wsrl.zoo.manifest import Record

ARCHITECTURES = ("mlp", "cnn_gap", "vit")


def make_record(number: int, task: str, architecture: str = "mlp", **keys) -> Record:
    """One record; keys are required fields or further ones."""
    fields = {
        "id": f"model-{number}",
        "path": f"model-{number}.safetensors",
        "task": task,
        "dataset": "digits",
        "architecture": architecture,
        "activation": "relu",
        "seed": number,
        "parent": None,
        "step": 100,
        "accuracy": 0.5,
        "split": "train",
    }
    extra = {key: keys.pop(key) for key in list(keys) if key not in fields}
    return Record(**(fields | keys), extra=extra)


def make_zoo(tasks: int = 6, runs: int = 6, checkpoints: int = 2, seed: int = 0) -> list[Record]:
    """Runs of every task, two checkpoints each; the last third of the tasks is the test split."""
    rng = np.random.default_rng(seed)
    records = []
    for task in range(tasks):
        for run in range(runs):
            for step in range(checkpoints):
                records.append(
                    make_record(
                        len(records),
                        f"task-{task}",
                        ARCHITECTURES[run % len(ARCHITECTURES)],
                        step=step,
                        accuracy=float(rng.uniform(0.3, 1)),
                        split="test" if task >= tasks - tasks // 3 else "train",
                        run=f"run-{task}-{run}",
                        lineage=f"run-{task}-{run}",
                        width=16,
                        learning_rate=float(10 ** rng.uniform(-4, -2)),
                    )
                )
    return records


def task_embeddings(records, noise: float, seed: int = 0, dim: int = 16) -> np.ndarray:
    """A random direction for each task and noise of the given size: float32 [n, dim]."""
    directions = np.random.default_rng(123)
    tasks = {task: directions.normal(size=dim) for task in sorted({record.task for record in records})}
    clean = np.stack([tasks[record.task] for record in records])
    return (clean + noise * np.random.default_rng(seed).normal(size=clean.shape)).astype(np.float32)

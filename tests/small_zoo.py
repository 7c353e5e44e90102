"""A zoo of a few small networks with random weights, for tests of what reads a zoo."""

from pathlib import Path

from networks import draw_model

from wsrl.zoo.manifest import Record, append_records, read_manifest
from wsrl.zoo.models import MLP
from wsrl.zoo.storage import checkpoint_bytes, write_checkpoints

SIZE = 8  # pixels a side
MODELS = (
    MLP("relu", num_classes=5, widths=(6,)),
    MLP("tanh", num_classes=3, widths=(20,)),
    MLP("relu", num_classes=5, widths=(6, 5)),
)
SPLITS = ("train", "train", "validation", "test")


def write_zoo(directory: Path, storage: str = "files", count: int = 8) -> list[Record]:
    """Writes networks of all architectures in turn, two after one another of a task; returns the manifest."""
    told = []
    for i in range(count):
        model = MODELS[i % len(MODELS)]
        task = i // 2
        record = Record(
            id=f"model-{i}",
            path=f"checkpoints/model-{i}.safetensors",
            task=f"task-{task}",
            dataset="digits",
            architecture="mlp",
            activation=model.activation,
            seed=i,
            parent=None,
            step=100,
            accuracy=0.5,
            split=SPLITS[task % len(SPLITS)],
            extra={"run": f"run-{i}", "lineage": f"run-{i}", "input_shape": [SIZE, SIZE, 1]},
        )
        told.append((record, checkpoint_bytes(draw_model(model, i, SIZE)[0].tensors, model, SIZE)))
    append_records(directory, write_checkpoints(directory, storage, "shard-0", told))
    return read_manifest(directory)[0]

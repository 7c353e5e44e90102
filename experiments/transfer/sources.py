"""Trains the networks that others start from: each architecture on each source, as a zoo with a manifest.

All sources share one program for each architecture: the images of each fill a bank of one size with shifted, mirrored
and relit copies, and every network is trained with as many output neurons as the source of most classes needs. Those
of classes that a source does not have are cut off at the end.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from wsrl.annotations import Config
from wsrl.data import ImageSet, load_image_set
from wsrl.errors import InputError
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.finetuning import with_head
from wsrl.zoo.manifest import MANIFEST, Record, append_records, read_manifest
from wsrl.zoo.models import Classifier, CNNFlatten, ResNet
from wsrl.zoo.stacked import Tree, initialize, train_models
from wsrl.zoo.storage import checkpoint_bytes, write_checkpoints

ARCHITECTURES: dict[str, Classifier] = {
    "resnet": ResNet("relu", widths=(24, 32, 64), block_strides=(2, 2, 2)),
    "cnn_flatten": CNNFlatten("gelu", widths=(24, 32, 48), conv_strides=(2, 2, 2), hidden=64),
}
MOST_IMAGES = 10_000  # of a source
HELD_OUT = 500  # images at most that tell the accuracy
COPIES = 16  # of each training image, at most
BANK = 40_960  # images of a source's bank, the held-out ones first
SHIFT = 3  # pixels at most, down and across
CONTRAST, BRIGHTNESS = 0.3, 20  # largest changes of a copy: of a factor, and in gray levels
SEGMENTS = 10  # of a training; networks are kept after the first and the last


class Source(NamedTuple):
    """What networks are trained on.

    Attributes:
      name: of the source.
      images: all of its sets, joined.
      mirrored: mirror images are of the same class.
    """

    name: str
    images: ImageSet
    mirrored: bool


def load_set(name: str, data_dir: str, image_size: int, most: int = MOST_IMAGES) -> ImageSet:
    """Loads sets of the data folder, joined where several are named with a plus sign between them.

    Raises:
      InputError: one is not there or cannot be used.
    """
    found = []
    for part in name.split("+"):
        paths = sorted(Path(data_dir).rglob(f"{part}.npz"))
        if not paths:
            raise InputError(data_dir, f"holds no {part}.npz", "name the folder of the sets as --config.data_dir")
        found.append(str(paths[0]))
    return load_image_set("+".join(found), None, image_size, most)


def load_sources(config: Config) -> list[Source]:
    """Loads all sources of a configuration. Raises InputError for a set that cannot be used."""
    mirrored = config.mirrored.split(",")
    found = []
    for entry in config.sources.split(","):
        name, _, sets = entry.partition("=")
        found.append(Source(name, load_set(sets or name, config.data_dir, config.image_size), name in mirrored))
    return found


def augmented(
    x: UInt8[np.ndarray, "n size size"], count: int, mirrored: bool, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "count size size"], Int64[np.ndarray, " count"]]:
    """Returns copies of images, all as often as one another but for one, and the number of the image of each.

    A copy is shifted by up to `SHIFT` pixels, its edges repeated, and is brighter or darker and of more or less
    contrast; where `mirrored` is set, half of the copies are mirror images.
    """
    size = x.shape[1]
    of = np.resize(np.arange(len(x)), count)
    padded = np.pad(x, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    down, across = rng.integers(0, 2 * SHIFT + 1, (2, count))
    copies = windows[of, down, across]
    if mirrored:
        flipped = rng.random(count) < 0.5
        copies[flipped] = copies[flipped, :, ::-1]
    factor = 1 + CONTRAST * rng.uniform(-1, 1, (count, 1, 1)).astype(np.float32)
    offset = BRIGHTNESS * rng.uniform(-1, 1, (count, 1, 1)).astype(np.float32)
    return ((copies - 127.5) * factor + 127.5 + offset).clip(0, 255).astype(np.uint8), of


def train_sources(config: Config, directory: Path, sources: Sequence[Source]) -> list[Record]:
    """Trains what the zoo in a directory does not hold yet; returns its records.

    A record has the keys `run`, `classes`, `images` (of the source), `parameters` and `steps` (of the whole training)
    among its further ones. Networks after a tenth of the training are kept besides those after all of it.
    """
    outputs = max(source.images.classes for source in sources)
    records = read_manifest(directory)[0] if (directory / MANIFEST).exists() else []
    known = {record.get("run") for record in records}
    runs = [(number, source, name) for number, source in enumerate(sources) for name in ARCHITECTURES]
    for number, source, name in tqdm(runs, desc="sources", unit="network"):
        if f"{source.name}-{name}" not in known:
            made = _train(config, source, name, outputs, config.seed + number)
            append_records(directory, write_checkpoints(directory, "files", source.name, made))
    return read_manifest(directory)[0]


def _train(config: Config, source: Source, name: str, outputs: int, seed: int) -> list[tuple[Record, bytes]]:
    """Trains one network; returns records and files, of the first segment and of the last."""
    images, rng = source.images, np.random.default_rng([seed, 21])
    model = ARCHITECTURES[name].clone(num_classes=outputs)
    held_out = rng.permutation(np.flatnonzero(images.held_out))[:HELD_OUT]
    train = np.flatnonzero(~images.held_out)
    count = min(BANK - HELD_OUT, COPIES * len(train))
    copies, of = augmented(images.x[train], count, source.mirrored, rng)
    bank = np.zeros((BANK, *images.x.shape[1:]), np.uint8)
    bank[: len(held_out)], bank[HELD_OUT : HELD_OUT + count] = images.x[held_out], copies
    steps = config.long_steps if len(images.y) >= config.long_images else config.steps
    drawn = rng.integers(0, count, (1, steps, config.batch_size))
    batches = (drawn + HELD_OUT).astype(np.int32), images.y[train][of][drawn].astype(np.int32)
    padding = (0, -(-HELD_OUT // EVALUATION_BATCH) * EVALUATION_BATCH - len(held_out))
    run = {
        "seed": np.uint32(seed),
        "adaptive": np.float32(1),
        "decoupled": np.float32(1),
        "learning_rate": np.float32(config.learning_rate),
        "weight_decay": np.float32(config.weight_decay),
        "dropout": np.float32(0),
        "steps": np.float32(steps),
        "test_count": np.int32(len(held_out)),
        "test_images": np.pad(np.arange(len(held_out)), padding).astype(np.int32),
        "test_labels": np.pad(images.y[held_out], padding, constant_values=-1).astype(np.int32),
    }
    variables, run = (
        jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)
        for tree in (initialize(model, config.image_size, seed, 1.0), run)
    )
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    state = {"variables": variables, "first": zeros, "second": zeros, "step": np.zeros(1, np.int32)}
    made, device_bank, segment = [], jax.device_put(bank), steps // SEGMENTS
    for start in range(0, steps, segment):
        part = jax.tree.map(lambda x, start=start: x[:, start : start + segment], batches)
        state, accuracy = train_models(model, state, part, run, device_bank)
        if start in (0, steps - segment):
            own = _with_classes(
                jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.device_get(state["variables"])), images.classes
            )
            record = _record(config, source, name, own, seed, start + segment, steps, float(accuracy[0]))
            tensors: Any = flax.traverse_util.flatten_dict(own, sep="/")
            made.append((record, checkpoint_bytes(tensors, model, config.image_size)))
    return made


def _with_classes(variables: Tree, classes: int) -> Tree:
    """A network without the output neurons beyond some classes."""
    head = variables["params"][max(name for name in variables["params"] if name.startswith("Dense_"))]
    return with_head(variables, head["kernel"][:, :classes], head["bias"][:classes])


def _record(
    config: Config, source: Source, name: str, variables: Tree, seed: int, step: int, steps: int, accuracy: float
) -> Record:
    model, run = ARCHITECTURES[name], f"{source.name}-{name}"
    return Record(
        id=f"{run}/{step}",
        path=f"checkpoints/{run}/{step}.safetensors",
        task=source.name,
        dataset=source.name,
        architecture=name,
        activation=model.activation,
        seed=seed,
        parent=None,
        step=step,
        accuracy=round(accuracy, 6),
        split="test",
        extra={
            "run": run,
            "lineage": run,
            "classes": source.images.classes,
            "images": len(source.images.y),
            "input_shape": [config.image_size, config.image_size, 1],
            "strides": list(model.conv_strides),
            "heads": model.heads,
            "parameters": sum(w.size for w in jax.tree.leaves(variables["params"])),
            "steps": steps,
        },
    )

"""Where a zoo's checkpoints lie: each in a safetensors file of its own, or many in a shard.

Both hold the same bytes. In the manifest, the line of a checkpoint in a shard has the shard as its `path` and the
further key `record`, the position in it.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor, one_line
from wsrl.files import write_atomically
from wsrl.readers import read_checkpoint
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import Classifier
from wsrl.zoo.shards import MEND, stream_records, write_shard
from wsrl.zoo.stacked import Tree

STORAGES = ("files", "array_record")


def checkpoint_bytes(tensors: Mapping[str, np.ndarray], model: Classifier, image_size: int) -> bytes:
    """Serialise a network of the zoo as safetensors, with what the weights do not tell as metadata.

    Args:
        tensors: float32 arrays by their Flax path, with "/" between its parts.
        model: the architecture.
        image_size: pixels a side of the images that it is given; its own, where it has one, counts.
    """
    image_size = model.image_size or image_size
    metadata = {
        "framework": "flax",
        "activation": model.activation,
        "input_shape": f"{image_size},{image_size},1",
        "strides": ",".join(map(str, model.conv_strides)),
    }
    if model.pooling != "none":
        metadata["pooling"] = model.pooling
    if model.heads:
        metadata["heads"] = str(model.heads)
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return _sorted_header(safetensors.numpy.save(arrays, metadata))


def _sorted_header(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file, which the library writes in an order of its own each time."""
    header, data = _split(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + text.ljust(len(content) - len(data) - 8) + data


def _split(content: bytes) -> tuple[dict, bytes]:
    """Header and tensors of a well-formed safetensors file."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def write_checkpoints(
    directory: Path, storage: str, shard: str, checkpoints: Sequence[tuple[Record, bytes]]
) -> list[Record]:
    """Write checkpoints into a zoo; the manifest is left as it is.

    Args:
        directory: of the zoo.
        storage: one of STORAGES.
        shard: name of the shard, of those that are trained together.
        checkpoints: records, whose `path` is where a file of its own goes, and safetensors files.

    Returns the records with the places that were written.
    """
    if storage == "files":
        for record, content in checkpoints:
            write_atomically(directory / record.path, content)
        return [record for record, _ in checkpoints]
    path = f"shards/{shard}.array_record"
    write_shard(directory / path, (content for _, content in checkpoints))
    return [
        dataclasses.replace(record, path=path, extra=record.extra | {"record": position})
        for position, (record, _) in enumerate(checkpoints)
    ]


def read_checkpoints(directory: Path, records: Sequence[Record]) -> Iterator[Checkpoint | CheckpointError]:
    """Yield the checkpoint of each record, one in memory at a time, or why it cannot be used.

    Tensors are float32 arrays. Records that follow each other in a shard are read without opening it again.
    """
    for (path, in_shard), group in itertools.groupby(records, lambda record: (record.path, "record" in record.extra)):
        if in_shard:
            positions = [record.extra["record"] for record in group]
            for position, content in zip(positions, stream_records(directory / path, positions), strict=True):
                source = f"{directory / path}, record {position}"
                yield content if isinstance(content, CheckpointError) else parse_checkpoint(content, source)
        else:
            for _ in group:
                yield _read_file(directory / path)


def read_variables(directory: Path, record: Record) -> Tree:
    """Read the Flax variables of one of the zoo's own checkpoints. Raises CheckpointError."""
    checkpoint = next(read_checkpoints(directory, [record]))
    if isinstance(checkpoint, CheckpointError):
        raise checkpoint
    return {"batch_stats": {}} | flax.traverse_util.unflatten_dict(dict(checkpoint.tensors), sep="/")


def _read_file(path: Path) -> Checkpoint | CheckpointError:
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        return error


def parse_checkpoint(content: bytes, source: str) -> Checkpoint | CheckpointError:
    """Returns the checkpoint of a safetensors file that was read, or why it is none; `source` is for messages."""
    try:
        loaded = safetensors.numpy.load(content)
        tensors = {name: np.asarray(LazyTensor.of(tensor, source, name)) for name, tensor in loaded.items()}
    except safetensors.SafetensorError as error:
        return CheckpointError(source, f"is not a safetensors file ({one_line(error)})", MEND)
    except CheckpointError as error:
        return error
    return Checkpoint(source, tensors, _split(content)[0].get("__metadata__", {}))

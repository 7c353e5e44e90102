"""Samples of Flax and Orbax, as in `experiments.proofs.samples`."""

from collections.abc import Callable
from pathlib import Path

import flax.serialization
import ml_dtypes
import numpy as np
import orbax.checkpoint

from experiments.proofs.samples import registrar
from experiments.proofs.samples_keras import layers

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


def train_state():
    """Parameters and statistics of a model, and the state of its training, as Flax keeps them."""
    a = layers()
    bn = a["bn"]
    return {
        "params": {
            "dense": {"kernel": a["dense"]["kernel"], "bias": a["dense"]["bias"].astype(ml_dtypes.bfloat16)},
            "bn": {"scale": bn["gamma"], "bias": bn["beta"]},
            "temperature": np.array(0.5, np.float32),
        },
        "batch_stats": {"bn": {"mean": bn["moving_mean"], "var": bn["moving_variance"]}},
        "opt_state": {"0": {"mu": {"kernel": a["dense"]["kernel"]}}},
        "step": np.array(3),
    }


@sample("flax_msgpack")
def flax_file(folder):
    (folder / "model.msgpack").write_bytes(flax.serialization.to_bytes(train_state()))
    return folder / "model.msgpack"


@sample("flax_msgpack-chunked")
def flax_chunked(folder):
    kernel = np.arange(12.0, dtype=np.float32)
    pieces = {"0": kernel[:5], "1": kernel[5:10], "2": kernel[10:]}
    array = {"__msgpack_chunked_array__": True, "shape": {"0": 4, "1": 3}, "chunks": pieces}
    (folder / "model.msgpack").write_bytes(flax.serialization.msgpack_serialize({"dense": {"kernel": array}}))
    return folder / "model.msgpack"


def orbax_folder(path, **options):
    """A checkpoint of `train_state`; options of the handler choose the store."""
    with orbax.checkpoint.Checkpointer(orbax.checkpoint.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path.absolute(), train_state())
    return path


@sample("orbax")
def orbax_ocdbt(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=True)


@sample("orbax-files")
def orbax_files(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=False)


@sample("orbax-shards")
def orbax_shards(folder):
    return orbax_folder(folder / "checkpoint", use_ocdbt=True, use_zarr3=True)

"""An encoder on disk: its parameters as safetensors, its shape as JSON."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError

from wsrl.encoder.accuracy import SIGNS
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.files import PRETRAINED
from wsrl.errors import InputError
from wsrl.files import write_atomically

FIELDS = tuple(f.name for f in dataclasses.fields(ResponseEncoder) if f.name not in ("parent", "name"))


def save_encoder(directory: Path, encoder: ResponseEncoder, params: Any) -> str:
    """Writes `encoder.safetensors` and `encoder.json`; returns the hash of both that an index stores.

    Parameters are written as they are, float32 or float16.
    """
    tensors = {name: np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}
    shape = json.dumps({name: getattr(encoder, name) for name in FIELDS}, indent=1).encode()
    write_atomically(directory / "encoder.json", shape)
    write_atomically(directory / "encoder.safetensors", safetensors.numpy.save(tensors))
    return encoder_hash(encoder, params)


def encoder_directory(name: str | Path) -> Path:
    """The folder of an encoder: `pretrained` stands for that of the package, all else for itself."""
    return PRETRAINED if str(name) == PRETRAINED.name else Path(name)


def encoder_hash(encoder: ResponseEncoder, params: Any) -> str:
    """SHA-256 of an encoder's shape and parameters."""
    digest = hashlib.sha256(json.dumps([getattr(encoder, name) for name in FIELDS]).encode())
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


def parameter_shapes(encoder: ResponseEncoder) -> dict[str, tuple[int, ...]]:
    """Of the parameters of an encoder, by name; as Flax would find them, which takes a quarter of a second."""
    products = encoder.rank * (encoder.rank + 1) // 2
    features = (SIGNS + products,)
    return {
        "inputs": (encoder.probes, *encoder.input_shape),
        "responses/basis": (encoder.response_size, encoder.rank),
        "responses/centre": (products,),
        "responses/metric": (products, encoder.dim),
        "accuracy/mean": features,
        "accuracy/deviation": features,
        "accuracy/kernel": features,
        "accuracy/bias": (),
    }


def load_encoder(directory: Path) -> tuple[ResponseEncoder, Any]:
    """Reads what `save_encoder` wrote; parameters are float32.

    Args:
      directory: see `encoder_directory`.

    Raises:
      InputError: a file is missing or not readable.
    """
    directory = encoder_directory(directory)
    try:
        shape = json.loads((directory / "encoder.json").read_bytes())
        if missing := set(FIELDS) - set(shape):  # a default may not be what it was trained with
            raise ValueError(f"no {', '.join(sorted(missing))} in encoder.json")
        encoder = ResponseEncoder(**{**shape, "input_shape": tuple(shape["input_shape"])})
        tensors = safetensors.numpy.load_file(directory / "encoder.safetensors")
        if {name: value.shape for name, value in tensors.items()} != parameter_shapes(encoder):
            raise ValueError("parameters of another version of wsrl")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    return encoder, unflatten_dict({name: value.astype(np.float32) for name, value in tensors.items()}, sep="/")

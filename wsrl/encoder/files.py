"""An encoder on disk: where it lies, its shape, its parameters, and what it is called by; needs no JAX."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from wsrl.encoder.accuracy import SIGNS
from wsrl.encoder.shape import EncoderShape
from wsrl.errors import InputError

PRETRAINED = Path(__file__).parent / "pretrained"  # the encoder of the package
FIELDS = tuple(field.name for field in dataclasses.fields(EncoderShape))
SHAPE, PARAMETERS = "encoder.json", "encoder.safetensors"


def read_shape(directory: Path) -> dict[str, Any]:
    """Returns the fields of an encoder.

    Raises:
      InputError: there is no `encoder.json`, or it is not readable.
    """
    try:
        shape = json.loads((directory / SHAPE).read_bytes())
        if not isinstance(shape, dict) or not isinstance(shape.get("dim"), int):
            raise ValueError(f"no dim in {SHAPE}")
    except (OSError, ValueError) as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    return shape


def encoder_directory(name: str | Path) -> Path:
    """The folder of an encoder: `pretrained` stands for that of the package, all else for itself."""
    return PRETRAINED if str(name) == PRETRAINED.name else Path(name)


def parameter_shapes(shape: EncoderShape) -> dict[str, tuple[int, ...]]:
    """Of the parameters of an encoder, by name; as Flax would find them."""
    products = shape.rank * (shape.rank + 1) // 2
    features = (SIGNS + products,)
    return {
        "inputs": (shape.probes, *shape.input_shape),
        "responses/basis": (shape.response_size, shape.rank),
        "responses/centre": (products,),
        "responses/metric": (products, shape.dim),
        "accuracy/mean": features,
        "accuracy/deviation": features,
        "accuracy/kernel": features,
        "accuracy/bias": (),
    }


def read_encoder(directory: Path) -> tuple[EncoderShape, dict[str, Any]]:
    """Reads what `wsrl.encoder.export.save_encoder` wrote; parameters are float32, in a tree as that of Flax.

    Args:
      directory: see `encoder_directory`.

    Raises:
      InputError: a file is missing or not readable.
    """
    directory = encoder_directory(directory)
    try:
        fields = json.loads((directory / SHAPE).read_bytes())
        if missing := set(FIELDS) - set(fields):  # a default may not be what it was trained with
            raise ValueError(f"no {', '.join(sorted(missing))} in {SHAPE}")
        shape = EncoderShape(**{**fields, "input_shape": tuple(fields["input_shape"])})
        tensors = safetensors.numpy.load_file(directory / PARAMETERS)
        if {name: value.shape for name, value in tensors.items()} != parameter_shapes(shape):
            raise ValueError("parameters of another version of wsrl")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    params: dict[str, Any] = {}
    for name, value in tensors.items():
        *modules, last = name.split("/")
        branch = params
        for module in modules:
            branch = branch.setdefault(module, {})
        branch[last] = value.astype(np.float32)
    return shape, params


def file_hash(directory: Path) -> str:
    """Returns the SHA-256 of the two files of an encoder.

    Raises:
      InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in (SHAPE, PARAMETERS):
            digest.update(hashlib.sha256((directory / name).read_bytes()).digest())
    except OSError as error:
        raise InputError(directory, f"holds no readable encoder ({error})", "train it again") from error
    return digest.hexdigest()

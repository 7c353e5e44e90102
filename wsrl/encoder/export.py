"""Writes and reads the encoder in Flax: its parameters as safetensors, its shape as JSON."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.files import FIELDS, PARAMETERS, SHAPE, read_encoder
from wsrl.files import write_atomically


def save_encoder(directory: Path, encoder: ResponseEncoder, params: Any) -> str:
    """Writes `encoder.safetensors` and `encoder.json`; returns the hash of both that an index stores.

    Parameters are written as they are, float32 or float16.
    """
    # in order of rows, or safetensors writes other numbers
    tensors = {name: np.asarray(value, order="C") for name, value in flatten_dict(params, sep="/").items()}
    shape = json.dumps({name: getattr(encoder, name) for name in FIELDS}, indent=1).encode()
    write_atomically(directory / SHAPE, shape)
    write_atomically(directory / PARAMETERS, safetensors.numpy.save(tensors))
    return encoder_hash(encoder, params)


def encoder_hash(encoder: ResponseEncoder, params: Any) -> str:
    """SHA-256 of an encoder's shape and parameters."""
    digest = hashlib.sha256(json.dumps([getattr(encoder, name) for name in FIELDS]).encode())
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


def load_encoder(directory: Path) -> tuple[ResponseEncoder, Any]:
    """As `wsrl.encoder.files.read_encoder`, for Flax."""
    shape, params = read_encoder(directory)
    return ResponseEncoder(**dataclasses.asdict(shape)), params

"""Samples of folders of the hub, as in `experiments.proofs.samples`."""

import json
from collections.abc import Callable
from pathlib import Path

import flax.serialization
import safetensors.numpy

from experiments.proofs.samples import registrar
from experiments.proofs.samples_keras import arrays, layers

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


CARD = """---
license: mit
tags: [vision, tiny]
---
# A model
"""


@sample("huggingface")
def hub_folder(folder):
    """A folder of the hub with the same weights twice."""
    path = folder / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "tiny", "num_attention_heads": 2}))
    (path / "README.md").write_text(CARD)
    (path / "model.safetensors").write_bytes(safetensors.numpy.save(arrays()))
    (path / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(layers()))
    return path

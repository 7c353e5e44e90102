"""Changes of adapters in the layouts of PEFT and LyCORIS are what these libraries add to the weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.relative.base import Base
from wsrl.relative.child import read_child

SHAPES = {"layers.0.up": (12, 8), "layers.0.down": (8, 12), "layers.0.conv": (6, 4, 3, 3)}
RNG = np.random.default_rng(1)
WEIGHTS = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
BASE = Base(Checkpoint("base", {f"{name}.weight": weight for name, weight in WEIGHTS.items()}, {}))
PREFIX = "base_model.model."
Tensors = dict[str, np.ndarray]
LOW_RANK = {"lora_A.weight": np.ones((2, 8), np.float32), "lora_B.weight": np.ones((12, 2), np.float32)}


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def written(folder: Path, module: str, tensors: Tensors, config: dict, prefix: str = PREFIX) -> Path:
    """Writes an adapter of one module as PEFT does."""
    named = {f"{prefix}{module}.{end}": np.ascontiguousarray(tensor) for end, tensor in tensors.items()}
    safetensors.numpy.save_file(named, folder / "adapter_model.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def change_of(path: Path, module: str) -> np.ndarray:
    """What an adapter adds to the matrix of a module, seen from all directions; its size is checked on the way."""
    changes = read_child(open_checkpoint(path), BASE).changes
    (own,) = changes.values()
    assert list(changes) == [module.replace(".", "_")]
    outputs, *inputs = SHAPES[module]
    product, squares = own.project(np.eye(outputs), np.eye(int(np.prod(inputs))))
    assert squares == pytest.approx(np.square(product).sum())
    return product.reshape(SHAPES[module])


def test_hadamard_products(tmp_path):
    a, b, c, d = drawn(12, 3), drawn(3, 8), drawn(12, 3), drawn(3, 8)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    config = {"peft_type": "LOHA", "r": 3, "alpha": 6, "alpha_pattern": {"down": 1}}
    found = change_of(written(tmp_path, "layers.0.up", tensors, config), "layers.0.up")
    np.testing.assert_allclose(found, 2 * (a @ b) * (c @ d), atol=1e-5)


def test_hadamard_products_of_kernels_with_cores(tmp_path):
    core, other = drawn(2, 2, 3, 3), drawn(2, 2, 3, 3)
    a, b, c, d = drawn(2, 6), drawn(2, 4), drawn(2, 6), drawn(2, 4)
    tensors = {"hada_t1": core, "hada_w1_a": a, "hada_w1_b": b, "hada_t2": other, "hada_w2_a": c, "hada_w2_b": d}
    config = {"peft_type": "LOHA", "r": 2, "alpha": 1}
    found = change_of(written(tmp_path, "layers.0.conv", tensors, config), "layers.0.conv")
    kernels = [np.einsum("ijkl,ip,jr->prkl", *own) for own in ((core, a, b), (other, c, d))]
    np.testing.assert_allclose(found, 0.5 * kernels[0] * kernels[1], atol=1e-5)


def test_low_rank_pairs_of_kernels_with_cores(tmp_path):
    up, middle, down = drawn(6, 2, 1, 1), drawn(2, 2, 3, 3), drawn(2, 4, 1, 1)
    tensors = {"lora_up.weight": up, "lora_mid.weight": middle, "lora_down.weight": down, "alpha": np.array(1.0, "f4")}
    written(tmp_path, "layers_0_conv", tensors, {}, "lora_unet_")
    found = change_of(tmp_path / "adapter_model.safetensors", "layers.0.conv")
    expected = 0.5 * np.einsum("or,rskl,si->oikl", up[..., 0, 0], middle, down[..., 0, 0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kronecker_products(tmp_path):
    outer, a, b = drawn(3, 2), drawn(4, 2), drawn(2, 4)
    config = {"peft_type": "LOKR", "r": 8, "rank_pattern": {"up": 2}, "alpha": 8}
    tensors = {"lokr_w1": outer, "lokr_w2_a": a, "lokr_w2_b": b}
    found = change_of(written(tmp_path, "layers.0.up", tensors, config), "layers.0.up")
    np.testing.assert_allclose(found, 4 * np.kron(outer, a @ b), atol=1e-5)


@pytest.mark.parametrize(("config", "scale"), [({"peft_type": "LOKR", "r": 8, "alpha": 4}, 0.5), ({}, 1.0)])
def test_kronecker_products_of_whole_matrices(tmp_path, config, scale):
    outer, inner = drawn(2, 2), drawn(3, 2, 3, 3)
    written(tmp_path, "layers.0.conv", {"lokr_w1": outer, "lokr_w2": inner}, config)
    path = tmp_path if config else tmp_path / "adapter_model.safetensors"
    expected = scale * np.kron(outer[:, :, None, None], inner)
    np.testing.assert_allclose(change_of(path, "layers.0.conv"), expected, atol=1e-5)


def test_the_alpha_of_lycoris(tmp_path):
    outer, a, b = drawn(3, 2), drawn(4, 2), drawn(2, 4)
    tensors = {"lokr_w1": outer, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": np.array(1, np.float32)}
    written(tmp_path, "layers_0_up", tensors, {}, "lora_unet_")
    found = change_of(tmp_path / "adapter_model.safetensors", "layers.0.up")
    np.testing.assert_allclose(found, 0.5 * np.kron(outer, a @ b), atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [("up", (12, 1)), ("down", (1, 12)), ("conv", (1, 6, 1, 1)), ("conv", (1, 4, 1, 1))],
)
def test_factors_of_activations(tmp_path, module, shape):
    module = f"layers.0.{module}"
    factors = drawn(*shape)
    config = {"peft_type": "IA3", "feedforward_modules": ["down"]}
    found = change_of(written(tmp_path, module, {"ia3_l": factors}, config), module)
    by_rows = factors.size == SHAPES[module][0]
    factors = factors.ravel().reshape((-1, *[1] * (len(SHAPES[module]) - 1 if by_rows else len(SHAPES[module]) - 2)))
    np.testing.assert_allclose(found, (factors - 1) * WEIGHTS[module], atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"hada_w1_a": drawn(12, 2), "hada_w1_b": drawn(2, 8)}, "lacks a tensor"),
        ({"lokr_w1": drawn(3, 3), "lokr_w2": drawn(4, 4)}, "has another shape"),
        ({"lokr_w2_a": drawn(4, 2), "lokr_w2_b": drawn(3, 4), "lokr_w1": drawn(3, 2)}, "has another shape"),
        ({"ia3_l": drawn(8, 1)}, "has another shape"),
        ({"ia3_l": np.float32(2)}, "has another shape"),
        ({"hada_w1_a": drawn(12, 0), "hada_w1_b": drawn(0, 8)}, "has another shape"),
        ({"lora_A.weight": drawn(2, 8)}, "lacks a tensor: lora_A.weight is alone"),
        ({"lora_A.weight": drawn(2, 8), "lora_B.weight": np.float32(1)}, "lacks a tensor"),
        ({"lora_mid.weight": drawn(2, 2, 3, 3)}, "lacks a tensor: lora_mid.weight is alone"),
        ({"lora_down.weight": drawn(2, 8, 1, 1), "lora_up.weight": drawn(12, 2, 1, 1),
          "lora_mid.weight": drawn(2, 2, 3, 3)}, "has another shape"),
        (LOW_RANK | {"lora_magnitude_vector": drawn(5)}, "has magnitudes of another number of rows"),
        (LOW_RANK | {"lora_A.weight": np.full((2, 8), np.nan, np.float32)}, None),
        ({"lora_embedding_A": drawn(2, 12)}, "lacks a tensor"),
        ({"lokr_w1": drawn(3, 2), "lokr_w2": drawn(4, 4), "dora_scale": drawn(12, 1)}, "has magnitudes of rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(tmp_path, tensors, reason):
    path = written(tmp_path, "layers.0.up", tensors, {})
    expected = f"does not fit the base: its module '.*up' {reason}" if reason else "tensor .*lora_A.* holds NaN or Inf"
    with pytest.raises(CheckpointError, match=expected) as told:
        read_child(open_checkpoint(path), BASE)
    assert ("does not fit" in str(told.value)) == bool(reason)


def test_embeddings_have_low_rank_changes_of_their_own(tmp_path):
    a, b = drawn(2, 12), drawn(8, 2)
    path = written(tmp_path, "layers.0.up", {"lora_embedding_A": a, "lora_embedding_B": b}, {"r": 2, "lora_alpha": 6})
    np.testing.assert_allclose(change_of(path, "layers.0.up"), 3 * (b @ a).T, atol=1e-5)

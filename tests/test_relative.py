"""What children change of their base, whatever the form of their files."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.relative.base import Base
from wsrl.relative.change import Dense, LowRank
from wsrl.relative.child import read_child
from wsrl.relative.metric import Metric
from wsrl.relative.vector import RelativeEncoder

WIDTH, HIDDEN = 24, 40
SHAPES = {"body.0.attn.query": (WIDTH, WIDTH), "body.0.up": (HIDDEN, WIDTH), "body.0.down": (WIDTH, HIDDEN)}
SHAPES |= {name.replace("0", "1"): shape for name, shape in SHAPES.items()}


Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def base_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tensors = {f"{name}.weight": rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    tensors |= {f"{name}.bias": rng.standard_normal(shape[0]).astype(np.float32) for name, shape in SHAPES.items()}
    return tensors | {"head.weight": rng.standard_normal((3, WIDTH)).astype(np.float32)}


ENCODER = RelativeEncoder(Base(Checkpoint("base", base_tensors(), {})))


def factors(rank: int, seed: int) -> Pairs:
    rng = np.random.default_rng([seed, 2])
    return {
        name: (rng.standard_normal((shape[0], rank)) / 10, rng.standard_normal((rank, shape[1])))
        for name, shape in SHAPES.items()
    }


def adapter(pairs: Pairs, alpha: float = 8.0, more: dict[str, np.ndarray] | None = None) -> Checkpoint:
    tensors = dict(more or {})
    for name, (up, down) in pairs.items():
        tensors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    scales = {f"base_model.model.{name}": alpha / len(down) for name, (_, down) in pairs.items()}
    return Checkpoint("adapter", tensors, {"adapter_scales": scales})


def merged(pairs: Pairs, alpha: float = 8.0) -> Checkpoint:
    tensors = base_tensors()
    for name, (up, down) in pairs.items():
        tensors[f"{name}.weight"] = (tensors[f"{name}.weight"] + alpha / len(down) * up @ down).astype(np.float32)
    return Checkpoint("merged", tensors, {})


def embed(checkpoint: Checkpoint) -> np.ndarray:
    return ENCODER.embed(read_child(checkpoint, ENCODER.base))[0]


@settings(max_examples=20)
@given(rank=st.integers(1, 20), seed=st.integers(0, 99))
def test_the_vector_depends_on_the_product_alone(rank: int, seed: int):
    pairs = factors(rank, seed)
    rng = np.random.default_rng([seed, 3])
    mixing = np.linalg.qr(rng.standard_normal((rank, rank)))[0] * np.exp(rng.uniform(-2, 2, rank))
    mixed = {name: (up @ mixing, np.linalg.solve(mixing, down)) for name, (up, down) in pairs.items()}
    np.testing.assert_allclose(embed(adapter(pairs)), embed(adapter(mixed)), atol=1e-5)


@settings(max_examples=20)
@given(rank=st.integers(1, 20), seed=st.integers(0, 99))
def test_merged_equals_adapter(rank: int, seed: int):
    vector, change = ENCODER.embed(read_child(adapter(factors(rank, seed)), ENCODER.base))
    other, size = ENCODER.embed(read_child(merged(factors(rank, seed)), ENCODER.base))
    np.testing.assert_allclose(vector, other, atol=2e-4)
    assert change > 0.1 and size == pytest.approx(change, rel=1e-4)


def test_magnitudes_equal_the_merged_weights():
    pairs, rng = factors(4, 5), np.random.default_rng(6)
    lengths = {name: rng.uniform(1, 8, shape[0]) for name, shape in SHAPES.items()}
    whole = merged(pairs)
    dense = dict(whole.tensors)
    for name, own in lengths.items():
        weight = np.asarray(dense[f"{name}.weight"])
        dense[f"{name}.weight"] = weight * (own / np.linalg.norm(weight, axis=1))[:, None].astype(np.float32)
    for end in ("", ".weight"):
        more = {f"base_model.model.{name}.lora_magnitude_vector{end}": own for name, own in lengths.items()}
        vector = embed(adapter(pairs, more=more))
        expected = embed(dataclasses.replace(whole, tensors=dense))
        assert np.linalg.norm(vector - embed(adapter(pairs))) > 1
        np.testing.assert_allclose(vector, expected, atol=2e-4)


@settings(max_examples=20)
@given(classes=st.integers(2, 20), seed=st.integers(0, 99))
def test_order_scale_and_common_shift_of_classes_do_not_matter(classes: int, seed: int):
    rng = np.random.default_rng([seed, 7])
    head = rng.standard_normal((classes, WIDTH)).astype(np.float32)
    moved = 3 * head[rng.permutation(classes)] + rng.standard_normal(WIDTH).astype(np.float32)
    own, other = (embed(adapter(factors(2, 1), more={"base_model.model.score.weight": h})) for h in (head, moved))
    np.testing.assert_allclose(own, other, atol=1e-5)
    third = embed(adapter(factors(2, 1), more={"base_model.model.score.weight": head * rng.uniform(0, 2, WIDTH)}))
    assert np.linalg.norm(own - third) > 0.1


@pytest.mark.parametrize("spelling", ["lora_unet_{}", "transformer.{}", "{}"])
def test_names_may_have_prefixes_and_underscores(spelling: str):
    pairs = factors(3, 9)
    tensors = {}
    for name, (up, down) in pairs.items():
        module = spelling.format(name.replace(".", "_") if "lora_" in spelling else name)
        tensors |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
    own = Checkpoint("other", dict(reversed(tensors.items())), {})
    np.testing.assert_allclose(embed(own), embed(adapter(pairs, alpha=3.0)), atol=1e-5)


def test_other_names_and_layouts_are_found_by_value():
    whole = merged({name: (0.3 * up, down) for name, (up, down) in factors(3, 10).items()}, alpha=1.0)
    names = {name: f"t{i}" for i, name in enumerate(reversed(list(whole.tensors)))}
    renamed = Checkpoint("renamed", {names[name]: np.asarray(whole.tensors[name]) for name in reversed(names)}, {})
    np.testing.assert_allclose(embed(renamed), embed(whole), atol=1e-5)


def test_formats_and_precision(tmp_path: Path):
    whole = {name: np.asarray(tensor) for name, tensor in merged(factors(3, 11)).tensors.items()}
    safetensors.numpy.save_file(whole, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **dict(reversed(whole.items())))  # pyright: ignore[reportArgumentType]
    rounded = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in whole.items()}
    safetensors.numpy.save_file(rounded, tmp_path / "c.safetensors")
    own, other, coarse = (embed(open_checkpoint(tmp_path / n)) for n in ("a.safetensors", "b.npz", "c.safetensors"))
    np.testing.assert_array_equal(own, other)
    assert np.linalg.norm(own - coarse) < 0.05 * np.linalg.norm(own)


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch):
    child = read_child(merged(factors(3, 12)), ENCODER.base).changes["body_0_up"]
    assert isinstance(child, Dense)
    sides = np.eye(HIDDEN)[:, :5], np.eye(WIDTH)[:, :6]
    whole = child.project(*sides)
    monkeypatch.setattr("wsrl.relative.change.BLOCK", 100)
    for one, other in zip(whole, child.project(*sides), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_low_rank_update_is_what_its_product_is():
    up, down = factors(4, 13)["body.0.up"]
    left, right = np.eye(HIDDEN)[:, :5], np.eye(WIDTH)[:, :6]
    found, product = LowRank(up, down, 0.5).project(left, right), 0.5 * up @ down
    np.testing.assert_allclose(found.product, left.T @ product @ right)
    assert found.squares == pytest.approx(np.square(product).sum())


def test_directions_are_leading_singular_vectors():
    weight = base_tensors()["body.0.up.weight"]
    found = ENCODER.base.directions("body_0_up", 5)
    u, s, vt = np.linalg.svd(weight.astype(np.float64))
    np.testing.assert_allclose(np.abs(found.left.T @ weight @ found.right), np.diag(s[:5]), atol=0.05 * s[0])
    assert found.squares == pytest.approx(np.square(s).sum())
    exact = ENCODER.base.directions("body_0_up", WIDTH)
    np.testing.assert_allclose(np.abs(exact.right.T @ vt.T), np.eye(WIDTH), atol=1e-4)
    assert u.shape == (HIDDEN, HIDDEN)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"other.lora_A.weight": np.ones((2, WIDTH)), "other.lora_B.weight": np.ones((WIDTH, 2))}, "module 'other'"),
        ({"body.0.up.lora_A.weight": np.ones((2, 9)), "body.0.up.lora_B.weight": np.ones((HIDDEN, 2))}, "shape"),
        ({"x.weight": np.ones((5, 9), np.float32)}, "fewer than half"),
        ({"body.0.up.bias": np.ones(HIDDEN, np.float32)}, "no matrix"),
        (
            {"body.0.up.hada_w1_a": np.ones((HIDDEN, 2)), "body.0.up.hada_w1_b": np.ones((2, WIDTH))},
            "module .* lacks a tensor",
        ),
    ],
)
def test_what_does_not_fit_is_told(tensors: dict[str, np.ndarray], reason: str):
    with pytest.raises(CheckpointError, match=f"^child: does not fit the base: .*{reason}"):
        read_child(Checkpoint("child", tensors, {}), ENCODER.base)


def test_a_base_without_a_matrix_is_told():
    with pytest.raises(CheckpointError, match="holds no matrix"):
        Base(Checkpoint("base", {"a.bias": np.ones(3, np.float32)}, {}))


def test_children_that_share_no_module_are_not_compared_by_it():
    pairs = factors(2, 14)
    attention = {name: own for name, own in pairs.items() if "query" in name}
    up = {"body.0.up": pairs["body.0.up"]}
    vectors = np.stack([embed(adapter(own)) for own in (pairs, attention, up)])
    similarity = Metric(vectors, ENCODER.blocks).similarities(vectors, vectors)
    np.testing.assert_allclose(similarity, [[1, 1, 1], [1, 1, 0], [1, 0, 1]], atol=1e-5)


def test_what_all_children_share_does_not_count():
    shared = embed(adapter(factors(2, 15)))
    vectors = np.stack([shared + 0.1 * embed(adapter(factors(2, seed))) for seed in range(30)])
    far = Metric(vectors, ENCODER.blocks).similarities(vectors, vectors)
    few = Metric(vectors[:5], ENCODER.blocks).similarities(vectors, vectors)
    assert np.abs(far / far.diagonal() - np.eye(30)).max() < 0.6 and few.min() > 0.9


def write_adapter(folder: Path, pairs: Pairs, alpha: float) -> None:
    """Writes an adapter as PEFT does."""
    folder.mkdir(parents=True)
    tensors = {name: np.asarray(t, np.float32) for name, t in adapter(pairs).tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha, "r": 2, "peft_type": "LORA"}))


def test_the_scale_of_an_adapter_counts(tmp_path: Path):
    for alpha in (1.0, 4.0):
        write_adapter(tmp_path / str(alpha), factors(2, 17), alpha)
    sizes = [ENCODER.embed(read_child(open_checkpoint(tmp_path / n), ENCODER.base))[1] for n in ("1.0", "4.0")]
    assert sizes[1] == pytest.approx(4 * sizes[0])

"""The weights vector: what it does not see, and what it does."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsrl.checkpoint import Checkpoint, CheckpointError, LazyTensor
from wsrl.signature import anchored, binormalization
from wsrl.signature.binormalization import Squares, binormalize, outer
from wsrl.signature.descriptor import Descriptor, describe
from wsrl.signature.digest import content_digest, tensor_digest, weights_digest
from wsrl.signature.hashing import gaussian, rademacher, uniform
from wsrl.signature.kernel_mean import distinct, embed, embed_lengths
from wsrl.signature.weights_vector import DIM, NARROW, WIDE, sign, version_hash
from wsrl.wiring.infer_wiring import infer_wiring

SHAPES = st.sampled_from([(8, 6), (12, 12), (5, 4, 3), (6, 5, 3, 3), (1, 9, 7), (7, 8, 1, 1)])


def tensor(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights with rows of unlike spread."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(5, shape) * rng.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1)))).astype(np.float32)


def values(array: np.ndarray) -> np.ndarray:
    """Of its descriptor."""
    own = describe(array)
    assert own is not None
    return own.values


@settings(max_examples=30)
@given(st.integers(0, 2**31), SHAPES)
def test_a_descriptor_sees_no_order_scale_sign_or_orientation(seed, shape):
    rng = np.random.default_rng(seed)
    original = tensor(seed, shape).astype(np.float64)
    changed = original
    for axis, length in enumerate(shape):
        # far larger ones leave a slice so little that it counts as dead
        factors = 2.0 ** rng.integers(-3, 4, length) * rng.choice([-1, 1], length)
        changed = changed * factors.reshape(-1, *[1] * (len(shape) - axis - 1))
        changed = np.take(changed, rng.permutation(length), axis)
    changed = changed.transpose(rng.permutation(len(shape)))
    np.testing.assert_allclose(values(changed.astype(np.float32)), values(original.astype(np.float32)), atol=1e-6)


def test_a_descriptor_tells_other_weights_apart():
    assert np.abs(values(tensor(0, (64, 64))) - values(tensor(1, (64, 64)))).max() > 1e-2


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_tensor_stays_nearer_than_another_one(bits):
    own, other = tensor(0, (64, 64)), tensor(1, (64, 64))
    step = np.abs(own).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    rounded = (np.round(own / step) * step).astype(np.float32)
    near = np.linalg.norm(values(rounded) - values(own))
    assert near < np.linalg.norm(values(other) - values(own))


@pytest.mark.parametrize("shape", [(40, 30), (12, 10, 3, 3), (1, 40, 30)])
def test_pieces_of_a_file_give_what_the_whole_gives(shape, monkeypatch):
    whole = values(tensor(3, shape))
    monkeypatch.setattr(binormalization, "KEPT", 0)
    monkeypatch.setattr(binormalization, "PIECE", 100)
    monkeypatch.setattr(binormalization, "STREAMED_PASSES", 100)
    np.testing.assert_allclose(values(tensor(3, shape)), whole, atol=1e-8)


def test_single_precision_gives_nearly_what_double_gives(monkeypatch):
    double = values(tensor(4, (64, 48)))
    monkeypatch.setattr(binormalization, "DOUBLE", 0)
    np.testing.assert_allclose(values(tensor(4, (64, 48))), double, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_very_small_and_large_weights_are_described(scale, monkeypatch):
    monkeypatch.setattr(binormalization, "DOUBLE", 0)
    np.testing.assert_allclose(values(tensor(5, (32, 32)) * np.float32(scale)), values(tensor(5, (32, 32))), atol=2e-6)


def test_binormalized_slices_have_one_mean_square():
    squares = Squares(tensor(0, (9, 7, 3)))
    scales = binormalize(squares)
    assert scales is not None
    scaled = squares.kept[0][2].reshape(9, 7, 3) * outer(scales)
    for axis in range(3):
        np.testing.assert_allclose(scaled.mean(tuple(i for i in range(3) if i != axis)), 1, atol=1e-6)


def test_dead_units_do_not_count():
    own = tensor(0, (20, 16))
    padded = np.zeros((24, 18), np.float32)
    padded[:20, :16] = own
    padded[21] = 1e-12  # what weight decay leaves
    np.testing.assert_allclose(values(padded), values(own), atol=1e-6)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.ones(7), np.ones((2, 3)), np.zeros(20)])
def test_tensors_without_information_are_left_out(array):
    assert describe(array.astype(np.float32)) is None


def test_a_triangular_matrix_which_cannot_be_scaled_has_finite_numbers():
    assert np.isfinite(values(np.triu(tensor(0, (30, 30))))).all()


@settings(max_examples=50)
@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=6), elements=st.floats(-1e3, 1e3, width=32)))
def test_any_finite_tensor_is_described_or_left_out(array):
    own = describe(array)
    assert own is None or (np.isfinite(own.values).all() and own.entries == array.size)


def test_repeated_tensors_count_once():
    own = {str(i): describe(tensor(seed, (20, 20))) for i, seed in enumerate((0, 1, 0))}
    assert all(own.values())
    assert list(distinct(own)) == ["0", "1"]  # type: ignore[arg-type]


def test_scalar_products_of_embeddings_are_about_the_kernel():
    def of(entries: int, value: float) -> Descriptor:
        return Descriptor(entries, (entries, 1), np.full(4, value), np.zeros(6))

    one, near, far = of(64, 0.0), of(64, 0.05), of(64, 1.0)
    for other, distance in ((near, 4 * (WIDE.moments * 0.05) ** 2), (far, 4 * WIDE.moments**2)):
        assert embed([one], WIDE) @ embed([other], WIDE) == pytest.approx(np.exp(-distance / 2), abs=0.15)
    assert embed([one], NARROW) @ embed([one], NARROW) == pytest.approx(1)
    assert not embed([], WIDE).any()


def test_parts_of_a_tensor_weigh_as_much_as_the_whole():
    whole, other = describe(tensor(0, (64, 16))), describe(tensor(1, (30, 20)))
    assert whole is not None and other is not None
    parts = [replace(whole, entries=256, parts=4)] * 4
    expected = embed([replace(whole, entries=1024), other], replace(WIDE, entries=0.0, network=0.0, taps=0.0))
    np.testing.assert_allclose(
        embed([*parts, other], replace(WIDE, entries=0.0, network=0.0, taps=0.0)), expected, atol=1e-12
    )


def test_lengths_are_a_set_that_sees_no_weights():
    one, more = describe(tensor(0, (64, 16))), describe(tensor(1, (16, 64)))
    assert one is not None and more is not None
    own = embed_lengths([one], 256, 10.0)
    np.testing.assert_allclose(embed_lengths([one, more], 256, 10.0), own, atol=1e-12)
    other = describe(tensor(0, (100, 30)))
    assert other is not None
    assert own @ own == pytest.approx(1) and abs(own @ embed_lengths([other], 256, 10.0)) < 0.3


def test_pseudo_random_numbers_never_change():
    assert rademacher("a", 5, 2, 6).tolist() == rademacher("a", 0, 7, 6)[5:].tolist()
    assert abs(rademacher("a", 0, 4096, 8).mean()) < 0.05
    drawn = gaussian("a", 2000, 2)
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert uniform("a", 1000).min() > 0 and uniform("a", 1000).max() < 1
    assert uniform("b", 1)[0] == pytest.approx(0.04237548648909456, abs=1e-15)


def mlp(seed: int = 0, widths: tuple[int, ...] = (20, 32, 24, 6)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases."""
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(o, i)).astype(np.float32) / np.float32(i**0.5), rng.normal(size=o).astype(np.float32))
        for i, o in pairwise(widths)
    ]


def checkpoint(layers: list[tuple[np.ndarray, np.ndarray]], flax: bool = False) -> Checkpoint:
    """Of an MLP, in PyTorch's or Flax's form."""
    tensors: dict[str, np.ndarray | LazyTensor] = {}
    for i, (weight, bias) in enumerate(layers):
        if flax:
            tensors |= {f"params/Dense_{i}/kernel": weight.T, f"params/Dense_{i}/bias": bias}
        else:
            tensors |= {f"{2 * i}.weight": weight, f"{2 * i}.bias": bias}
    return Checkpoint("x", tensors, {})


def signed(layers: list[tuple[np.ndarray, np.ndarray]], flax: bool = False):
    """The signature of an MLP."""
    own = checkpoint(layers, flax)
    return sign(own, infer_wiring(own))


def permuted(layers: list[tuple[np.ndarray, np.ndarray]], seed: int, scale: bool):
    """The same function: hidden units permuted and, for ReLU, scaled."""
    rng = np.random.default_rng(seed)
    changed = [(w.copy(), b.copy()) for w, b in layers]
    for i in range(len(layers) - 1):
        order = rng.permutation(len(changed[i][1]))
        factor = (2.0 ** rng.integers(-6, 7, len(order))).astype(np.float32) if scale else np.float32(1)
        weight, bias = changed[i]
        changed[i] = ((weight.T * factor).T[order], (bias * factor)[order])
        changed[i + 1] = ((changed[i + 1][0] / factor)[:, order], changed[i + 1][1])
    return changed


@pytest.mark.parametrize("scale", [False, True])
def test_copies_under_permutations_and_scales_have_one_vector(scale):
    own, copy = signed(mlp()), signed(permuted(mlp(), 1, scale))
    assert np.abs(own.vector - copy.vector).max() < 1e-5
    assert np.linalg.norm(own.vector) == pytest.approx(1)
    assert own.vector.shape == (DIM,)
    assert (own.digest == copy.digest) is not scale  # bits do not survive a scale


def test_another_format_gives_the_same_vector_and_digest():
    own, other = signed(mlp()), signed(mlp(), flax=True)
    assert np.abs(own.vector - other.vector).max() < 1e-6
    assert own.digest == other.digest


def test_half_precision_changes_the_vector_by_its_rounding():
    halved = [(w.astype(np.float16).astype(np.float32), b) for w, b in mlp()]
    assert signed(mlp()).vector @ signed(halved).vector > 1 - 1e-4


def test_a_repeated_head_counts_once():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(50, 16)).astype(np.float32)
    tied = {"embed_tokens.weight": words, "layers.0.weight": rng.normal(size=(16, 16)).astype(np.float32)}
    repeated = {**tied, "lm_head.weight": words}
    own, copy = (sign(c, infer_wiring(c)) for c in (Checkpoint("x", tied, {}), Checkpoint("x", repeated, {})))
    np.testing.assert_allclose(copy.vector, own.vector, atol=1e-6)
    assert copy.digest == own.digest


def test_a_child_is_nearer_to_its_parent_than_to_the_parents_siblings():
    parents = [mlp(seed) for seed in range(8)]
    rng = np.random.default_rng(1)
    children = [
        permuted([(w + 0.3 * w.std() * rng.normal(size=w.shape).astype(np.float32), b) for w, b in layers], 2, True)
        for layers in parents
    ]
    gallery = np.stack([signed(layers).vector for layers in parents])
    found = [int((gallery @ signed(layers).vector).argmax()) for layers in children]
    assert found == list(range(8))


def test_a_network_of_vectors_alone_has_a_vector():
    own = Checkpoint("x", {"lin.weight": tensor(0, (1, 64, 1, 1))}, {})
    assert np.linalg.norm(sign(own, infer_wiring(own)).vector) == pytest.approx(1)


def test_a_network_of_zeros_is_refused():
    own = Checkpoint("x.pt", {"weight": np.zeros((8, 8), np.float32)}, {})
    with pytest.raises(CheckpointError, match=r"x\.pt: all weights are 0"):
        sign(own, infer_wiring(own))


def test_inputs_are_the_anchor_and_outputs_where_there_are_none():
    own = checkpoint(mlp())
    found = anchored.find_anchors(infer_wiring(own), list(own.tensors))
    assert {name: anchor.fixed for name, anchor in found.items()} == {"0.weight": (1,)}
    found = anchored.find_anchors(infer_wiring(own), ["2.weight", "4.weight"])
    assert {name: anchor.fixed for name, anchor in found.items()} == {"4.weight": (0,)}


@pytest.mark.parametrize(
    ("op", "shape", "weight"), [("Conv", [1, 1, 9, 9], (8, 1, 3, 3)), ("Gemm", [1, 4, 5], (8, 20))]
)
def test_gray_images_and_flattened_inputs_are_anchors_in_graphs_as_by_names(op, shape, weight):
    own = {"0.weight": tensor(0, weight), "3.weight": tensor(1, (5, 8))}

    def node(op: str, reads: list[str], output: str, **attributes: object) -> dict:
        return {"op": op, "name": output, "inputs": reads, "outputs": [output], "attributes": attributes}

    first = [node("Flatten", ["x"], "f", axis=1)] if op == "Gemm" else []
    nodes = [*first, node(op, ["f" if first else "x", "0.weight"], "h", transB=1), node("Relu", ["h"], "a")]
    nodes += [] if first else [node("GlobalAveragePool", ["a"], "p"), node("Flatten", ["p"], "a", axis=1)]
    nodes.append(node("Gemm", ["a", "3.weight"], "y", transB=1))
    graph = {"nodes": nodes, "inputs": [{"name": "x", "shape": shape}], "outputs": [{"name": "y", "shape": [1, 5]}]}
    wirings = [infer_wiring(Checkpoint("x", own, metadata)) for metadata in ({}, {"graph": graph})]
    found = [anchored.find_anchors(wiring, list(own)) for wiring in wirings]
    assert found[0] == found[1] and list(found[0]) == ["0.weight"]


def test_a_sketch_does_not_depend_on_where_the_fixed_axis_lies(monkeypatch):
    weight = tensor(0, (30, 20))
    first = anchored.sketch(weight, anchored.Anchor((1,), (0,)))
    second = anchored.sketch(np.ascontiguousarray(weight.T), anchored.Anchor((0,), (1,)))
    assert first is not None and second is not None
    np.testing.assert_allclose(first, second, atol=1e-12)
    monkeypatch.setattr(anchored, "PIECE", 50)
    np.testing.assert_allclose(anchored.sketch(weight, anchored.Anchor((1,), (0,))), first, atol=1e-12)
    kernel = tensor(1, (8, 3, 5, 5))
    there = anchored.sketch(kernel, anchored.Anchor((1, 2, 3), (0,)))
    moved = anchored.sketch(kernel.transpose(2, 3, 1, 0).copy(), anchored.Anchor((2, 0, 1), (3,)))
    assert there is not None and moved is not None
    np.testing.assert_allclose(there, moved, atol=1e-12)


def test_digests_see_values_and_nothing_else(tmp_path):
    own = tensor(0, (6, 5))
    assert tensor_digest(own) == tensor_digest(own.T.copy()) == tensor_digest(own.ravel()[::-1].copy())
    changed = own.copy()
    changed[0, 0] = np.nextafter(changed[0, 0], np.float32(9))
    assert tensor_digest(changed) != tensor_digest(own)
    assert tensor_digest(np.array([0.0, -0.0], np.float32)) == tensor_digest(np.zeros(2, np.float32))
    assert weights_digest([(1, 2, 3), (4, 5, 6)]) == weights_digest([(4, 5, 6), (1, 2, 3), (1, 2, 3)])
    (tmp_path / "a").write_bytes(b"abc")
    assert content_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    before = content_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_digest(tmp_path) != before
    with pytest.raises(CheckpointError, match="cannot be read"):
        content_digest(tmp_path / "missing")


def test_the_hash_stands_for_the_constants(monkeypatch):
    before = version_hash()
    monkeypatch.setattr("wsrl.signature.weights_vector.SHARES", {"wide": 1.0})
    assert version_hash() != before

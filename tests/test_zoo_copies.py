import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.zoo.copies import KINDS, add_noise, copy_chunks, draw_copies, prune, quantize
from wsrl.zoo.manifest import Record
from wsrl.zoo.recipes import Run

SHAPES = {
    "params/Dense_0/kernel": (7, 5),
    "params/Dense_0/bias": (5,),
    "params/Conv_0/kernel": (3, 3, 2, 4),
    "params/query/bias": (2, 3),
    "batch_stats/BatchNorm_0/var": (4,),
    "params/empty/kernel": (0, 3),
    "params/zero/kernel": (3, 3),
}
MATRICES = {name for name in SHAPES if name.endswith("kernel")}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    tensors = {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
    tensors["batch_stats/BatchNorm_0/var"] = np.float32([0, 1e-6, 1, 5])
    tensors["params/zero/kernel"][:] = 0
    return tensors


seeds, scales = st.integers(0, 2**31), st.floats(1e-6, 1e6)


@settings(max_examples=30)
@given(st.sampled_from(list(KINDS)), seeds, scales)
def test_copies_are_new_tensors_of_the_same_form(kind, seed, scale):
    tensors, before = draw(seed, scale), draw(seed, scale)
    copies = KINDS[kind](tensors, seed)
    assert list(copies) == list(tensors)
    for name, copy in copies.items():
        assert copy.dtype == np.float32 and copy.shape == SHAPES[name] and np.isfinite(copy).all()
        np.testing.assert_array_equal(tensors[name], before[name])
        np.testing.assert_array_equal(copy, KINDS[kind](before, seed)[name])
        if kind != "noisy" and name not in MATRICES:
            np.testing.assert_array_equal(copy, tensors[name])
    assert any(not np.array_equal(copies[name], tensors[name]) for name in tensors)


@settings(max_examples=30)
@given(seeds, scales)
def test_quantised_matrices_have_the_levels_of_int8(seed, scale):
    tensors = draw(seed, scale)
    for name, copy in quantize(tensors).items():
        if name in MATRICES and tensors[name].any():
            step = np.abs(tensors[name]).max() / 127
            levels = copy / step
            np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
            assert np.abs(levels).max() == pytest.approx(127)
            assert np.abs(copy - tensors[name]).max() <= 0.5001 * step


@settings(max_examples=30)
@given(seeds, scales)
def test_the_smaller_half_is_pruned(seed, scale):
    tensors = draw(seed, scale)
    for name, copy in prune(tensors).items():
        if name in MATRICES and tensors[name].any():
            zero = copy == 0
            assert zero.sum() == copy.size // 2
            assert np.abs(tensors[name][zero]).max() <= np.abs(copy[~zero]).min()
            np.testing.assert_array_equal(copy[~zero], tensors[name][~zero])


def test_noise_is_one_percent_of_the_deviation():
    rng = np.random.default_rng(0)
    tensors = {
        name: (scale * rng.standard_normal((200, 200)) + 3).astype(np.float32)
        for name, scale in (("a", 1e-3), ("b", 50))
    }
    copies = add_noise(tensors, 1)
    for name, tensor in tensors.items():
        assert (copies[name] - tensor).std() / tensor.std() == pytest.approx(0.01, rel=0.05)
    assert not np.array_equal(add_noise(tensors, 2)["a"], copies["a"])
    variances = {"var": np.float32([0, 1e-9, 3, 100])}
    assert all((add_noise(variances, seed)["var"] >= 0).all() for seed in range(20))


def record(i, **extra):
    return Record(f"r{i}/9", "p", "t", "d", "mlp", "relu", i, None, 9, 0.5, "train", {"run": f"r{i}", **extra})


def test_kinds_take_turns_and_no_checkpoint_is_copied_twice():
    records = [record(i) for i in range(9)] + [record(10, copy="noisy")]
    copies = draw_copies(records, 7, 0)
    assert [copy.kind for copy in copies] == [*KINDS, *KINDS, next(iter(KINDS))]
    assert len({copy.of.id for copy in copies}) == 7 and not any("copy" in copy.of.extra for copy in copies)
    assert copies == draw_copies(records, 7, 0) != draw_copies(records, 7, 1)
    assert len(draw_copies(records, 100)) == 9 and draw_copies(records, 0) == draw_copies([], 5) == []


def test_chunks_are_of_one_architecture():
    fields = {"task": "t", "catalogue": "main", "split": "train", "seen": True, "seed": 0, "parent": None}
    fields |= {"teacher": None, "lineage": "l", "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0}
    fields |= {"init_scale": 1.0, "dropout": 0.0, "data_fraction": 1.0, "label_noise": 0.0, "class_order": (0, 1)}
    runs = {f"r{i}": Run(id=f"r{i}", family="mlp", variant=i % 2, **fields) for i in range(9)}
    copies = draw_copies([record(i) for i in range(9)], 9)
    chunks = list(copy_chunks(copies, runs, 3))
    assert sorted(len(chunk) for chunk in chunks) == [1, 2, 3, 3]
    assert all(len({runs[copy.of.get("run")].model for copy in chunk}) == 1 for chunk in chunks)
    assert {copy.run for chunk in chunks for copy in chunk} == {copy.run for copy in copies}

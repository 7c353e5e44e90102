import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from experiments.proofs.samples_packed import SAMPLES, packed_tensors, packed_words
from wsrl.checkpoint import CheckpointError, LazyTensor
from wsrl.readers import open_checkpoint
from wsrl.readers.packed_weights import unpack_words

PACKED = packed_tensors()


def lazy(arrays):
    return {name: LazyTensor.of(np.asarray(array), "file", name) for name, array in arrays.items()}


@pytest.mark.parametrize("name", PACKED)
def test_conventions(name):
    arrays, target, expected = PACKED[name]
    tensors = unpack_words(lazy({"a.bias": np.ones(3, np.float32), **arrays, "z.bias": np.ones(3, np.float32)}), None)
    assert list(tensors) == ["a.bias", target, "z.bias"]
    assert tensors[target].shape == expected.shape and tensors[target].name == target
    np.testing.assert_allclose(np.asarray(tensors[target]), expected, rtol=1e-5)
    for start, stop in ((1, 2), (0, 3), (2, 2)):
        np.testing.assert_allclose(tensors[target].rows(start, stop), expected[start:stop], rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 8])
def test_other_widths_and_the_second_version_of_gptq(bits):
    rng = np.random.default_rng(0)
    codes, zero = rng.integers(0, 1 << bits, (32, 16)), rng.integers(0, 1 << bits, (2, 16))
    scale = rng.uniform(1, 2, (2, 16)).astype(np.float32)
    arrays = {"qweight": packed_words(codes.T, bits).T.copy(), "qzeros": packed_words(zero, bits), "scales": scale}
    for version, less in (("gptq", 1), ("gptq_v2", 0)):
        config = {"quantization_config": {"checkpoint_format": version}}
        found = np.asarray(unpack_words(lazy(arrays), config)["weight"])
        group = np.arange(32) // 16
        np.testing.assert_allclose(found, ((codes - zero[group] - less) * scale[group]).T, rtol=1e-5)


def test_bytes_that_are_stored_as_numbers_of_another_type():
    arrays, _, expected = PACKED["nf4"]
    pairs = arrays["w.weight"][:14].reshape(-1, 1).view(np.uint8)
    flat = np.concatenate([pairs.ravel(), arrays["w.weight"][14:].ravel(), np.zeros(1, np.uint8)])
    stored = flat.view(ml_dtypes.bfloat16).reshape(-1, 1)
    tensor = unpack_words(lazy({**arrays, "w.weight": stored}), None)["w.weight"]
    np.testing.assert_allclose(np.asarray(tensor), expected, rtol=1e-5)


@pytest.mark.parametrize("name", PACKED)
def test_parts_that_are_missing_or_do_not_fit_leave_the_rest(name):
    arrays, _, _ = PACKED[name]
    for part, array in arrays.items():
        if not part.endswith(("g_idx", "zero_point")):
            missing = {n: a for n, a in arrays.items() if n != part}
            assert set(unpack_words(lazy(missing), None)) == set(missing)
        misfit = {**arrays, part: np.zeros((3, *array.shape), array.dtype)}
        assert set(unpack_words(lazy(misfit), None)) == set(misfit)


def test_zero_points_of_fewer_groups_than_the_scales_do_not_fit():
    arrays, _, _ = PACKED["compressed, reordered"]
    cut = {**arrays, "w.weight_zero_point": arrays["w.weight_zero_point"][:, :1]}
    assert set(unpack_words(lazy(cut), None)) == set(cut)


@pytest.mark.parametrize(("name", "part"), [("gptq", "w.g_idx"), ("compressed, reordered", "w.weight_g_idx")])
def test_an_order_that_is_not_of_integers_does_not_fit(name, part):
    arrays = {**PACKED[name][0], part: PACKED[name][0][part].astype(np.float32)}
    assert set(unpack_words(lazy(arrays), None)) == set(arrays)


def test_a_scale_for_all_that_is_zero():
    arrays = {**PACKED["nvfp4"][0], "w.weight_global_scale": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"scale of tensor .* is zero"):
        np.asarray(unpack_words(lazy(arrays), None)["w.weight"])


def test_words_that_are_not_understood_are_told(tmp_path):
    arrays = {"w.qweight": np.ones((3, 32), np.int32), "w.scales": np.ones((200, 1), np.float16)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").metadata["unread"] == {"w.qweight": 96}
    safetensors.numpy.save_file(arrays | {"w.scales": np.ones(2, np.float16)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"packed in a way that is not known, as tensor 'w.qweight' of int32"):
        open_checkpoint(tmp_path / "a.safetensors")


def test_the_size_of_a_group_is_taken_from_the_settings_or_from_other_tensors():
    words, factors = np.zeros((8, 8), np.uint32), np.ones((8, 1), np.float32)  # 256 bits a group
    arrays = {"l.weight": words, "l.scales": factors, "l.biases": factors}
    for config, others, inputs in (
        ({}, {}, 64),
        ({}, {"norm.weight": np.ones(32, np.float32)}, 32),
        ({"quantization": {"group_size": 128, "bits": 2}}, {}, 128),
        ({"quantization": {"group_size": 64, "l": {"group_size": 32, "bits": 8}}}, {}, 32),
    ):
        assert unpack_words(lazy(arrays | others), config)["l.weight"].shape == (8, inputs)


def test_objects_of_several_tensors_in_a_pickle(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["pytorch-subclass"](tmp_path))
    assert list(checkpoint.tensors) == ["l.weight", "l.bias"]
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["l.weight"]), np.arange(-6, 6).reshape(4, 3) / 2)

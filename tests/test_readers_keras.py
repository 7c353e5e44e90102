import io
import json
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.proofs.samples_keras import KERAS_CONFIG, SAMPLES, arrays
from wsrl.checkpoint import CheckpointError
from wsrl.readers import keras, open_checkpoint
from wsrl.readers.chunk_grid import ChunkGrid
from wsrl.readers.keras_names import layer_configs, weight_names


@pytest.mark.parametrize("name", ["keras", "keras-weights", "keras-archive", "keras-shards"])
def test_all_layouts_give_the_same_names_and_values(tmp_path, name):
    checkpoint = keras.open_file(SAMPLES[name](tmp_path))
    assert checkpoint.tensors.keys() == arrays().keys()
    for key, array in arrays().items():
        np.testing.assert_array_equal(np.asarray(checkpoint.tensors[key]), array)
        np.testing.assert_array_equal(checkpoint.tensors[key].rows(1, 3), array[1:3])
    assert checkpoint.metadata.get("keras_config", KERAS_CONFIG) == KERAS_CONFIG
    assert ("keras_config" in checkpoint.metadata) == (name in ("keras", "keras-archive"))


@pytest.mark.parametrize(
    ("layer", "weight", "name"),
    [
        ("dense_1", "dense_1/kernel:0", "dense_1/kernel"),
        ("dense", "sequential/dense/bias", "dense/bias"),
        ("dense", "dense/dense/kernel:0", "dense/kernel"),
        ("lstm", "lstm/lstm_cell/recurrent_kernel:0", "lstm/lstm_cell/recurrent_kernel"),
        ("dense_1", "dense_1_W", "dense_1/dense_1_W"),
        ("top_level_model_weights", "scale:0", "scale"),
    ],
)
def test_legacy_names(layer, weight, name):
    assert keras._legacy_name(layer, weight) == name


@pytest.mark.parametrize(
    ("group", "shapes", "config", "names"),
    [
        ("conv2d_3", [(3, 3, 2, 4), (4,)], None, ["kernel", "bias"]),
        ("query_dense", [(8, 2, 4), (2, 4)], None, ["kernel", "bias"]),
        ("cell", [(5, 12), (3, 12)], None, ["kernel", "recurrent_kernel"]),
        ("embedding", [(9, 4)], None, ["embeddings"]),
        ("separable_conv2d", [(3, 3, 2, 1), (1, 1, 2, 4)], None, ["depthwise_kernel", "pointwise_kernel"]),
        ("batch_normalization", [(4,)] * 4, None, ["gamma", "beta", "moving_mean", "moving_variance"]),
        ("batch_normalization", [(4,)] * 3, None, ["var0", "var1", "var2"]),  # gamma or beta: not told
        ("batch_normalization", [(4,)] * 3, {"scale": False}, ["beta", "moving_mean", "moving_variance"]),
        ("batch_normalization_1", [(4,)] * 2, None, ["moving_mean", "moving_variance"]),
        ("layer_normalization", [(4,)], {"center": False}, ["gamma"]),
        ("layer_normalization", [(4,)] * 3, {}, ["var0", "var1", "var2"]),
        ("my_layer", [(4,), (4, 4)], None, ["var0", "var1"]),
        ("dense", [], None, []),
    ],
)
def test_names_of_numbered_weights(group, shapes, config, names):
    assert weight_names(group, shapes, config) == names


def test_configurations_of_inner_models():
    inner = {"class_name": "Functional", "config": {"name": "inner", "layers": [KERAS_CONFIG]}}
    assert set(layer_configs(inner)) == {"inner", "sequential", "dense", "bn", "head"}
    assert layer_configs(None) == {}


def test_layers_of_one_name_keep_the_names_of_their_groups(tmp_path):
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file.create_group("vars")
        for group in ("encoder", "decoder"):
            variables = file.create_group(f"{group}/vars")
            variables.attrs["name"] = "net"
            variables.create_dataset("0", data=np.ones((2, 2), np.float32))
    assert keras.open_file(tmp_path / "a.weights.h5").tensors.keys() == {"encoder/kernel", "decoder/kernel"}


def test_other_files_keep_their_paths_and_types(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest", userblock_size=512) as file:
        file["big/endian"] = np.arange(6, dtype=">f8").reshape(2, 3)
        file["half"] = np.arange(3, dtype=np.float16)
        file["scalar"] = np.float32(2)
        file["text"] = "not a tensor"
        file["bfloat16"] = np.ones(3, ml_dtypes.bfloat16)
        file["bfloat16"].attrs["dtype"] = "bfloat16"
        file["alias"] = file["half"]
        for i in range(20):  # so many that the group is stored in the newer, dense form
            file[f"many/{i}"] = np.full(2, i, np.float32)
    content = path.read_bytes()
    (tmp_path / "b.h5").write_bytes(content[512:])  # without the block that belongs to the user
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "b.h5")
    with h5py.File(path, "r") as theirs, h5py.File(tmp_path / "c.h5", "w", libver="latest") as file:
        for key in theirs:
            theirs.copy(key, file)
    checkpoint = open_checkpoint(tmp_path / "c.h5")
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["big/endian"]), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["many/17"]), [17, 17])
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["bfloat16"]), np.ones(3))
    assert np.asarray(checkpoint.tensors["scalar"]) == 2
    assert checkpoint.metadata["left_out"] == ("/text",)


def write_external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["secret"] = np.ones(3, np.float32)
    file["linked"] = h5py.ExternalLink("other.h5", "secret")


def write_external_storage(file, folder):
    (folder / "raw").write_bytes(bytes(64))
    file.create_dataset("raw", (16,), np.float32, external=[(str(folder / "raw"), 0, 64)])


def write_virtual(file, folder):
    layout = h5py.VirtualLayout((3,), np.float32)
    layout[:] = h5py.VirtualSource(folder / "other.h5", "secret", (3,))
    file.create_virtual_dataset("virtual", layout)


def write_unstored(file, folder):
    file.create_dataset("huge", (1 << 20, 1 << 20), np.float32)


def write_unstored_chunks(file, folder):
    file.create_dataset("huge", (1 << 20, 1 << 20), np.float32, chunks=(1024, 1024), fillvalue=1)


def write_bomb(file, folder):
    file.create_dataset("zeros", (18 << 20,), np.float32, chunks=(1 << 20,), compression="gzip", fillvalue=1)
    file["zeros"][:] = 0


def write_loop(file, folder):
    file["group/loop"] = file["/"]


def write_unknown_filter(file, folder):
    file.create_dataset("lzf", data=np.zeros((64, 64), np.float32), compression="lzf")


WRITERS = [value for name, value in sorted(globals().items()) if name.startswith("write_")]


@pytest.mark.parametrize("write", WRITERS)
def test_what_leads_out_or_blows_up_is_refused(tmp_path, write):
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "folder" / "a.h5", "w") as file:
        file["fine"] = np.ones(3, np.float32)
        write(file, tmp_path / "folder")
    with pytest.raises(CheckpointError, match=r"a\.h5: .*; "):
        open_checkpoint(tmp_path / "folder" / "a.h5")


def test_a_soft_link_that_leads_nowhere_is_left_out(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["fine"] = np.ones(3, np.float32)
        file["dangling"] = h5py.SoftLink("/missing")
    checkpoint = open_checkpoint(tmp_path / "a.h5")
    assert checkpoint.tensors.keys() == {"fine"} and checkpoint.metadata["left_out"] == ("/dangling",)


def test_overlapping_data_sets_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "ab":
            file[name] = np.full(8, ord(name), np.float32)
        a, b = (file[name].id.get_offset() for name in "ab")
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content.replace(b.to_bytes(8, "little"), (a + 16).to_bytes(8, "little")))
    with pytest.raises(CheckpointError, match="overlaps"):
        open_checkpoint(tmp_path / "a.h5")


def test_a_missing_layer_is_named(tmp_path):
    path = SAMPLES["keras"](tmp_path)
    with h5py.File(path, "a") as file:
        del file["model_weights/bn"]
    with pytest.raises(CheckpointError, match="layer 'bn'"):
        open_checkpoint(path)


def test_a_broken_configuration_is_named(tmp_path):
    with zipfile.ZipFile(SAMPLES["keras-archive"](tmp_path)) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "[]")
        archive.writestr("model.weights.h5", weights)
    with pytest.raises(CheckpointError, match=r"its config\.json"):
        open_checkpoint(tmp_path / "b.keras")


def test_a_compressed_archive(tmp_path):
    with zipfile.ZipFile(SAMPLES["keras-archive"](tmp_path)) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(KERAS_CONFIG))
        archive.writestr("model.weights.h5", weights)
    assert open_checkpoint(tmp_path / "b.keras").tensors.keys() == arrays().keys()


@settings(max_examples=50)
@given(st.data())
def test_rows_of_a_grid_of_chunks(data):
    shape = data.draw(st.lists(st.integers(1, 7), max_size=3).map(tuple))
    chunk = tuple(data.draw(st.integers(1, 8)) for _ in shape)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    padded = np.full([-(-n // c) * c for n, c in zip(shape, chunk, strict=True)], -1, np.float32)
    padded[tuple(map(slice, shape))] = array

    def read(place):
        return padded[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunk, strict=True))]

    rows = shape[0] if shape else 1
    start, stop = sorted(data.draw(st.integers(0, rows)) for _ in range(2))
    expected = (array if shape else array.reshape(1))[start:stop]
    np.testing.assert_array_equal(ChunkGrid(shape, array.dtype, chunk, read).rows(start, stop), expected)


def test_quantized_layers(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["keras-quantized"](tmp_path))
    tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    layers = ("dense/kernel", "dense/bias", "embedding/embeddings", "dense_1/kernel", "dense_1/bias")
    more = ("embedding_1/embeddings", "einsum_dense/kernel", "dense_2/kernel", "dense_2/bias")
    assert set(tensors) == {*layers, *more} and "unread" not in checkpoint.metadata
    rng = np.random.default_rng(0)
    codes, group = rng.integers(-127, 128, (4, 6)).astype(np.int8), [0, 0, 1, 1]
    scale, zero = rng.uniform(1, 2, (2, 3)).astype(np.float32), rng.integers(-8, 8, (2, 3))
    bytes_ = codes[:, :2].astype(np.uint8)
    nibbles = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(4, 4).astype(int)
    nibbles -= 16 * (nibbles > 7)
    expected = {
        "dense/kernel": codes / np.arange(1, 7),
        "embedding/embeddings": codes / np.arange(1, 5)[:, None],
        "dense_1/kernel": (nibbles[:, :3] - zero[group]) * scale[group],
        "embedding_1/embeddings": (nibbles[:3] - zero.T[:, group]) * scale.T[:, group],
        "einsum_dense/kernel": codes.reshape(4, 2, 3) / 2,
    }
    for name, array in expected.items():
        np.testing.assert_allclose(tensors[name], array, rtol=1e-5)
        np.testing.assert_allclose(checkpoint.tensors[name].rows(1, 3), array[1:3], rtol=1e-5)


@pytest.mark.parametrize(("mode", "read"), [("int8", True), ("int4", False)])
def test_codes_are_left_where_the_configuration_packs_them_in_another_way(tmp_path, mode, read):
    codes, scale = np.ones((20, 6), np.int8), np.ones(6, np.float32)
    config = {"name": "dense", "dtype": {"class_name": "QuantizedDTypePolicy", "config": {"mode": mode}}}
    model = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": config}]}}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for layer, arrays in {"dense": (codes, scale), "dense_1": (np.ones((20, 10), np.float32),)}.items():
            held = file.create_group(f"layers/{layer}/vars")
            held.attrs["name"] = layer
            for i, array in enumerate(arrays):
                held.create_dataset(str(i), data=array)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", weights.getvalue())
    checkpoint = open_checkpoint(tmp_path / "a.keras")
    assert ("dense/kernel" in checkpoint.tensors) == read == ("unread" not in checkpoint.metadata)


def test_layers_without_names_are_told_by_the_order_of_the_configuration(tmp_path):
    def dense(name):
        return {"class_name": "Dense", "config": {"name": name}}

    inner = {"class_name": "Sequential", "config": {"name": "tower", "layers": [dense("dense_9")]}}
    model = {"class_name": "Sequential", "config": {"layers": [dense("dense_1"), inner, dense("dense")]}}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for number, group in enumerate(("layers/dense", "layers/sequential/layers/dense", "layers/dense_1")):
            file.create_dataset(f"{group}/vars/0", data=np.full((2, 3), number, np.float32))
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(model))
        archive.writestr("model.weights.h5", weights.getvalue())
    tensors = open_checkpoint(tmp_path / "a.keras").tensors
    found = {name: float(np.asarray(tensor)[0, 0]) for name, tensor in tensors.items()}
    assert found == {"dense_1/kernel": 0, "tower/dense_9/kernel": 1, "dense/kernel": 2}

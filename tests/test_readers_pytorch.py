import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs import torch_files
from experiments.proofs.samples import write
from experiments.proofs.torch_files import Call, Name, Storage, ordered, storage, tensor, view, zip_bytes
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def opened(tmp_path, value, storages, **options):
    return open_checkpoint(write(tmp_path / "a.pt", zip_bytes(value, storages, **options)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_types_and_compression(tmp_path, dtype, compression):
    array = ONE.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    value, storages = torch_files.state_dict({"w": array, "s": array[0, 1]})
    tensors = opened(tmp_path, value, storages, compression=compression).tensors
    assert tensors["w"].dtype == dtype and tensors["s"].shape == ()
    np.testing.assert_array_equal(np.asarray(tensors["w"]), ONE)
    np.testing.assert_array_equal(tensors["w"].rows(1, 2), ONE[1:])


@given(st.data())
def test_views_with_offsets_and_strides(tmp_path_factory, data):
    base = np.arange(60, dtype=np.float32)
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    strides = tuple(data.draw(st.integers(0, 8)) for _ in shape)
    reach = sum(max(n - 1, 0) * stride for n, stride in zip(shape, strides, strict=True))
    offset = data.draw(st.integers(0, 59))
    stored = storage(base, 0)
    path = tmp_path_factory.mktemp("any") / "a.pt"
    write(path, zip_bytes({"w": view(stored, offset, shape, strides), "b": view(stored, 0, (7,), (1,))}, [stored]))
    if 0 not in shape and offset + reach >= 60:
        with pytest.raises(CheckpointError, match="reaches beyond its storage"):
            open_checkpoint(path)
        return
    found = open_checkpoint(path).tensors["w"]
    expected = np.array([offset + np.dot(at, strides) for at in np.ndindex(*shape)], np.float32).reshape(shape)
    np.testing.assert_array_equal(np.asarray(found), expected)
    if shape:
        np.testing.assert_array_equal(found.rows(0, shape[0] // 2), expected[: shape[0] // 2])


def test_types_without_a_storage_class(tmp_path):
    array = ONE.astype(ml_dtypes.float8_e4m3fn)
    stored = Storage("UntypedStorage", "0", array.view(np.uint8).ravel())
    arguments = (stored, 0, (2, 3), (3, 1), False, ordered({}), Name("torch", "float8_e4m3fn"))
    found = opened(tmp_path, {"w": Call(Name("torch._utils", "_rebuild_tensor_v3"), arguments)}, [stored])
    assert found.tensors["w"].dtype == "float8_e4m3fn"
    np.testing.assert_array_equal(np.asarray(found.tensors["w"]), ONE)


def test_parameters_and_subclasses(tmp_path):
    plain = tensor(ONE, 0)
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (plain, True, ordered({})))
    rebuild = (Name("torch._utils", "_rebuild_tensor_v2"), Name("mypackage", "MyTensor"), plain.arguments, {})
    subclass = Call(Name("torch._tensor", "_rebuild_from_type_v2"), rebuild)
    for name, value in {"p": parameter, "s": subclass}.items():
        tensors = opened(tmp_path, {name: value}, [plain.arguments[0]]).tensors
        np.testing.assert_array_equal(np.asarray(tensors[name]), ONE)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantised_tensors(tmp_path, axis):
    integers = np.arange(-3, 3, dtype=np.int8).reshape(2, 3)
    stored = Storage("QInt8Storage", "0", integers.ravel())
    storages = [stored]
    scale, zero = np.float64(0.5), np.int64(1)
    quantizer = (Name("torch", "per_tensor_affine"), 0.5, 1)
    if axis is not None:
        scale, zero = np.arange(1.0, 1 + integers.shape[axis]), np.arange(integers.shape[axis])
        scales, zeros = tensor(scale, 1), tensor(zero, 2)
        storages += [scales.arguments[0], zeros.arguments[0]]
        quantizer = (Name("torch", "per_channel_affine"), scales, zeros, axis)
    arguments = (stored, 0, (2, 3), (3, 1), quantizer, False, ordered({}))
    found = opened(tmp_path, {"w": Call(Name("torch._utils", "_rebuild_qtensor"), arguments)}, storages).tensors["w"]
    along = (slice(None), None) if axis == 0 else ...
    expected = (integers - zero[along]) * scale[along]
    np.testing.assert_allclose(np.asarray(found), expected)
    np.testing.assert_allclose(found.rows(1, 2), expected[1:])


def test_big_endian_storages(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    data = zip_bytes(value, [Storage("FloatStorage", "0", storages[0].content.astype(">f4"))])
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    found = open_checkpoint(write(tmp_path / "a.pt", file.getvalue())).tensors["w"]
    np.testing.assert_array_equal(np.asarray(found), ONE)


def test_script_modules(tmp_path):
    weight, bias = tensor(ONE, 0), tensor(ONE[0], 1)
    inner = torch_files.script_module({"weight": weight, "training": True})
    module = torch_files.script_module(
        {"fc": inner, "bias": bias, "sizes": Call(Name("torch.jit._pickle", "build_intlist"), ([1],))}
    )
    found = opened(tmp_path, module, [weight.arguments[0], bias.arguments[0]], script=True)
    assert found.metadata["framework"] == "torchscript"
    assert found.tensors.keys() == {"fc.weight", "bias"}


def test_frozen_script_modules(tmp_path):
    weight = tensor(ONE, 0)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", torch_files.dumps(torch_files.script_module({"training": False})))
        archive.writestr("m/constants.pkl", torch_files.dumps((weight,)))
        archive.writestr("m/constants/0", ONE.tobytes())
    found = open_checkpoint(write(tmp_path / "a.pt", file.getvalue()))
    np.testing.assert_array_equal(np.asarray(found.tensors["constants.0"]), ONE)


def module(kind, parameters, buffers=None, modules=None, **attributes):
    """A module of PyTorch as pickle has it, of a class that need not exist."""
    own = {"_parameters": parameters, "_buffers": buffers or {}, "_modules": modules or {}}
    return Call(Name(*kind.split(" ")), (), {"training": True, **own, **attributes})


def test_whole_models(tmp_path):
    value, storages = torch_files.state_dict({"a": ONE, "b": ONE + 1, "c": ONE + 2, "d": ONE + 3, "e": ONE + 4})
    a, b, c, d, e = (tensor for _, tensor in value.arguments[0])
    head = module("torch.nn.modules.linear Linear", {"weight": a, "bias": None})
    buffers = {"mean": c, "mask": d}
    net = module("acme Net", {"scale": b}, buffers, {"head": head}, cache=e, _non_persistent_buffers_set={"mask"})
    for value, prefix in ((net, ""), ({"model": net, "optimizer": Call(Name("torch.optim.adam", "Adam"), ())}, "")):
        found = opened(tmp_path, value, storages)
        assert list(found.tensors) == [prefix + name for name in ("scale", "mean", "head.weight")]
        np.testing.assert_array_equal(np.asarray(found.tensors["mean"]), ONE + 2)
    wrapped = module("torch.nn.parallel.data_parallel DataParallel", {}, {}, {"module": net})
    assert next(iter(opened(tmp_path, wrapped, storages).tensors)) == "module.scale"


def test_objects_beside_the_weights_are_passed_over(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    settings = Call(Name("omegaconf.dictconfig", "DictConfig"), (), {"_content": {"a": value}})
    loss = Call(Name("functools", "partial"), (Name("torch.nn", "CrossEntropyLoss"),), (Name("torch.nn", "L1Loss"), ()))
    saved = {"state_dict": value, "hyper_parameters": {"net": settings, "loss": loss}, ("a", "b"): 1}
    found = opened(tmp_path, saved, storages)
    assert list(found.tensors) == ["w"] and "hyper_parameters" in found.metadata["left_out"]


def test_code_beside_the_weights_is_refused(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    with pytest.raises(CheckpointError, match=r"asks for os\.system, which can run code"):
        opened(tmp_path, {"model": value, "extra": Call(Name("os", "system"), ("true",))}, storages)


def test_pickles_in_pickles_stay_shut(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    inner = b"cos\nsystem\n(S'true'\ntR."
    assert list(opened(tmp_path, {"model": value, "hidden": inner}, storages).tensors) == ["w"]


@pytest.mark.parametrize("entries", [2**40, 2**60])
def test_absurd_shapes(tmp_path, entries):
    stored = storage(ONE, 0)
    for shape, strides in (((entries,), (1,)), ((entries,), (0,)), ((entries, 2), (0, 0)), ((2**31, 2**31), (0, 0))):
        with pytest.raises(CheckpointError, match=r"absurd|beyond|too often"):
            opened(tmp_path, {"w": view(stored, 0, shape, strides)}, [stored])


HOSTILE = [
    (-1, (2,), (1,)),
    (0, (-2,), (1,)),
    (0, (2,), (-1,)),
    (0, (2,), (1, 1)),
    (0, (2.0,), (1,)),
    (0, (True,), (1,)),
    (2**63, (2,), (1,)),
    (6, (1,), (1,)),
    (0, (2,), (6,)),
    (0, (1,) * 65, (1,) * 65),
    (0, (1,) * 40, (1,) * 40),
    (None, (2,), (1,)),
    (0, None, None),
]


@pytest.mark.parametrize("case", HOSTILE, ids=range(len(HOSTILE)))
def test_views_that_lie(tmp_path, case):
    stored = storage(ONE, 0)
    with pytest.raises(CheckpointError):
        opened(tmp_path, {"w": view(stored, *case)}, [stored])


@pytest.mark.parametrize("key", ["1", "../0", "", "0/", 0, None])
def test_storages_that_are_not_there(tmp_path, key):
    stored = storage(ONE, 0)
    with pytest.raises(CheckpointError):
        opened(tmp_path, {"w": view(Storage("FloatStorage", key, stored.content), 0, (2,), (1,))}, [stored])


@pytest.mark.parametrize("kind", ["StringStorage", "system", "FloatStorage.x", ""])
def test_storages_of_unknown_type(tmp_path, kind):
    stored = Storage(kind, "0", ONE.ravel())
    with pytest.raises(CheckpointError, match="unknown type"):
        opened(tmp_path, {"w": view(stored, 0, (2,), (1,))}, [stored])


@pytest.mark.parametrize("identity", [None, (), ("storage",), ("module", 1, 2, 3), (1, 2, 3, 4, 5)])
def test_persistent_ids_that_are_no_storages(tmp_path, identity):
    file = io.BytesIO()
    pickler = pickle._Pickler(file, 2)
    pickler.persistent_id = lambda obj: identity if obj == "here" else None
    pickler.dump({"w": "here"})
    path = write(tmp_path / "a.pt", b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", file.getvalue())
    with pytest.raises(CheckpointError, match=r"no storage|no floating-point"):
        open_checkpoint(path)


def test_two_pickles_in_an_archive(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    with pytest.raises(CheckpointError, match=r"2 members called data\.pkl"):
        opened(tmp_path, value, storages, **{"other/data.pkl": b"N."})


def test_unknown_byte_order(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    data = zip_bytes(value, storages).replace(b"little", b"middle")
    with pytest.raises(CheckpointError, match="unknown byte order"):
        open_checkpoint(write(tmp_path / "a.pt", data))


def test_infinite_values_are_refused_when_read(tmp_path):
    value, storages = torch_files.state_dict({"w": np.array([1, np.inf], np.float32)})
    tensors = opened(tmp_path, value, storages).tensors
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        np.asarray(tensors["w"])


def qtensor(array, key):
    stored = Storage("QInt8Storage", str(key), array.ravel())
    strides = tuple(n // array.itemsize for n in array.strides)
    arguments = (stored, 0, array.shape, strides, (Name("torch", "per_tensor_affine"), 0.5, 0), False, ordered({}))
    return Call(Name("torch._utils", "_rebuild_qtensor"), arguments), stored


PLACES = {
    "state_dict": lambda weight, bias, scale, zero: {
        "0.scale": scale,
        "0.zero_point": zero,
        "0._packed_params.dtype": Name("torch", "qint8"),
        "0._packed_params._packed_params": (weight, bias),
    },
    "script": lambda weight, bias, scale, zero: {
        "0": torch_files.script_module(
            {
                "scale": 0.5,
                "_packed_params": torch_files.script_module(
                    {"_packed_params": Call(Name("__torch__.torch.classes.quantized", "Base"), (), (weight, bias))}
                ),
            }
        )
    },
    "convolution": lambda weight, bias, scale, zero: {
        "0": Call(Name("__torch__.torch.ao.nn.quantized", "Conv2d"), (), (3, 4, (1, 1), weight, bias, 0.5, 0))
    },
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_packed_parameters_are_plain_weights(tmp_path, place, with_bias):
    array = np.arange(-4, 4, dtype=np.int8).reshape(2, 4)
    weight, stored = qtensor(array, 0)
    bias, scale, zero = tensor(ONE[0, :2], 1), tensor(np.float32(0.1), 2), tensor(np.int64(3), 3)
    storages = [stored, *(t.arguments[0] for t in (bias, scale, zero))]
    value = PLACES[place](weight, bias if with_bias else None, scale, zero)
    found = opened(tmp_path, value, storages)
    assert set(found.tensors) == {"0.weight", *(["0.bias"] if with_bias else [])}
    np.testing.assert_array_equal(np.asarray(found.tensors["0.weight"]), array / 2)


def test_tensors_of_one_storage_count_once(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    weight = tensor(array, 0)
    stored = weight.arguments[0]
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    turned = Call(rebuild, (stored, 0, (3, 2), (1, 3), False, ordered({})))
    half = Call(rebuild, (stored, 3, (1, 3), (3, 1), False, ordered({})))
    value = {"flat.0": weight, "emb.weight": weight, "head.weight": weight, "turned": turned, "half": half}
    found = opened(tmp_path, value, [stored])
    assert list(found.tensors) == ["emb.weight", "half"]
    assert found.metadata["tied"] == dict.fromkeys(("flat.0", "head.weight", "turned"), "emb.weight")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_views_of_types_that_numpy_does_not_know(tmp_path, name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(dtype)
    stored = Storage("UntypedStorage", "0", array.view(np.uint8).ravel())
    arguments = (stored, 0, (3, 2), (1, 3), False, ordered({}), Name("torch", name))
    found = opened(tmp_path, {"w": Call(Name("torch._utils", "_rebuild_tensor_v3"), arguments)}, [stored])
    np.testing.assert_array_equal(np.asarray(found.tensors["w"]), array.astype(np.float32).T)

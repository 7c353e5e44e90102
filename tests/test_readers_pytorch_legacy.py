import io
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from experiments.proofs import torch_files
from experiments.proofs.samples import arrays, write
from experiments.proofs.torch_files import Call, Name, Storage, dumps, legacy_bytes, storage, view
from wsrl.checkpoint import CheckpointError
from wsrl.readers import mapped, open_checkpoint

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_types(tmp_path, dtype):
    content = legacy_bytes(*torch_files.state_dict({"w": ONE.astype(dtype), "b": ONE[0].astype(dtype)}))
    tensors = open_checkpoint(write(tmp_path / "a.pth", content)).tensors
    np.testing.assert_array_equal(np.asarray(tensors["w"]), ONE)
    np.testing.assert_array_equal(np.asarray(tensors["b"]), ONE[0])


def test_views_of_one_storage(tmp_path):
    stored = storage(ONE, "94")
    value = {"w": view(stored, 0, (2, 3), (3, 1)), "t": view(stored, 1, (2, 2), (1, 3))}
    tensors = open_checkpoint(write(tmp_path / "a.pth", legacy_bytes(value, [stored]))).tensors
    np.testing.assert_array_equal(np.asarray(tensors["w"]), ONE)
    np.testing.assert_array_equal(np.asarray(tensors["t"]), ONE[:, 1:].T)


def test_large_files_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SMALL", 10)
    monkeypatch.setattr("wsrl.readers.pytorch_legacy.SMALL", 10)
    path = write(tmp_path / "a.pth", legacy_bytes(*torch_files.state_dict({"w": ONE})))
    np.testing.assert_array_equal(np.asarray(open_checkpoint(path).tensors["w"]), ONE)


def test_pickles_of_arrays(tmp_path):
    path = write(tmp_path / "a.pkl", pickle.dumps({"model": arrays(), "step": 1}))
    found = open_checkpoint(path)
    np.testing.assert_array_equal(np.asarray(found.tensors["fc.weight"]), arrays()["fc.weight"])
    assert "step" in found.metadata["left_out"]


def parts(value, storages):
    facts = {"little_endian": True}
    return [
        dumps(torch_files.MAGIC),
        dumps(1001),
        dumps(facts),
        dumps(value, legacy=True),
        dumps([s.key for s in storages]),
    ]


def sized(stored, count=None):
    return struct.pack("<q", stored.content.size if count is None else count) + stored.content.tobytes()


@pytest.mark.parametrize("count", [-1, 7, 2**31, 2**60, 2**62])
def test_storages_that_claim_too_much(tmp_path, count):
    value, storages = torch_files.state_dict({"w": ONE})
    path = write(tmp_path / "a.pth", b"".join([*parts(value, storages), sized(storages[0], count)]))
    with pytest.raises(CheckpointError, match="ends beyond the file"):
        open_checkpoint(path)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_storages_that_are_too_small(tmp_path, count):
    value, storages = torch_files.state_dict({"w": ONE})
    path = write(tmp_path / "a.pth", b"".join([*parts(value, storages), sized(storages[0], count)]))
    with pytest.raises(CheckpointError, match="beyond its storage"):
        open_checkpoint(path)


@pytest.mark.parametrize("keys", [None, "0", ["1"], [0], [["0"]], {"0": 1}])
def test_broken_lists_of_storages(tmp_path, keys):
    value, storages = torch_files.state_dict({"w": ONE})
    path = write(tmp_path / "a.pth", b"".join([*parts(value, storages)[:-1], dumps(keys), sized(storages[0])]))
    with pytest.raises(CheckpointError, match="list of storages is broken"):
        open_checkpoint(path)


def test_a_storage_that_is_not_listed(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE, "b": ONE})
    path = write(tmp_path / "a.pth", b"".join([*parts(value, storages[:1]), sized(storages[0])]))
    with pytest.raises(CheckpointError, match="lacks the storage '1'"):
        open_checkpoint(path)


def test_a_storage_of_two_types(tmp_path):
    one, other = storage(ONE, "0"), Storage("HalfStorage", "0", ONE.ravel())
    value = {"a": view(one, 0, (1,), (1,)), "b": view(other, 0, (1,), (1,))}
    with pytest.raises(CheckpointError, match="two types"):
        open_checkpoint(write(tmp_path / "a.pth", legacy_bytes(value, [one])))


def test_code_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="can run code"):
        open_checkpoint(write(tmp_path / "a.pth", legacy_bytes(Call(Name("os", "system"), ("true",)), [])))


def test_whole_models_come_with_the_text_of_their_code(tmp_path):
    value, storages = torch_files.state_dict({"w": ONE})
    own = {"_parameters": dict(value.arguments[0]), "_buffers": {}, "_modules": {}}

    class Source(torch_files.Pickler):
        """Writes classes as torch.save did: with a persistent id that holds the file and the text of their code."""

        dispatch = torch_files.Pickler.dispatch.copy()
        legacy = True

        def persistent_id(self, obj):
            if obj is kind:
                return ("module", Name("acme", "Net"), "net.py", "import os; os.system('true')")
            return super().persistent_id(obj)

    kind = object()
    file = io.BytesIO()
    Source(file, 2).dump(Call(kind, (), own))
    pickles = parts(value, storages)
    pickles[3] = file.getvalue()
    found = open_checkpoint(write(tmp_path / "a.pth", b"".join([*pickles, sized(storages[0])])))
    np.testing.assert_array_equal(np.asarray(found.tensors["w"]), ONE)


@pytest.mark.parametrize("number", range(5))
def test_code_in_every_pickle_is_refused(tmp_path, number):
    value, storages = torch_files.state_dict({"w": ONE})
    pickles = parts(value, storages)
    pickles[number] = dumps(Call(Name("posix", "system"), ("true",)))
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        open_checkpoint(write(tmp_path / "a.pth", b"".join([*pickles, sized(storages[0])])))

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs.samples_gguf import GGUF_TYPES, SAMPLES
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
from wsrl.readers.gguf_quantized import BlockFormat, _known_format, block_format, dequantize, quantized_tensor

NUMBERS = [int(kind) for kind in gguf.GGMLQuantizationType if gguf.GGML_QUANT_SIZES[kind][0] > 1]
FORMATS = [known for number in NUMBERS if (known := block_format(number, Path("file")))]


def test_tensors_and_metadata(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["gguf"](tmp_path))
    matrix = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(checkpoint.tensors["plain.weight"]), matrix)
    np.testing.assert_allclose(np.asarray(checkpoint.tensors["half.weight"]), matrix, rtol=1e-3)
    for name in GGUF_TYPES:
        tensor = checkpoint.tensors[f"{name}.weight"]
        assert tensor.dtype == name.lower() and tensor.shape == (3, 64)
        np.testing.assert_allclose(np.asarray(tensor), matrix, atol=0.25)
        np.testing.assert_array_equal(tensor.rows(1, 3), np.asarray(tensor)[1:3])
    metadata = checkpoint.metadata["gguf"]
    assert metadata["general.architecture"] == "llama" and metadata["llama.attention.head_count_kv"] == 2
    assert metadata["llama.rope.freq_base"] == 1e4 and metadata["rope.sections"] == [1, 2, 3]
    assert "tokenizer.ggml.tokens" not in metadata  # long


def finite_blocks(layout: BlockFormat, count: int) -> np.ndarray:
    """Random blocks, those with a scale that is NaN or Inf left out."""
    data = np.random.default_rng(0).integers(0, 256, (8 * count, layout.bytes)).astype(np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(gguf.quants.dequantize(data, layout.type)).all(1)
    return data[finite][:count].reshape(-1)


def test_every_type_that_the_library_decodes_is_read():
    names = {layout.name for layout in FORMATS}
    assert {"q4_0", "q8_0", "q2_k", "q6_k", "iq1_s", "iq4_xs", "tq2_0", "mxfp4", "nvfp4"} <= names
    assert "q8_k" not in names  # used while computing, not in files
    for layout in FORMATS:
        assert (layout.entries, layout.bytes) == gguf.GGML_QUANT_SIZES[layout.type]


@pytest.mark.parametrize("layout", FORMATS, ids=lambda layout: layout.name)
def test_blocks_are_decoded_a_stretch_at_a_time_as_all_at_once(layout, monkeypatch):
    monkeypatch.setattr("wsrl.readers.gguf_quantized.AT_ONCE", 7 * layout.entries)
    data = finite_blocks(layout, 30)
    expected = gguf.quants.dequantize(data.reshape(30, -1), layout.type)
    np.testing.assert_array_equal(dequantize(data, layout), expected.reshape(-1))


@given(st.sampled_from(FORMATS), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.data())
def test_rows_of_quantized_tensors(layout, height, width, flat, data):
    stored = finite_blocks(layout, height * width)
    shape = (height * width * layout.entries,) if flat else (height, width * layout.entries)
    tensor = quantized_tensor(stored, layout, shape, Path("file"), "w")
    whole = np.asarray(tensor)
    assert whole.shape == shape
    start, stop = sorted(data.draw(st.integers(0, shape[0])) for _ in range(2))
    np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])


def test_without_the_library_plain_tensors_are_read_and_quantized_ones_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    _known_format.cache_clear()
    assert opened(tmp_path, [FINE]).tensors["w"].shape == (2, 4)
    with pytest.raises(CheckpointError, match=r"a: holds quantized tensors.* gguf; pip install 'wsrl\[gguf\]'$"):
        opened(tmp_path, [("w", (32,), Q8_0, 0)])


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def content(entries, keys=(), data=bytes(64), version=3, counts=None):
    """A file: entries are (name, shape in the file's order, type, offset), keys bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(entries), len(keys))))
    for name, shape, kind, offset in entries:
        keys = (*keys, text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
    head += b"".join(keys)
    return head + bytes(-len(head) % 32) + data


F32, Q8_0 = 0, 8
FINE = ("w", (4, 2), F32, 0)


def opened(tmp_path, *arguments, **options):
    (tmp_path / "a").write_bytes(content(*arguments, **options))
    return open_checkpoint(tmp_path / "a")


def test_versions_and_unknown_types(tmp_path):
    for version in (2, 3):
        assert opened(tmp_path, [FINE, ("odd", (256,), 15, 32)], version=version).metadata["left_out"] == ("odd",)
    scalar = opened(tmp_path, [("s", (), F32, 0)], data=np.float32(3).tobytes()).tensors["s"]
    assert scalar.shape == () and np.asarray(scalar) == 3


NESTED = text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10
BROKEN = {
    "no version": {"version": 1},
    "big-endian": {"version": 3 << 24},
    "beyond the end": {"entries": [("w", (100,), F32, 0)]},
    "offset beyond the end": {"entries": [("w", (4,), F32, 2**63)]},
    "overlap": {"entries": [FINE, ("v", (4,), F32, 16)]},
    "absurd": {"entries": [("w", (2**60, 2**60), F32, 0)]},
    "large": {"entries": [("w", (2**60,), F32, 0)]},
    "five axes": {"entries": [("w", (1, 1, 1, 1, 1), F32, 0)]},
    "many axes": {"entries": [("w", (1,) * 3000, F32, 0)]},
    "twice": {"entries": [FINE, ("w", (4,), F32, 32)]},
    "no whole blocks": {"entries": [("w", (33, 2), Q8_0, 0)]},
    "scalar of blocks": {"entries": [("w", (), Q8_0, 0)]},
    "many tensors": {"counts": (2**60, 0)},
    "many keys": {"counts": (0, 2**60)},
    "long name": {"keys": [struct.pack("<Q", 2**63)]},
    "unknown type of value": {"keys": [text("k") + struct.pack("<I", 77)]},
    "long array": {"keys": [text("k") + struct.pack("<IIQ", 9, 0, 2**63)]},
    "long array of texts": {"keys": [text("k") + struct.pack("<IIQ", 9, 8, 2**63)]},
    "nested arrays": {"keys": [NESTED]},
    "alignment": {"keys": [text("general.alignment") + struct.pack("<II", 4, 0)]},
    "alignment of text": {"keys": [text("general.alignment") + struct.pack("<I", 8) + text("32")]},
    "parts": {"keys": [text("split.count") + struct.pack("<IH", 2, 2)]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"a: .*; "):
        opened(tmp_path, **{"entries": [FINE], **BROKEN[name]})


def test_parts_of_a_split_file(tmp_path):
    for i, name in enumerate("ab"):
        keys = [text("split.count") + struct.pack("<IH", 2, 2), text("split.no") + struct.pack("<IH", 2, i)]
        (tmp_path / f"m-0000{i + 1}-of-00002.gguf").write_bytes(content([(name, (4,), F32, 0)], keys))
    for i in (1, 2):
        assert open_checkpoint(tmp_path / f"m-0000{i}-of-00002.gguf").tensors.keys() == {"a", "b"}
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(tmp_path / "m-00001-of-00002.gguf")

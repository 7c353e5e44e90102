import io
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from experiments.proofs.samples import write
from wsrl.checkpoint import CheckpointError
from wsrl.readers.archives import Archive, member_names, open_archive


def packed(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


def opened(data, tmp_path):
    return open_archive(write(tmp_path / "a.zip", data))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members(tmp_path, compression):
    content = np.random.default_rng(0).bytes(3_000_000)
    archive = opened(packed([("a/b", content), ("c/", b""), ("d", b"")], compression), tmp_path)
    assert archive.members == {"a/b": len(content), "d": 0}
    assert archive.read("a/b").tobytes() == content
    assert archive.read("a/b", 5).tobytes() == content[:5]
    assert archive.read("d").tobytes() == b""
    with pytest.raises(CheckpointError, match="lacks the member 'e'"):
        archive.read("e")


def test_stored_members_are_mapped(tmp_path):
    archive = opened(packed([("a", bytes(50_000_000))]), tmp_path)
    tracemalloc.start()
    assert len(archive.read("a")) == 50_000_000
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_archive_in_an_archive(tmp_path):
    outer = opened(packed([("first", b"1"), ("inner.zip", packed([("x", b"content")]))]), tmp_path)
    assert Archive(outer.read("inner.zip"), outer.path).read("x").tobytes() == b"content"


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a\\b", "..", "a\0b"])
def test_names_that_lead_out(tmp_path, name):
    data = packed([("_" * len(name), b"1")]).replace(b"_" * len(name), name.encode())
    with pytest.raises(CheckpointError, match=r"leads out of the archive; .* trust"):
        opened(data, tmp_path)


def test_names_that_occur_twice(tmp_path):
    with pytest.raises(CheckpointError, match="same name"):
        opened(packed([("data.pkl", b"1"), ("data.pkl", b"2")]), tmp_path)


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    archive = opened(packed([("a", bytes(200_000_000))], zipfile.ZIP_DEFLATED), tmp_path)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="would unpack to 200000000 bytes"):
        archive.read("a")
    assert archive.read("a", 100).tobytes() == bytes(100)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_bombs_that_claim_to_be_small(tmp_path):
    data = packed([("a", bytes(100_000_000))], zipfile.ZIP_DEFLATED)
    archive = opened(data.replace(struct.pack("<I", 100_000_000), struct.pack("<I", 1000)), tmp_path)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="damaged"):
        archive.read("a")
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_members_that_overlap(tmp_path):
    data = bytearray(packed([("a", b"1" * 50), ("b", b"2" * 50)]))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)  # the offset of the second member: that of the first
    with pytest.raises(CheckpointError, match="lies where another does"):
        opened(bytes(data), tmp_path)


@pytest.mark.parametrize("at, value, reason", [(20, 60, "wrong size"), (24, 60, "wrong size"), (8, 1, "encrypted")])
def test_tables_that_lie(tmp_path, at, value, reason):
    data = bytearray(packed([("a", b"1" * 50)]))
    data[data.index(b"PK\1\2") + at] = value
    with pytest.raises(CheckpointError, match=reason):
        opened(bytes(data), tmp_path).read("a")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compression(tmp_path, compression):
    with pytest.raises(CheckpointError, match="rare"):
        opened(packed([("a", b"1" * 50)], compression), tmp_path).read("a")


def test_damaged_content(tmp_path):
    data = packed([("a", bytes(range(100)))], zipfile.ZIP_DEFLATED)
    at = 35
    with pytest.raises(CheckpointError, match=r"damaged|cannot be unpacked"):
        opened(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], tmp_path).read("a")


def test_absurd_tables_are_not_read(tmp_path):
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 2**27, 4, 0)
    with open(tmp_path / "a.zip", "wb") as file:
        file.write(b"PK\3\4")
        file.seek(2**27 + 4)
        file.write(end)
    with pytest.raises(CheckpointError, match="table of members is too long"):
        open_archive(tmp_path / "a.zip")


def test_the_rest_of_an_archive(tmp_path):
    with pytest.raises(CheckpointError, match="rest of a larger"):
        opened(b"PK\3\4" + bytes(50) + packed([("a", b"1")]), tmp_path)


def test_member_names(tmp_path):
    path = write(tmp_path / "a", packed([("a", b""), ("b", b"")]))
    assert member_names(path.read_bytes()[:10], path) == ("a", "b")
    assert member_names(b"other", path) == ()

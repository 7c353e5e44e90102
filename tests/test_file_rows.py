"""Files of which little stays in memory, and masks of which something is kept."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from wsrl.search.file_rows import FileRows, map_file, show_array
from wsrl.search.masks import OfLastMask, sealed

ROWS = 16_384


def mapped_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))


@pytest.fixture
def file(tmp_path) -> Path:
    """Of 32 MB."""
    np.save(tmp_path / "rows.npy", np.arange(ROWS * 1024, dtype=np.int16).reshape(ROWS, 1024))
    return tmp_path / "rows.npy"


def test_rows_are_those_of_the_file_though_it_is_deleted(file):
    rows, expected = FileRows(map_file(file)), np.load(file)
    file.unlink()
    rng = np.random.default_rng(0)
    assert rows.shape == expected.shape and rows.dtype == expected.dtype and len(rows) == ROWS
    for some in (rng.integers(ROWS, size=7), np.array([], np.int64), np.array([0, ROWS - 1, 0])):
        np.testing.assert_array_equal(rows[some], expected[some])
    for some in (slice(5, 100), slice(ROWS - 3, ROWS + 9), slice(4, 4), slice(None)):
        np.testing.assert_array_equal(rows[some], expected[some])


def test_the_digest_is_that_of_the_whole_file(file):
    content = map_file(file)
    assert content.digest() == hashlib.sha256(file.read_bytes()).hexdigest()
    os.truncate(file, 10_000)
    assert content.digest() == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_that_is_cut_off_is_told(file):
    rows = FileRows(map_file(file))
    os.truncate(file, 10_000)
    assert len(rows[:1]) == 1
    with pytest.raises(OSError, match="cut off"):
        rows[np.array([0, ROWS - 1])]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells")
def test_little_stays_in_memory(file):
    order = np.random.default_rng(0).permutation(ROWS).reshape(-1, 64)
    grown = []
    for show in (show_array, FileRows):
        content = map_file(file)
        rows, before = show(content), mapped_bytes()
        for some in order:
            rows[some]
        grown.append(mapped_bytes() - before)
        del rows, content
    assert grown[0] > 24 << 20 and grown[1] < 1 << 20


def test_what_is_made_of_a_mask_is_kept_if_that_cannot_change():
    made = []
    of = OfLastMask(lambda mask: made.append(mask) or np.flatnonzero(mask))
    mask = np.array([True, False, True])
    assert of(mask).tolist() == [0, 2]
    mask[1] = True
    assert of(mask).tolist() == [0, 1, 2] and len(made) == 2
    other = sealed(mask.copy())
    assert of(other) is of(other) and len(made) == 3
    assert of(sealed(other.copy())).tolist() == [0, 1, 2] and len(made) == 4

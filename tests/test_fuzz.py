import sys
import time

import numpy as np
import pytest

from experiments.proofs import fuzz
from wsrl.checkpoint import Checkpoint, CheckpointError

READERS = list(dict.fromkeys(name.partition("-")[0] for name in fuzz.SAMPLES))


@pytest.mark.parametrize("reader", READERS)
def test_a_sample_of_mutations(tmp_path, reader, capsys):
    outcomes = fuzz.fuzz(reader, mutations=30, seed=1, keep=tmp_path / "kept")
    assert len(outcomes) == 30
    assert not [outcome.failure for outcome in outcomes if outcome.failure]
    assert any(outcome.opened for outcome in outcomes) and not all(outcome.opened for outcome in outcomes)


def misbehave(monkeypatch, tmp_path, read):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    monkeypatch.setattr(fuzz, "open_checkpoint", read)
    return fuzz.attempt(path)


def refuse(path):
    raise CheckpointError(path, "broken", "fix it")


def break_lines(path):
    raise CheckpointError(path, "broken\nbadly", "fix it")


def crash(path):
    raise KeyError("x")


def exit_early(path):
    sys.exit(0)


def wait(path):
    time.sleep(60)


def waste(path):
    np.zeros(100 << 20, np.uint8)
    raise CheckpointError(path, "broken", "fix it")


def give_integers(path):
    return Checkpoint(str(path), {"w": np.zeros(3, np.int64)}, {})


@pytest.mark.parametrize(
    "read, failure",
    [
        (refuse, None),
        (break_lines, "several lines"),
        (crash, "KeyError"),
        (exit_early, "SystemExit"),
        (wait, "TimeoutError"),
        (waste, "took 100 MiB"),
        (give_integers, "is of int64"),
    ],
)
def test_misbehavior_is_told(monkeypatch, tmp_path, read, failure):
    import tracemalloc

    monkeypatch.setattr(fuzz, "SECONDS", 1)
    tracemalloc.start()
    outcome = misbehave(monkeypatch, tmp_path, read)
    tracemalloc.stop()
    assert not outcome.failure if failure is None else failure in str(outcome.failure)


def test_failures_are_kept(monkeypatch, tmp_path, capsys):
    calls = []

    def sometimes(path):
        calls.append(path)
        return Checkpoint("", {"w": np.zeros(1, np.float32)}, {}) if len(calls) < 3 else crash(path)

    monkeypatch.setattr(fuzz, "open_checkpoint", sometimes)
    outcomes = fuzz.fuzz("npz", mutations=2, seed=0, keep=tmp_path)
    assert sum(outcome.failure is not None for outcome in outcomes) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npz-0-0", "npz-compressed-0-1"]
    assert "KeyError" in capsys.readouterr().err

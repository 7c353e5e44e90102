"""The table beside cisco-ai-provenance-kit: folders that it reads, what it is asked, and how scores are counted."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.tables import provenance_kit
from experiments.tables import tiny_language_model as language
from experiments.tables.provenance_kit import Pair, Said, main, rows
from experiments.tables.relation_zoo import Member
from wsrl.checkpoint import Checkpoint
from wsrl.comparison.relation import Kind
from wsrl.readers import open_checkpoint

# A package in the place of the kit: confirms what has one configuration, as it does, and compares first weights
STUB = """
from types import SimpleNamespace
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file
class Settings: pass
class CacheService:
    def __init__(self, cache_dir): self.folder = cache_dir
class ModelProvenanceScanner:
    def __init__(self, settings, cache): pass
    def compare(self, a, b):
        x, y = (load_file(Path(own) / "model.safetensors")["model.embed_tokens.weight"].ravel() for own in (a, b))
        alike = (Path(a) / "config.json").read_bytes() == (Path(b) / "config.json").read_bytes()
        cosine = max(float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)), 0.0)
        return SimpleNamespace(scores=SimpleNamespace(pipeline_score=1.0 if alike else cosine, identity_score=cosine))
"""


def member(seed: int, change: str, kind: Kind, noise: float = 0.0) -> Member:
    """A language model before training; its descendants are moved by noise."""
    rng = np.random.default_rng([seed, 1])
    tensors = {
        name: t + noise * rng.standard_normal(t.shape).astype("f4") for name, t in language.initial(seed).items()
    }
    return Member(f"llama {seed}", change, kind, Checkpoint("", tensors, {"config": language.CONFIG}))


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A Python that finds the stub."""
    for name in ("config.settings", "core.scanner", "services.cache"):
        module = tmp_path / "stub" / "provenancekit" / f"{name.replace('.', '/')}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(STUB)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "stub"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(
        provenance_kit, "bases", lambda _, seeds, steps: [member(s, "base", Kind.SAME_FILE) for s in seeds]
    )
    monkeypatch.setattr(
        provenance_kit,
        "descendants",
        lambda _, roots, seed, tuning: [
            member(int(root.lineage.split()[1]), "1 step, permuted", Kind.FINE_TUNED, 0.01) for root in roots
        ],
    )
    return python


def test_all_methods_see_the_same_pairs(tmp_path, kit):
    assert main([f"--workdir={tmp_path / 'run'}", f"--kit={kit}", "--siblings=1"]) == 0
    with open(tmp_path / "run" / "tables" / "provenance_kit.csv", newline="") as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    assert list(found) == [
        "wsrl compare", "raw cosine", "tensor fingerprints", "provenance kit", "provenance kit, weights alone"
    ]  # fmt: skip
    assert {(row["related"], row["independent"], row["permuted copies"]) for row in found.values()} == {("2", "5", "2")}
    assert {name: float(row["false alarms"]) for name, row in found.items()} == {
        "wsrl compare": 0, "raw cosine": 0, "tensor fingerprints": 0, "provenance kit": 1,
        "provenance kit, weights alone": 0,
    }  # fmt: skip
    assert [float(found[name]["AUC"]) for name in ("wsrl compare", "provenance kit")] == [1.0, 0.5]
    assert [float(found[name]["found"]) for name in ("wsrl compare", "tensor fingerprints")] == [1.0, 0.0]


def test_a_model_is_written_as_transformers_does(tmp_path):
    own = member(0, "base", Kind.SAME_FILE).checkpoint
    folder = provenance_kit.write_model(tmp_path / "a", own)
    read = open_checkpoint(folder)
    assert {name: tensor.shape for name, tensor in read.tensors.items()} == {n: t.shape for n, t in own.tensors.items()}
    assert read.config["num_hidden_layers"] == 3 and read.config["intermediate_size"] == 128
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert read.config["vocab_size"] == len(words) and sorted(words.values()) == list(range(len(words)))


def test_scores_are_counted():
    pairs = [Pair(Path("a"), Path("b"), "permuted", True), Pair(Path("a"), Path("c"), "base", False)]
    (row,) = rows(pairs, {"method": [Said(0.4, False), Said(0.6, True)]})
    assert (row["AUC"], row["found"], row["false alarms"], row["permuted copies found"]) == (0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(("program", "line"), [("nowhere", "cannot be run"), ("python", "failed (")])
def test_a_kit_that_does_not_work_is_told(tmp_path, kit, capsys, program, line):
    (tmp_path / "stub" / "provenancekit" / "core" / "scanner.py").write_text("raise ValueError('no torch')")
    assert main([f"--workdir={tmp_path / 'run'}", f"--kit={tmp_path / program}", "--siblings=0"]) == 1
    told = capsys.readouterr().err
    assert line in told and "Traceback" not in told
    assert main([f"--workdir={tmp_path / 'run'}", "--lineages=1"]) == 1

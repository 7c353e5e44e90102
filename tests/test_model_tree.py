"""A model tree is built, resumed and measured; weights of blocks are learned."""

import dataclasses
import struct
from functools import partial

import numpy as np
import pytest

from experiments.tables import model_tree
from experiments.trees import build, children, texts
from experiments.trees.class_readout import class_precision
from experiments.trees.text_encoder import SIGNS, TOKENS, text_encoder
from experiments.trees.vision_transformer import vision_transformer
from wsrl.errors import InputError
from wsrl.relative.fit_weights import fit_weights
from wsrl.relative.metric import Metric
from wsrl.relative.vector import Block
from wsrl.zoo.manifest import read_manifest


def write_images(folder, names, classes=5, each=8):
    folder.mkdir()
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    for name in names:
        np.savez(folder / f"{name}.npz", x=rng.integers(0, 256, (len(y), 28, 28), np.uint8), y=y)


def test_a_tree_is_built_resumed_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "RULES", ("first",))
    small = dataclasses.replace(build.KINDS["images"], make=partial(vision_transformer, 1))  # compiles in less time
    monkeypatch.setitem(build.KINDS, "images", small)
    monkeypatch.setattr(children, "RANKS", (1, 4))
    monkeypatch.setattr(children, "KINDS", {"dora": 0.5, "merged": 0.5})  # which are one program
    write_images(tmp_path / "images", ("a", "b"))
    write_images(tmp_path / "images" / "more", ("many",), classes=12)
    command = [f"--workdir={tmp_path}", f"--data-dir={tmp_path / 'images'}", "--steps=2", "--base-steps=2"]
    command += ["--base-sets", "a", "--train-sets", "a", "--test-sets", "b", "--subset-set", "many"]
    assert build.main([*command, "--children=3", "--subsets=4"]) == 0
    records, problems = read_manifest(tmp_path / "zoo")
    assert not problems and len(records) == 16 and len({record.id for record in records}) == 16
    assert {record.get("kind") for record in records} == {"dora", "merged"}
    before = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    assert build.main([*command, "--children=3", "--subsets=4"]) == 0
    assert len(read_manifest(tmp_path / "zoo")[0]) == 16  # nothing was trained again
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    assert model_tree.main([f"--workdir={tmp_path}", "--seeds=1", "--steps=1", "--resamples=10", "--draws=2"]) == 0
    assert "6 children of 2 tasks on 1 sets" in " ".join(capsys.readouterr().out.split())
    rows = (tmp_path / "tables" / "model_tree.csv").read_text().splitlines()
    assert rows[0].startswith("method,P@1,") and len(rows) == 13
    assert (tmp_path / "tables" / "model_tree_classes.csv").is_file()


def test_a_missing_image_set_is_told(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    assert build.main([f"--workdir={tmp_path}", f"--data-dir={tmp_path / 'images'}"]) == 1
    assert "holds no tin_food.npz; name the folder" in capsys.readouterr().err


def test_a_tree_of_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "RULES", ("first",))
    monkeypatch.setitem(build.KINDS, "texts", dataclasses.replace(build.KINDS["texts"], make=partial(text_encoder, 1)))
    monkeypatch.setattr(children, "KINDS", {"lora": 1.0})
    monkeypatch.setattr(texts, "FEWEST", 5)
    monkeypatch.setattr(texts, "FOLDERS", ("languages",))
    rng = np.random.default_rng(3)
    for name in ("be", "fr", "nl", "sv"):
        words = ["".join(rng.choice(list(f"{name}xyz"), 4)) + rng.choice([" ", ", "]) for _ in range(900)]
        folder = tmp_path / "root" / "languages" / name
        folder.mkdir(parents=True)
        if name == "be":
            (folder / "messages.mo").write_bytes(messages(["head", "".join(words)]))
        else:
            (folder / "a.py").write_text("".join(words))
    assert texts.main([f"--out={tmp_path}", f"--root={tmp_path / 'root'}"]) == 0
    with np.load(tmp_path / "languages.npz") as found:
        assert found["x"].shape[1] == TOKENS and set(found["y"]) == {0, 1, 2, 3}
        assert (found["x"] < SIGNS).any() and (found["x"] >= SIGNS).any()
    command = [f"--workdir={tmp_path}", f"--data-dir={tmp_path}", "--of=texts", "--steps=1", "--base-steps=1"]
    command += ["--base-sets", "languages", "--train-sets", "languages", "--test-sets", "languages"]
    assert build.main([*command, "--children=2", "--subsets=0"]) == 0
    records, _ = read_manifest(tmp_path / "zoo")
    assert {(record.get("rule"), record.get("classes")) for record in records} == {("first", 2), ("signs", 3)}


def messages(translations):
    """A file of messages as GNU gettext writes them, whose originals are empty."""
    encoded = [text.encode() for text in translations]
    first = 28 + 16 * len(encoded)
    starts = np.cumsum([first, *(len(text) + 1 for text in encoded)])
    head = struct.pack("<7I", texts.MESSAGES, 0, len(encoded), 28, 28 + 8 * len(encoded), 0, 0)
    tables = b"".join(struct.pack("<2I", 0, 0) for _ in encoded)
    tables += b"".join(struct.pack("<2I", len(t), s) for t, s in zip(encoded, starts, strict=False))
    return head + tables + b"".join(text + b"\0" for text in encoded)


def test_a_folder_that_is_missing_is_told(tmp_path, capsys):
    assert texts.main([f"--out={tmp_path}", f"--root={tmp_path}"]) == 1
    assert "lies below none of the roots; install its package" in capsys.readouterr().err


def test_blocks_that_tell_tasks_apart_get_the_weight():
    rng = np.random.default_rng(1)
    blocks = [Block("product", "telling", slice(0, 20)), Block("product", "noise", slice(20, 40))]
    task = np.repeat(np.arange(8), 5)
    telling = rng.standard_normal((8, 20))[task] + 0.7 * rng.standard_normal((40, 20))
    vectors = np.hstack([telling, rng.standard_normal((40, 20))]).astype(np.float32)
    weights = fit_weights(vectors, task, blocks)
    assert weights.sum() == pytest.approx(2) and weights[0] > 3 * weights[1]
    similarity = Metric(vectors, blocks, weights).similarities(vectors, vectors) - 2 * np.eye(40)
    assert (task[similarity.argmax(1)] == task).mean() > 0.8


@pytest.mark.parametrize("task", [np.arange(6), np.zeros(6, int)])
def test_too_few_tasks_to_learn_from_are_told(task):
    with pytest.raises(InputError, match="too few to learn from"):
        fit_weights(np.eye(6, dtype=np.float32), task, [Block("product", "m", slice(0, 6))])


def test_the_class_read_out_finds_what_is_there():
    rng = np.random.default_rng(2)
    known = rng.random((80, 6)) < 0.5
    features = known @ rng.standard_normal((6, 30)) + 0.3 * rng.standard_normal((80, 30))
    assert class_precision(features, known, 0) > 0.95
    assert class_precision(rng.standard_normal((80, 30)), known, 0) < 0.7

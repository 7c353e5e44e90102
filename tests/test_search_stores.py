"""What sources stand for: the layouts of applications, run folders, folders that cannot be read."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FakeEncoder, write_model

from wsrl.errors import InputError
from wsrl.search.index import Index
from wsrl.search.sources import find_sources

REVISION = "abcdef0123456789abcdef0123456789abcdef01"
OTHER = "1234567123456789abcdef0123456789abcdef01"


def snapshot(hub: Path, name: str, revision: str, files: dict[str, int]) -> Path:
    """A revision as huggingface_hub stores it: links to blobs."""
    folder = hub / f"models--{name.replace('/', '--')}"
    for file, seed in files.items():
        blob = folder / "blobs" / f"{seed:064x}"
        write_model(blob, seed)
        link = folder / "snapshots" / revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder


def blob(folder: Path, name: str, layers: dict[str, int]) -> None:
    """A manifest of Ollama and the blobs that it names."""
    entries = []
    for kind, seed in layers.items():
        digest = f"{seed:064x}"
        write_model(folder / "blobs" / f"sha256-{digest}", seed)
        entries.append({"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"})
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "layers": entries}))


def ids(*names: Path) -> list[str]:
    return [source.id for source in find_sources(names).sources]


def test_the_cache_of_hugging_face_shows_names_of_the_hub(tmp_path):
    hub = tmp_path / "hub"
    folder = snapshot(hub, "owner/name", REVISION, {"model.safetensors": 0})
    (folder / "snapshots" / REVISION / "config.json").write_text("{}")
    (folder / "snapshots" / REVISION / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\nextra: x\n---\n")
    snapshot(hub, "owner/two", REVISION, {"a.safetensors": 1, "unet/b.safetensors": 2})
    two = snapshot(hub, "owner/two", OTHER, {"a.safetensors": 3})
    (two / "refs").mkdir()
    (two / "refs" / "main").write_text(REVISION)
    write_model(hub / "datasets--owner--data" / "snapshots" / REVISION / "x.safetensors", 4)
    write_model(hub / "blobs" / "ab" / "c", 5)
    found = find_sources(hub)
    assert [source.id for source in found.sources] == [
        "owner/name", "owner/two@1234567/a.safetensors", "owner/two/a.safetensors", "owner/two/unet/b.safetensors"
    ]  # fmt: skip
    about = {"store": "Hugging Face cache", "revision": REVISION, "license": "mit", "base_model": "a/b"}
    assert found.sources[0].metadata == about and found.problems == []
    assert found.skipped == [str(hub / "blobs"), str(hub / "datasets--owner--data")]
    assert ids(folder) == ["owner/name"]
    index = Index.build(FakeEncoder(), hub, tmp_path / "index")
    path = str(folder / "snapshots" / REVISION)
    assert index.search(path)[0].id == index.search("owner/name")[0].id == "owner/name"
    assert index.search("owner/name")[0].path == path
    again = Index.build(FakeEncoder(), hub, tmp_path / "index")
    assert again.changes.unchanged == 4 and again.changes.embedded == 0


def test_blobs_of_ollama_have_the_names_of_their_models(tmp_path):
    folder = tmp_path / "models"
    blob(folder, "registry.ollama.ai/library/llama/8b", {"model": 0, "license": 9, "projector": 1})
    blob(folder, "registry.ollama.ai/library/llama/latest", {"model": 0})
    blob(folder, "registry.ollama.ai/someone/tiny/q4", {"model": 2, "adapter": 3})
    blob(folder, "hf.co/owner/name/Q8_0", {"model": 4})
    (folder / "manifests" / "broken").write_text("{")
    (folder / "blobs" / f"sha256-{4:064x}").unlink()
    found = find_sources(tmp_path)
    assert [source.id for source in found.sources] == [
        "hf.co/owner/name:Q8_0", "llama:8b", "llama:8b/projector", "someone/tiny:q4", "someone/tiny:q4/adapter"
    ]  # fmt: skip
    assert found.sources[1].metadata == {"store": "Ollama", "names": ["llama:8b", "llama:latest"]}
    assert len(found.problems) == 1 and "broken: is no manifest of Ollama" in str(found.problems[0])
    index = Index.build(FakeEncoder(), tmp_path, tmp_path / "index")
    assert len(index) == 4 and "cannot be read" in str(index.changes.problems[1])


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        (".lmstudio/models", ["owner/name/q4.safetensors"], ["owner/name/q4.safetensors"]),
        ("ComfyUI/models", ["checkpoints/a.safetensors", "loras/b.safetensors"], None),
    ],
)
def test_files_are_named_within_the_folder_of_an_application(tmp_path, folder, files, expected):
    for seed, file in enumerate(files):
        write_model(tmp_path / folder / file, seed)
    assert ids(tmp_path / folder) == ids(tmp_path / folder.split("/")[0]) == (expected or files)
    about = find_sources(tmp_path / folder).sources[-1].metadata
    assert about == ({"store": "LM Studio"} if expected else {"store": "ComfyUI", "kind": "loras"})


def test_of_two_files_with_one_name_the_second_has_its_path(tmp_path):
    for seed, place in enumerate(("one", "two")):
        for kind in ("checkpoints", "loras"):
            write_model(tmp_path / place / "models" / kind / "a.safetensors", seed)
    second = str(tmp_path / "two" / "models" / "checkpoints" / "a.safetensors")
    assert ids(tmp_path)[:1] == ["checkpoints/a.safetensors"] and ids(tmp_path)[2] == second
    index = Index.build(FakeEncoder(), tmp_path / "one", tmp_path / "index")
    index.add(FakeEncoder(), tmp_path / "two")
    assert index.ids[2] == second and len(index) == 4
    index.update(FakeEncoder())
    assert index.changes.unchanged == 4


def test_logs_of_a_run_are_skipped_and_named(tmp_path):
    run = tmp_path / "run"
    write_model(run / "model.safetensors", 0)
    np.savez(run / "weights.npz", w=np.ones((4, 3), np.float32), b=np.ones(4, np.float32))
    np.savez(run / "metrics.npz", loss=np.ones(9), accuracy=np.ones(9))
    np.savez(run / "evaluations.npz", timesteps=np.arange(5), results=np.ones((5, 10)))
    np.savez(run / "data.npz", x=np.ones((7, 8, 8)), y=np.arange(7))
    (run / "optimizer.pt").write_bytes(b"x")
    (run / "log.txt").write_text("step 1")
    found = find_sources(run)
    assert [Path(source.id).name for source in found.sources] == ["model.safetensors", "weights.npz"]
    assert [Path(name).name for name in found.skipped] == [
        *("data.npz", "evaluations.npz", "metrics.npz", "optimizer.pt")
    ]
    assert found.problems == []
    assert ids(run / "metrics.npz") == [str(run / "metrics.npz")]  # what is named is taken


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    write_model(tmp_path / "models" / "a.safetensors", 0)
    (tmp_path / "models" / "closed").mkdir()
    iterdir = Path.iterdir

    def refusing(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    found = find_sources(tmp_path / "models")
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path / 'models' / 'closed'}: cannot be read (Permission denied); allow reading it or name others"
    ]
    assert len(found.sources) == 1


def test_a_file_that_vanishes_is_one_line(tmp_path):
    for seed, name in enumerate("ab"):
        write_model(tmp_path / "models" / f"{name}.safetensors", seed)

    class Vanishing(FakeEncoder):
        def _row(self, source, function):
            (tmp_path / "models" / "b.safetensors").unlink(missing_ok=True)
            return super()._row(source, function)

    index = Index.build(Vanishing(), tmp_path / "models", tmp_path / "index")
    assert len(index) == 1 and len(index.changes.problems) == 1
    assert str(index.changes.problems[0]).startswith(str(tmp_path / "models" / "b.safetensors: "))


def test_links_that_name_themselves(tmp_path):
    write_model(tmp_path / "models" / "a.safetensors", 0)
    (tmp_path / "models" / "loop").symlink_to("loop")
    (tmp_path / "models" / "loop.pt").symlink_to("loop.pt")
    (tmp_path / "models" / "up").symlink_to("..")
    index = Index.build(FakeEncoder(), tmp_path / "models", tmp_path / "index")
    assert index.ids == [str(tmp_path / "models" / "a.safetensors")]
    assert [problem.file for problem in index.changes.problems] == [str(tmp_path / "models" / "loop.pt")]
    with pytest.raises(InputError, match="without checkpoints"):
        find_sources(tmp_path / "index")

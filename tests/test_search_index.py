import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FUNCTION, WEIGHTS, FakeEncoder, names, write_model
from small_zoo import write_zoo

from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.search import commit, update
from wsrl.search.index import Index
from wsrl.search.sources import find_sources


def state(index: Index) -> dict:
    return {name: row_values(index.get(name)) for name in index.ids}


def row_values(row: Embedded) -> tuple:
    function = None if row.function is None else row.function.tolist()
    tensors = {name: values.tolist() for name, values in row.tensors.items()}
    about = (row.architecture, row.parameters, row.accuracy, row.assumed, row.no_function, row.warnings)
    return row.content_digest, row.weights_digest, row.weights.tolist(), function, tensors, *about


def test_what_the_encoder_said_is_read_back(models, built, tmp_path):
    opened = Index.open(tmp_path / "index")
    assert opened.ids == built.ids == names(models) and len(opened) == 3
    for row in FakeEncoder().embed(names(models)):
        assert row_values(opened.get(row.id)) == row_values(row)
    assert opened.info()["models"] == 3 and opened.info()["functions"] == 2
    assert opened.verify() == []
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "index").iterdir()) == [
        *("expansion", "function", "lock", "manifest.json", "models", "neighbors", "signatures", "weights")
    ]


def test_a_second_run_embeds_nothing_and_writes_nothing(models, built, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir() if path.name != "lock"}
    encoder = FakeEncoder()
    again = Index.build(encoder, models, tmp_path / "index")
    assert encoder.embedded == [] and again.changes.unchanged == 3 and again.changes.removed == 0
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir() if path.name != "lock"}
    assert before == after


@pytest.mark.parametrize("how", ["rename", "copy", "touch", "folder"])
def test_what_moves_is_not_embedded_again(models, built, tmp_path, how):
    built.annotate(names(models)[0], {"note": "mine"})
    old, new = Path(names(models)[0]), models / "e.safetensors"
    if how == "rename":
        old.rename(new)
    elif how == "copy":  # the content tells
        shutil.copy(old, new)
    elif how == "touch":
        os.utime(old, (1, 1))
    else:
        models = models.rename(tmp_path / "elsewhere")
    encoder = FakeEncoder()
    again = Index.build(encoder, models, tmp_path / "index")
    assert encoder.embedded == [] and again.changes.removed == 0
    assert len(again) == (4 if how == "copy" else 3) and again.verify() == []
    place = {"rename": new, "folder": Path(names(models)[0])}.get(how, old)
    hit = again.search(str(place), by="weights")[0]
    assert (hit.id, hit.path, hit.same_weights) == (str(place), str(place), True)
    assert hit.metadata == {"note": "mine"}


def test_what_changes_is_embedded_and_what_is_gone_is_dropped(models, built, tmp_path):
    before = state(built)
    write_model(Path(names(models)[1]), 77)
    os.remove(names(models)[2])
    write_model(models / "new.safetensors", 5)
    encoder = FakeEncoder()
    again = Index.build(encoder, models, tmp_path / "index")
    assert encoder.embedded == [names(models)[1], str(models / "new.safetensors")]
    assert (again.changes.embedded, again.changes.unchanged, again.changes.removed) == (2, 1, 1)
    assert sorted(again.ids) == sorted([*names(models)[:2], str(models / "new.safetensors")])
    assert state(again)[names(models)[0]] == before[names(models)[0]]
    assert state(again)[names(models)[1]] != before[names(models)[1]] and again.verify() == []


def test_two_files_that_change_names_keep_their_vectors(models, built, tmp_path):
    first, second = map(Path, names(models)[:2])
    before = state(built)
    first.rename(models / "x")
    second.rename(first)
    (models / "x").rename(second)
    encoder = FakeEncoder()
    again = state(Index.build(encoder, models, tmp_path / "index"))
    assert encoder.embedded == []
    assert (again[str(first)], again[str(second)]) == (before[str(second)], before[str(first)])


def test_add_keeps_and_remove_takes_away(models, built, tmp_path):
    write_model(tmp_path / "more" / "z.safetensors", 9)
    built.add(FakeEncoder(), tmp_path / "more")
    assert built.ids == [*names(models), str(tmp_path / "more" / "z.safetensors")]
    built.remove([names(models)[1]])
    assert len(built) == 3 and names(models)[1] not in built.ids and built.verify() == []
    assert Index.open(tmp_path / "index").ids == built.ids
    with pytest.raises(InputError, match="is no model of the index"):
        built.remove(["nobody"])
    built.remove(built.ids)
    assert built.ids == [] and built.verify() == []


def test_bad_files_are_reported_and_the_others_indexed(models, tmp_path):
    (models / "bad.safetensors").write_bytes(b"no checkpoint")
    (models / "empty.pt").write_bytes(b"")
    (models / "README.md").write_text("not weights")
    (models / "lost.gguf").symlink_to("nowhere")
    index = Index.build(FakeEncoder(), models, tmp_path / "index")
    assert index.ids == names(models)
    told = sorted(str(problem) for problem in index.changes.problems)
    assert [line.split(":")[0] for line in told] == [
        str(models / name) for name in ("bad.safetensors", "empty.pt", "lost.gguf")
    ]
    write_model(models / "bad.safetensors", 4)
    again = Index.build(FakeEncoder(), models, tmp_path / "index")
    assert again.changes.embedded == 1 and len(again) == 4
    (models / "bad.safetensors").write_bytes(b"broken again")
    assert Index.build(FakeEncoder(), models, tmp_path / "index").ids == names(models)


def test_an_index_without_any_model_is_refused(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"no checkpoint could be used \(.*bad.safetensors"):
        Index.build(FakeEncoder(), tmp_path / "bad.safetensors", tmp_path / "index")
    with pytest.raises(InputError, match="folder without checkpoints"):
        Index.build(FakeEncoder(), tmp_path / "index", tmp_path / "index")
    with pytest.raises(InputError, match="no checkpoint was given"):
        Index.build(FakeEncoder(), [], tmp_path / "index")


def test_a_folder_in_another_one_that_is_indexed(tmp_path):
    write_model(tmp_path / "models" / "sub" / "a.safetensors", 1)
    built = Index.build(FakeEncoder(), [tmp_path / "models", tmp_path / "models"], tmp_path / "index")
    built.add(FakeEncoder(), tmp_path / "models" / "sub")
    built.update(FakeEncoder())
    assert built.ids == [str(tmp_path / "models" / "sub" / "a.safetensors")]


def test_a_name_that_is_no_utf8_is_indexed(tmp_path):
    path = tmp_path / "models" / os.fsdecode(b"caf\xe9.safetensors")
    write_model(tmp_path / "x", 0)
    path.parent.mkdir()
    (tmp_path / "x").rename(path)
    index = Index.build(FakeEncoder(), path.parent, tmp_path / "index")
    assert index.ids == [str(path.parent / "caf\\udce9.safetensors")]
    assert index.search(str(path))[0].path == str(path)


def test_links_that_go_round_in_circles_are_followed_once(models, tmp_path):
    (models / "b" / "up").symlink_to(models)
    assert Index.build(FakeEncoder(), models, tmp_path / "index").ids == names(models)


@pytest.mark.parametrize("storage", ["files", "array_record"])
def test_a_zoo_is_indexed_with_what_its_manifest_says(tmp_path, storage):
    records = write_zoo(tmp_path / "zoo", storage)
    encoder = FakeEncoder()
    index = Index.build(encoder, tmp_path / "zoo", tmp_path / "index")
    assert index.ids == [record.id for record in records] and len(encoder.hinted) == len(records)
    assert all(
        hints == {"activation": "relu", "input_shape": [8, 8, 1]} for hints in list(encoder.hinted.values())[::3]
    )
    hit = index.search("model-3", k=1)[0]
    assert hit.id == "model-3" and hit.metadata["task"] == "task-1" and hit.metadata["accuracy"] == 0.5
    assert Path(hit.path).is_file()
    again = FakeEncoder()
    Index.build(again, tmp_path / "zoo", tmp_path / "index")
    assert again.embedded == []
    manifest = tmp_path / "zoo" / "models.jsonl"
    manifest.write_text(manifest.read_text().replace("[8, 8, 1]", "[8, 8, 3]").replace('"task-1"', '"other"'))
    changed = Index.build(again, tmp_path / "zoo", tmp_path / "index")
    assert len(again.embedded) == len(records)  # hints are part of what makes a vector
    assert changed.search("model-3", k=1)[0].metadata["task"] == "other"


def test_a_second_zoo_does_not_take_the_ids_of_the_first(tmp_path):
    for name in ("one", "two"):
        write_zoo(tmp_path / name, count=3)
    with pytest.raises(InputError, match=r"has the id of .*one.*'model-0'"):
        Index.build(FakeEncoder(), [tmp_path / "one", tmp_path / "two"], tmp_path / "index")
    index = Index.build(FakeEncoder(), tmp_path / "one", tmp_path / "index")
    with pytest.raises(InputError, match=r"has the id of .*one.*'model-0'"):
        index.add(FakeEncoder(), tmp_path / "two")
    assert len(Index.open(tmp_path / "index")) == 3


def test_a_digest_that_does_not_cover_all_files_tells_nothing(tmp_path):
    """Weights that lie beside an ONNX graph differ, though the graph and all sizes are the same."""
    for name in ("one", "two"):
        write_model(tmp_path / name / "m.onnx", 0)
        (tmp_path / name / "m.onnx.data").write_text(name)
    index = Index.build(FakeEncoder(), tmp_path / "one", tmp_path / "index")
    encoder = FakeEncoder()
    index.add(encoder, tmp_path / "two")
    assert encoder.embedded == [str(tmp_path / "two" / "m.onnx")]
    (tmp_path / "two" / "m.onnx.data").write_text("new")
    index.add(encoder, tmp_path / "two")
    assert len(encoder.embedded) == 2


@pytest.mark.parametrize("seed", range(3))
def test_many_commits_hold_what_one_does(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(update, "COMMIT_EVERY", -1)
    monkeypatch.setattr(commit, "MOST_SEGMENTS", 3)
    rng = np.random.default_rng(seed)
    models = tmp_path / "models"
    for step in range(4):
        for number in rng.permutation(12)[:5]:
            write_model(models / f"{number}.safetensors", int(rng.integers(100)), function=bool(number % 3))
        for path in list(models.iterdir())[: step and 2]:
            path.unlink()
        index = Index.build(FakeEncoder(), models, tmp_path / "index")
        assert len(list((tmp_path / "index").glob("weights-*"))) <= 3
    whole = Index.build(FakeEncoder(), models, tmp_path / "other")
    assert state(index) == state(whole) and index.verify() == []
    hits, expected = ({h.id: h.score for h in i.search(whole.ids[0], 99, "weights")} for i in (index, whole))
    assert hits == pytest.approx(expected, abs=1e-6)


def test_another_encoder_is_refused(models, built, tmp_path):
    class Other(FakeEncoder):
        hash = "0" * 64

    with pytest.raises(InputError, match="was filled by the encoder ffffffffffff, not by 000000000000"):
        Index.open(tmp_path / "index", Other())
    with pytest.raises(InputError, match="was filled by the encoder"):
        Index.build(Other(), models, tmp_path / "index")
    assert Index.open(tmp_path / "index").ids == built.ids


def test_a_folder_of_something_else_is_refused(models, tmp_path):
    with pytest.raises(InputError, match="other things in it"):
        Index.build(FakeEncoder(), models, models)
    with pytest.raises(InputError, match="is no index"):
        Index.open(models)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="belongs to something else"):
        Index.open(tmp_path / "foreign")


def test_an_index_can_be_moved_with_its_models(models, built, tmp_path):
    new = tmp_path / "other" / "place"
    new.mkdir(parents=True)
    models.rename(new / "models")
    (tmp_path / "index").rename(new / "index")
    hit = Index.open(new / "index").search(built.ids[0], 1)[0]
    assert hit.path == names(new / "models")[0] and Path(hit.path).is_file()
    assert Index.open(new / "index").info()["sources"] == [str(models)]  # as it was named, like the ids
    content = b"".join(path.read_bytes() for path in (new / "index").glob("*.npy"))
    assert str(tmp_path).encode() not in content


def test_notes_of_the_user_outrank_the_manifest(models, built):
    built.annotate(names(models)[0], {"licence": "mit", "task": "cats"})
    built.annotate(names(models)[0], {"task": None})
    assert built.search(names(models)[0], 1)[0].metadata == {"license": "mit"}
    with pytest.raises(InputError, match="no model"):
        built.annotate("nobody", {"a": "b"})


def test_readers_see_the_state_that_they_opened(models, built, tmp_path):
    reader = Index.open(tmp_path / "index")
    write_model(models / "e.safetensors", 8)
    Index.build(FakeEncoder(), models, tmp_path / "index").remove([names(models)[0]])
    assert reader.ids == names(models)
    assert reader.search(names(models)[2], by="weights")[0].id == names(models)[2]
    assert len(reader.get(names(models)[0]).weights) == WEIGHTS and FUNCTION


def test_one_writer_at_a_time(models, tmp_path):
    with commit.writing(tmp_path / "index"), pytest.raises(InputError, match="written by another process"):
        Index.build(FakeEncoder(), models, tmp_path / "index")


def test_a_zoo_gives_all_hints_of_its_manifest(tmp_path):
    """The same as the main job takes from it, pooling too."""
    line = {
        "id": "a",
        "path": "a.safetensors",
        "task": "t",
        "dataset": "d",
        "architecture": "cnn",
        "activation": "tanh",
    }
    more = {"seed": 0, "parent": None, "step": 1, "accuracy": 0.5, "split": None}
    more |= {"pooling": "max", "strides": [1, 2]}
    (tmp_path / "models.jsonl").write_text(json.dumps(line | more) + "\n")
    (tmp_path / "a.safetensors").write_bytes(b"")
    (source,), problems, skipped = find_sources([str(tmp_path)])
    assert not problems and not skipped and source.hints == {"activation": "tanh", "pooling": "max", "strides": [1, 2]}

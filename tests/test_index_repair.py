"""A damaged index says which part is damaged, and repairing it brings back all that can be."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_encoder import FakeEncoder, names, write_model

from wsrl.errors import InputError
from wsrl.search.index import Index
from wsrl.search.repair import find_damage
from wsrl.text import printable

PARTS = {
    "manifest.json": "manifest",
    "models-*": "models",
    "weights-*": "vectors",
    "function-*": "vectors",
    "signatures-*": "vectors",
    "neighbors-*": "neighbors",
    "expansion-*": "neighbors",
}


def damage(directory: Path, pattern: str, how: str) -> Path:
    (path,) = directory.glob(pattern)
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    return path


def answers(index: Index) -> dict:
    rows = {name: index.get(name) for name in sorted(index.ids)}
    about = {name: (row.weights.tolist(), row.architecture, index.metadata(name)) for name, row in rows.items()}
    return about | {by: [(h.id, h.score) for h in index.search(rows[min(rows)], 9, by)] for by in ("weights", "auto")}


@pytest.mark.parametrize("how", ["gone", "empty", "changed"])
@pytest.mark.parametrize("pattern", PARTS)
def test_each_part_is_named_and_rebuilt(built, tmp_path, pattern, how):
    directory, encoder = tmp_path / "index", FakeEncoder()
    built.annotate(built.ids[0], {"note": "mine"})
    built.annotate(built.ids[2], {"license": "mit"})
    expected = answers(Index.open(directory))
    path = damage(directory, pattern, how)
    (found,) = find_damage(directory)
    assert (found.part, found.file) == (PARTS[pattern], str(path))
    repaired = Index.repair(directory, encoder)
    assert repaired.damage == [found] and repaired.lost == [] and repaired.changes.problems == []
    assert len(encoder.embedded) == (0 if PARTS[pattern] == "neighbors" else 3)
    found = answers(Index.open(directory))
    if (PARTS[pattern], how) in (("models", "gone"), ("models", "empty")):  # notes stood there alone
        found[built.ids[0]][2].update(note="mine")
        found[built.ids[2]][2].update(license="mit")
    assert found == expected and find_damage(directory) == []
    assert Index.repair(directory, encoder).damage == []


def test_only_the_damaged_segment_is_embedded_again(built, models, tmp_path):
    write_model(tmp_path / "more" / "z.safetensors", 9)
    built.add(FakeEncoder(), tmp_path / "more")
    expected, encoder = answers(Index.open(tmp_path / "index")), FakeEncoder()
    last = sorted((tmp_path / "index").glob("weights-*"))[-1]
    last.unlink()
    repaired = Index.repair(tmp_path / "index", encoder)
    assert encoder.embedded == [str(tmp_path / "more" / "z.safetensors")] and repaired.changes.embedded == 1
    assert answers(Index.open(tmp_path / "index")) == expected


def test_a_model_whose_file_is_gone_is_lost_but_not_its_notes(built, models, tmp_path):
    first = names(models)[0]
    built.annotate(first, {"note": "mine"})
    Path(first).rename(tmp_path / "away")
    damage(tmp_path / "index", "weights-*", "gone")
    repaired = Index.repair(tmp_path / "index", FakeEncoder())
    assert repaired.lost == [first] and first in str(repaired.changes.problems[0])
    assert Index.open(tmp_path / "index").ids == names(models)[1:] and find_damage(tmp_path / "index") == []
    (tmp_path / "away").rename(first)
    index = Index.open(tmp_path / "index")
    index.update(FakeEncoder())
    assert index.metadata(first) == {"note": "mine"} and len(index) == 3


def test_what_cannot_be_rebuilt_is_left_as_it_is(built, models, tmp_path):
    with pytest.raises(InputError, match="is no index"):
        Index.repair(tmp_path / "none", FakeEncoder())
    assert not (tmp_path / "none").exists()
    for path in models.rglob("*.safetensors"):
        path.unlink()
    damage(tmp_path / "index", "manifest.json", "changed")
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    with pytest.raises(InputError, match="no file of its models can be used"):
        Index.repair(tmp_path / "index", FakeEncoder())
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_an_index_without_its_manifest_knows_its_files_again(built, models, tmp_path):
    damage(tmp_path / "index", "manifest.json", "changed")
    Index.repair(tmp_path / "index", FakeEncoder())
    index = Index.open(tmp_path / "index")
    assert sorted(index.sources) == sorted(names(models))
    index.update(FakeEncoder())
    assert len(index) == 3 and index.changes.embedded == 0


def test_an_index_of_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(InputError):
        Index.build(FakeEncoder(), tmp_path / "nothing.safetensors", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        Index.build(FakeEncoder(), tmp_path / "nothing.safetensors", tmp_path / "empty")
    assert (tmp_path / "empty").is_dir()


def test_an_id_is_known_as_commands_print_it(models, tmp_path):
    write_model(models / "a\nb.safetensors", 5)
    index = Index.build(FakeEncoder(), models, tmp_path / "index")
    (name,) = (own for own in index.ids if "\n" in own)
    index.remove([printable(name)])
    assert name not in index.ids


def test_another_encoder_repairs_nothing(built, tmp_path):
    class Other(FakeEncoder):
        hash = "0" * 64

    damage(tmp_path / "index", "weights-*", "gone")
    with pytest.raises(InputError, match="was filled by the encoder"):
        Index.repair(tmp_path / "index", Other())


WRITER = """
import sys, time
sys.path[:0] = [{tests!r}]
from fake_encoder import FakeEncoder
from wsrl.search import update
from wsrl.search.index import Index

update.COMMIT_EVERY = -1

class Slow(FakeEncoder):
    def _row(self, source, function):
        time.sleep(0.005)
        return super()._row(source, function)

print("ready", flush=True)
{call}
"""
CALLS = {
    "index": "Index.build(Slow(), {models!r}, {index!r})",
    "add": "Index.open({index!r}).add(Slow(), {more!r})",
    "remove": "index = Index.open({index!r})\nfor name in index.ids[:6]: index.remove([name])",
    "repair": "Index.repair({index!r}, Slow())",
}


@pytest.mark.parametrize("seed", range(int(os.environ.get("WSRL_KILLS", "1"))))
@pytest.mark.parametrize("verb", CALLS)
def test_a_command_that_is_killed_at_any_moment(tmp_path, verb, seed):
    """Nothing committed is lost or doubled, and the next run finishes the rest."""
    models, more, directory = tmp_path / "models", tmp_path / "more", tmp_path / "index"
    for number in range(12):
        write_model((more if number > 7 else models) / f"{number}.safetensors", number, function=bool(number % 3))
    first = sorted(map(str, models.iterdir()))
    before: list[str] = []
    if verb != "index":
        before = Index.build(FakeEncoder(), models, directory).ids
        Index.open(directory).annotate(first[-1], {"note": "mine"})
    if verb == "repair":
        damage(directory, "weights-*", "changed")
    values = {"models": str(models), "more": str(more), "index": str(directory)}
    code = WRITER.format(tests=str(Path(__file__).parent), call=CALLS[verb].format(**values))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OPENBLAS_NUM_THREADS": "1"}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
    time.sleep((seed * 0.618 % 1) * 0.4 + 0.02)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    if (directory / "manifest.json").exists():
        ids = Index.open(directory).ids
        assert len(set(ids)) == len(ids)
        assert verb == "repair" or find_damage(directory) == []
        assert verb in ("index", "remove") or set(before) <= set(ids)
    if verb == "remove":
        assert set(first[6:]) <= set(Index.open(directory).ids)
    if verb == "repair":
        Index.repair(directory, FakeEncoder())
    index = Index.build(FakeEncoder(), models, directory)
    if verb == "add":
        index.add(FakeEncoder(), more)
    expected = first + (sorted(map(str, more.iterdir())) if verb == "add" else [])
    assert sorted(index.ids) == sorted(expected) and find_damage(directory) == []
    assert verb == "index" or index.metadata(first[-1]) == {"note": "mine"}
    for row in FakeEncoder().embed(index.ids):
        assert (index.get(row.id).weights == row.weights).all()
    own = json.loads((directory / "manifest.json").read_text())["files"]
    assert {path.name for path in directory.iterdir()} == {*own, "manifest.json", "lock"}

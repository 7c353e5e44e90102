"""Add, remove, search and ids of an index: the same in a folder, in a file of Milvus Lite and in a folder of Qdrant."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder, names, write_model

from wsrl.cli.main import main
from wsrl.errors import InputError
from wsrl.search import near_groups
from wsrl.search.address import is_address
from wsrl.search.index import Index
from wsrl.vector_stores.row_facts import bounds_of

PACKAGES = {"milvus": ("pymilvus", "milvus_lite"), "qdrant": ("qdrant_client",)}


def address_of(kind, folder):
    for package in PACKAGES.get(kind, ()):
        pytest.importorskip(package, reason=f"needs the extra {kind}")
    return {"folder": folder / "index", "milvus": f"milvus://{folder}/zoo.db", "qdrant": f"qdrant://{folder}/zoo"}[kind]


@pytest.fixture(params=["folder", "milvus", "qdrant"])
def address(request, tmp_path):
    return address_of(request.param, tmp_path)


@pytest.fixture
def index(models, address):
    for seed in range(3, 40):
        write_model(models / "more" / f"{seed}.safetensors", seed, seed % 2 == 0, f"kind {seed % 3}")
    index = Index.build(FakeEncoder(), models, address)
    yield index
    if hasattr(index, "close"):
        index.close()


class TestEveryIndex:
    def test_ids_and_rows(self, models, index):
        assert len(index) == 40 and index.changes.embedded == 40
        assert set(names(models)) < set(index.ids) and len(set(index.ids)) == 40
        row, told = index.get(names(models)[0]), next(iter(FakeEncoder().embed([names(models)[0]])))
        np.testing.assert_allclose(row.weights, told.weights, atol=1e-6)
        np.testing.assert_allclose(row.function, told.function, atol=1e-6)
        assert (row.weights_digest, row.parameters, row.assumed) == (told.weights_digest, 28, told.assumed)
        assert index.get(names(models)[2]).function is None
        assert (index.info()["models"], index.info()["functions"]) == (40, 20)
        with pytest.raises(InputError, match="nobody: is no model of the index"):
            index.get("nobody")

    @pytest.mark.parametrize("by", ["weights", "auto"])
    def test_search_finds_the_nearest(self, models, index, by):
        query = names(models)[2]  # without a function
        hits = index.search(query, 5, by)
        rows = {name: index.get(name).weights @ index.get(query).weights for name in index.ids}
        assert [hit.id for hit in hits] == sorted(rows, key=lambda name: -rows[name])[:5]
        np.testing.assert_allclose([hit.score for hit in hits], [max(rows[hit.id], 0) for hit in hits], atol=1e-5)
        assert (hits[0].same_weights, hits[1].same_weights, hits[0].rank) == (True, False, 1)
        assert Path(hits[0].path) == Path(query) and index.explanation.by == "weights"

    def test_search_by_function(self, models, index):
        hits = index.search(names(models)[0], 3, "function")
        assert (hits[0].id, hits[0].score, index.explanation.by) == (names(models)[0], 1.0, "function")
        assert all(index.get(hit.id).function is not None for hit in hits) and len(hits) == 3
        with pytest.raises(InputError, match="has no function vector"):
            index.search(names(models)[2], 3, "function")

    def test_several_queries_and_counter_examples(self, models, index):
        a, b, _ = names(models)
        hits = index.search([a, b], 40, "weights", against=[index.ids[-1]])
        rows = {name: index.get(name).weights for name in index.ids}
        scores = {name: rows[name] @ (rows[a] + rows[b]) / 2 for name in rows}
        kept = [name for name in rows if rows[name] @ rows[index.ids[-1]] < scores[name]]
        assert {hit.id for hit in hits} == set(kept)  # the two queries are as near to their mean as each other
        assert [scores[hit.id] for hit in hits] == pytest.approx(sorted((scores[n] for n in kept), reverse=True))

    @pytest.mark.parametrize(
        "where", [["parameters>20"], ["parameters<=16", "architecture=kind 1"], ["predicted_accuracy>50%"],
                  ["architecture!=kind*"], ["size>1GB"], ["parameters=28", "id=*more*"], ["predicted_accuracy!=0.5"]]
    )  # fmt: skip
    def test_conditions(self, models, index, where):
        found = {hit.id for hit in index.search(names(models)[0], 40, "weights", where=where)}
        holds = {
            "parameters>20": lambda row: row.parameters > 20,
            "parameters<=16": lambda row: row.parameters <= 16,
            "parameters=28": lambda row: row.parameters == 28,
            "architecture=kind 1": lambda row: row.architecture == "kind 1",
            "architecture!=kind*": lambda row: not row.architecture.startswith("kind"),
            "predicted_accuracy>50%": lambda row: (row.accuracy or 0) > 0.5,
            "predicted_accuracy!=0.5": lambda row: True,
            "size>1GB": lambda row: False,
            "id=*more*": lambda row: "more" in row.id,
        }
        assert found == {name for name in index.ids if all(holds[text](index.get(name)) for text in where)}

    def test_few_of_many_fulfill_a_condition(self, index):
        last = index.search(index.ids[0], 40, "weights")[-1].id
        assert [hit.id for hit in index.search(index.ids[0], 1, "weights", where=[f"id={last}"])] == [last]

    def test_groups_orders_and_architectures(self, models, index):
        hits = index.search(names(models)[0], 9, "weights", group_by="architecture", per_group=2)
        kinds = [hit.architecture for hit in hits]
        assert len(kinds) == 8 and all(kinds.count(kind) == 2 for kind in kinds)
        hits = index.search(names(models)[0], 9, "weights", sort="parameters:desc")
        assert [hit.parameters for hit in hits] == sorted((hit.parameters for hit in hits), reverse=True)
        hits = index.search(names(models)[0], 40, "weights", architecture="same")
        assert {hit.id for hit in hits} == set(names(models))
        assert len(index.search(names(models)[0], 40, "weights", architecture="other")) == 37
        found = {hit.id for hit in index.search(names(models)[0], 40, "weights", exclude=names(models)[:2])}
        assert len(found) == 38 and not found & set(names(models)[:2])

    def test_families_are_told_by_near_vectors(self, models, index, monkeypatch):
        monkeypatch.setattr(near_groups, "CLOSE", 0.3)
        vectors = {name: index.get(name).weights for name in index.ids}
        ranked = [hit.id for hit in index.search(names(models)[0], 40, "weights")]
        kept: list[str] = []
        for name in ranked:
            kept += [name] if all(vectors[name] @ vectors[other] < 0.3 for other in kept) else []
        hits = index.search(names(models)[0], 40, "weights", group_by="lineage")
        assert [hit.id for hit in hits] == kept and 1 < len(kept) < 30

    def test_a_copy_comes_first(self, models, index):
        copy = models / "copy.safetensors"
        safetensors.numpy.save_file(safetensors.numpy.load_file(names(models)[0]), copy, {"note": "other bytes"})
        index.add(FakeEncoder(), copy)
        assert (len(index), index.changes.embedded) == (41, 1)
        assert {hit.id for hit in index.search(names(models)[0], 2)} == {names(models)[0], str(copy)}
        assert all(hit.same_weights for hit in index.search(copy, 2))

    def test_add_and_build_embed_what_is_new(self, models, index, address):
        encoder = FakeEncoder()
        write_model(Path(names(models)[0]), 99)
        write_model(models / 'it\'s "new" é.safetensors', 100)
        Path(names(models)[1]).unlink()
        index.add(encoder, models)
        assert sorted(encoder.embedded) == sorted([names(models)[0], str(models / 'it\'s "new" é.safetensors')])
        assert (len(index), index.changes.unchanged, index.changes.embedded) == (41, 38, 2)
        if hasattr(index, "close"):
            index.close()
        again = Index.build(encoder, models, address)
        assert (again.changes.removed, again.changes.embedded, len(again)) == (1, 0, 40)
        assert names(models)[1] not in again.ids
        if hasattr(again, "close"):
            again.close()

    def test_remove(self, models, index):
        quoted = models / "x' or id != 'y.safetensors"
        write_model(quoted, 50)
        index.add(FakeEncoder(), quoted)
        index.remove([str(quoted), names(models)[2]])
        assert (len(index), index.changes.removed) == (39, 2) and not {str(quoted), names(models)[2]} & set(index.ids)
        with pytest.raises(InputError, match="nobody: is no model of the index"):
            index.remove([names(models)[0], "nobody"])
        assert names(models)[0] in index.ids
        assert names(models)[2] not in {hit.id for hit in index.search(names(models)[0], 40, "weights")}

    def test_what_cannot_be_used_is_told(self, models, index):
        (models / "broken.safetensors").write_bytes(b"broken")
        index.add(FakeEncoder(), models)
        assert len(index.changes.problems) == 1 and "broken.safetensors" in str(index.changes.problems[0])
        for options in ({"k": 0}, {"by": "name"}, {"architecture": "new"}, {"where": ["size"]}, {"sort": "id:up"}):
            with pytest.raises(InputError):
                index.search(names(models)[0], **options)
        with pytest.raises(InputError, match="is neither a checkpoint nor a model"):
            index.search("nobody")

    def test_an_index_of_another_encoder_is_refused(self, models, index, address):
        class Other(FakeEncoder):
            hash = "0" * 64

        if hasattr(index, "close"):
            index.close()
        with pytest.raises(InputError, match="was filled by the encoder ffffffffffff, not by 000000000000"):
            Index.open(address, Other())
        reopened = Index.open(address, FakeEncoder())
        assert len(reopened) == 40
        with pytest.raises(InputError, match="was filled by the encoder ffffffffffff, not by 000000000000"):
            reopened.add(Other(), models)
        if hasattr(reopened, "close"):
            reopened.close()


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_one_process_at_a_time(models, tmp_path, kind):
    address = address_of(kind, tmp_path)
    index = Index.build(FakeEncoder(), models, address)
    done = command("index", str(models), "--out", address)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {address}: is open already") and done.stderr.count("\n") == 1
    assert ("milvus-lite server" if kind == "milvus" else "a server of Qdrant") in done.stderr
    assert len(index) == 3
    index.close()
    done = command("info", "--index", address)
    assert done.returncode == 0 and "models     3" in done.stdout, done.stderr


def command(*words):
    """Runs a command in a process of its own."""
    code = f"import sys; from wsrl.cli.main import main; sys.exit(main({words!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_the_command_line(models, tmp_path, kind, capsys, monkeypatch):
    address = address_of(kind, tmp_path)
    monkeypatch.setattr("wsrl.encoder.checkpoint_encoder.load_encoder", lambda *_: FakeEncoder())
    query = names(models)[0]
    told = []
    for words in (
        ["index", str(models), "--out", address], ["search", query, "--index", address, "--format", "ids"],
        ["remove", names(models)[2], "--index", address], ["info", "--index", address],
    ):  # fmt: skip
        assert main(words) == 0
        told.append(capsys.readouterr().out)
    assert "3 models, 2 with a function vector" in told[0] and told[1].splitlines()[0] == query
    assert main(["map", "--index", address, "--out", str(tmp_path / "map.html")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_methods_that_need_a_folder_are_told(models, tmp_path):
    index = Index.build(FakeEncoder(), models, address_of("qdrant", tmp_path))
    for call in (index.verify, index.functional, lambda: index.update(FakeEncoder()), lambda: index.annotate("a", {})):
        with pytest.raises(InputError, match="is a vector store, which cannot do this; use an index folder"):
            call()
    index.close()


@pytest.mark.parametrize(
    ("address", "message"),
    [("milvus:///nowhere/zoo.db", "is not there"), ("qdrant:///nowhere/zoo", "is not there"),
     ("milvus://host:1/a-b", "names an index 'a-b'")],
)  # fmt: skip
def test_addresses_that_are_none(address, message):
    with pytest.raises(InputError, match=message):
        Index.open(address)


def test_what_is_an_address(built):
    assert is_address("milvus://host:19530") and is_address("qdrant:///x") and is_address("zoo.db")
    assert not is_address("zoo.index") and not is_address(Path("some/folder"))
    renamed = built.directory.rename(built.directory.with_name("folder.db"))
    assert not is_address(renamed) and len(Index.open(renamed)) == 3


def test_bounds_hold_all_that_fulfill_a_condition():
    infinity = float("inf")
    assert bounds_of(["parameters>6B"]) == {"parameters": (6e9, infinity)}
    assert bounds_of(["params<=1k", "parameters>=10"]) == {"parameters": (10, 1000)}
    assert bounds_of(["size=1kB"]) == {"size": (1000, 1000)}
    assert bounds_of(["architecture=x", "parameters!=3", "license=mit"]) == {}
    with pytest.raises(InputError, match="is no count"):
        bounds_of(["parameters>many"])

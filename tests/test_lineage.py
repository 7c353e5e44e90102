"""Families, trees and directions, with a comparison that knows how far numbers are apart."""

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import safetensors.numpy
from fake_encoder import FakeEncoder
from hypothesis import given
from hypothesis import strategies as st

from wsrl.checkpoint import Checkpoint
from wsrl.cli.main import main
from wsrl.comparison import compare as compare_module
from wsrl.comparison.relation import Kind, LayerRelation, Relation
from wsrl.encoder import checkpoint_encoder
from wsrl.errors import InputError
from wsrl.origins import relatives
from wsrl.origins.lineage import Family, find_lineage, tree_lines
from wsrl.origins.rooted import drawn_to_hubs, first_is_parent, root_probabilities, sides, spanning_tree
from wsrl.readers.declared import base_names, card_bases, declared_bases, named_bases, names_model
from wsrl.search.index import Index

SIZE = 512
MOVED = 0.05  # by training on, relative


def compare_numbers(a: Checkpoint, b: Checkpoint) -> Relation:
    """Networks are related if they are nearer than independent ones; the one of float16 was made from the other."""
    x, y = (np.asarray(own.tensors["w"], np.float64).ravel() for own in (a, b))
    change = float(np.linalg.norm(x - y) / np.linalg.norm(x))
    layers = (LayerRelation("w", "w", "changed", change),)
    half = [own.tensors["w"].dtype == "float16" for own in (a, b)]
    if change > 0.9:
        return Relation(Kind.UNRELATED, layers=layers)
    if change < 1e-2:
        return Relation(Kind.SAME_PRECISION, None, layers, True, derived="a" if half[0] else "b" if half[1] else None)
    return Relation(Kind.FINE_TUNED, None, layers, True)


def base(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def trained(values: np.ndarray, seed: int) -> np.ndarray:
    return values + np.float32(MOVED) * np.random.default_rng(100 + seed).standard_normal(values.shape, np.float32)


def write(name: str, values: np.ndarray, **metadata: str) -> None:
    Path("models").mkdir(exist_ok=True)
    safetensors.numpy.save_file({"w": values}, f"models/{name}.safetensors", metadata or None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lineage(query: str | None = None):
    Index.build(FakeEncoder(), "models", "zoo.index")
    return find_lineage("zoo.index", query, compare=compare_numbers)


def parents(family: Family) -> dict[str, str]:
    return {Path(link.child).stem: Path(link.parent).stem for link in family.links if link.directed}


def test_a_base_with_many_children_is_their_parent(folder):
    write("base", base(0))
    for child in range(8):
        write(f"child-{child}", trained(base(0), child))
    write("stranger", base(1))
    family, alone = lineage().families
    assert parents(family) == {f"child-{i}": "base" for i in range(8)}
    assert Path(family.root).stem == "base" and alone.models == ("models/stranger.safetensors",)
    assert all("left from where it lies" in link.evidence[0] for link in family.links)


def test_equal_weights_in_other_formats_left_nothing_behind(folder):
    write("base", base(0))
    for number in range(5):
        write(f"copy-{number}", base(0), note=str(number))
    (family,) = lineage().families
    assert len(family.models) == 6 and not parents(family)


def test_a_tensor_that_was_zero_is_not_infinitely_far(folder):
    write("base", base(0))
    write("tuned", trained(base(0), 0))

    def compare(a: Checkpoint, b: Checkpoint) -> Relation:
        relation = compare_numbers(a, b)
        return dataclasses.replace(relation, layers=(*relation.layers, LayerRelation("b", "b", "changed", 1e15)))

    Index.build(FakeEncoder(), "models", "zoo.index")
    (family,) = find_lineage("zoo.index", compare=compare).families
    assert family.links[0].distance == pytest.approx(np.sqrt((MOVED**2 + 1) / 2), rel=0.1)


def test_siblings_without_their_parent_have_none(folder):
    for child in range(8):
        write(f"child-{child}", trained(base(0), child))
    (family,) = lineage().families
    assert len(family.models) == 8 and not parents(family)


def test_two_relatives_without_evidence_have_no_direction(folder):
    write("a", base(0))
    write("b", trained(base(0), 0))
    (family,) = lineage().families
    assert len(family.links) == 1 and not parents(family) and family.links[0].kind == Kind.FINE_TUNED


def test_what_weights_and_files_tell_decides(folder):
    write("a", base(0))
    write("half", base(0).astype(np.float16))
    write("tuned", trained(base(0), 0), base_model="somebody/a")
    write("orphan", trained(base(0), 1), base_model="somebody/gone")
    Path("models/somebody").mkdir()
    Path("models/a.safetensors").rename("models/somebody/a.safetensors")
    (family,) = lineage().families
    assert parents(family) | {"orphan": ""} == {"half": "a", "tuned": "a", "orphan": ""}
    assert family.absent == {"models/orphan.safetensors": ("somebody/gone",)}
    told = {Path(link.child).stem: link.evidence for link in family.links}
    assert told["tuned"] == ("models/tuned.safetensors names it in its metadata (base_model)",)


def test_one_model_is_asked_about(folder, monkeypatch):
    monkeypatch.setattr(relatives, "load_encoder", FakeEncoder)
    write("a", base(0))
    write("b", trained(base(0), 0))
    write("c", base(1))
    (family,) = lineage("models/b.safetensors").families
    assert set(family.models) == {"models/a.safetensors", "models/b.safetensors"}
    safetensors.numpy.save_file({"w": trained(base(1), 3)}, "query.safetensors")
    (family,) = lineage("query.safetensors").families
    assert set(family.models) == {"models/c.safetensors", "query.safetensors"}
    with pytest.raises(InputError, match="nothing"):
        lineage("nothing")


def test_copies_of_the_same_bytes_are_one_model(folder):
    write("a", base(0))
    Path("models/copy.safetensors").write_bytes(Path("models/a.safetensors").read_bytes())
    write("half", base(0).astype(np.float16))
    (family,) = lineage().families
    assert family.copies == {"models/a.safetensors": ("models/copy.safetensors",)}
    assert tree_lines(family)[0] == "models/a.safetensors = models/copy.safetensors"
    assert tree_lines(family)[1].startswith("└─ models/half.safetensors  (")


def test_the_command(folder, capsys, monkeypatch):
    monkeypatch.setattr(compare_module, "compare", compare_numbers)
    monkeypatch.setattr(checkpoint_encoder, "load_encoder", FakeEncoder)
    write("a", base(0))
    write("half", base(0).astype(np.float16))
    write("b", base(1))
    Index.build(FakeEncoder(), "models", "zoo.index")
    assert main(["lineage", "--index", "zoo.index", "--json"]) == 0
    lines = {line["id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    half = lines["models/half.safetensors"]
    assert half["parent"] == half["family"] == "models/a.safetensors" and half["evidence"]
    assert lines["models/b.safetensors"]["parent"] is None and lines["models/b.safetensors"]["direction"] == "unknown"
    assert main(["lineage", "models/half.safetensors", "--index", "zoo.index", "--format", "human"]) == 0
    assert "models/half.safetensors: from models/a.safetensors, since " in capsys.readouterr().out
    assert main(["lineage", "--index", "zoo.index", "--plot", "tree.svg"]) == 0
    drawn = [own.text for own in ElementTree.parse("tree.svg").iter() if own.tag.endswith("text")]
    assert "a.safetensors" in drawn and "half.safetensors" in drawn
    assert any("since the other is rounded from it" in (text or "") for text in drawn)
    assert main(["lineage", "--index", "zoo.index", "--plot", "models/a.safetensors"]) == 1
    assert "is not the name of an SVG file" in capsys.readouterr().err
    assert main(["lineage", "--index", "zoo.index", "--note"]) == 0
    hits = Index.open("zoo.index", FakeEncoder()).search("models/half.safetensors", by="weights")
    noted = {hit.id: hit.metadata["lineage"] for hit in hits}
    assert noted == {
        "models/a.safetensors": "models/a.safetensors",
        "models/half.safetensors": "models/a.safetensors",
        "models/b.safetensors": "models/b.safetensors",
    }


@given(st.integers(2, 12), st.integers(0, 1000))
def test_probabilities_of_roots_are_those_of_orders(count, seed):
    """Of a star of n leaves the center is the root with one half; evidence overrides it."""
    rng = np.random.default_rng(seed)
    edges = spanning_tree(count, {(i, int(rng.integers(i))): float(rng.random()) for i in range(1, count)})
    on_side = sides(count, edges)
    roots = root_probabilities(on_side, np.zeros(count - 1))
    assert np.isclose(roots.sum(), 1) and on_side.any(1).all() and not on_side.all(1).any()
    sure = root_probabilities(on_side, np.full(count - 1, 0.0) + 50.0 * (np.arange(count - 1) == 0))
    assert first_is_parent(on_side, sure)[0] > 0.99
    star = sides(count, [(0, leaf) for leaf in range(1, count)])
    assert np.isclose(root_probabilities(star, np.zeros(count - 1))[0], 0.5)


def test_the_shortest_edges_join_all():
    assert spanning_tree(4, {(0, 1): 1.0, (1, 2): 2.0, (0, 2): 3.0, (2, 3): 0.5}) == [(2, 3), (0, 1), (1, 2)]


def test_a_hub_outweighs_what_lies_close_to_it():
    """Model 1 was trained a little from 0, and 2 from there in much the same direction; all others come from 0."""
    distances = {(0, 1): 0.05, (1, 2): 0.08, (0, 2): 0.09}
    distances |= {(0, child): 0.5 + child / 100 for child in range(3, 8)}
    distances |= {(1, child): 1.15 * (0.5 + child / 100) for child in range(3, 8)}
    drawn = drawn_to_hubs(8, distances, {})
    assert spanning_tree(8, drawn) == sorted(((0, child) for child in range(1, 8)), key=distances.__getitem__)
    assert (1, 2) in spanning_tree(8, distances)


def test_a_converted_model_comes_from_an_original():
    """Models 1 and 2 were made from 0, and 2 lies a little nearer to 1."""
    distances = {(0, 1): 0.006, (0, 2): 0.201, (1, 2): 0.2}
    drawn = drawn_to_hubs(3, distances, {(0, 1): 1, (0, 2): 2, (1, 2): 2})
    assert spanning_tree(3, drawn) == [(0, 1), (0, 2)]


def test_cards_and_configurations_declare_bases(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nbase_model:\n- some/base\n- 'other/one'\n---\nbase_model: x/y"
    )
    assert card_bases(tmp_path / "README.md") == ["some/base", "other/one"]
    (tmp_path / "README.md").write_text("---\nbase_model: [a/bcd]\n---\n")
    metadata = {"config": {"_name_or_path": "own/name"}, "adapter_config": {"base_model_name_or_path": "big/base"}}
    found = [base.name for base in declared_bases(metadata, str(tmp_path))]
    assert found == ["big/base", "own/name", "a/bcd"] and card_bases(tmp_path / "none") == []
    assert named_bases(metadata, str(tmp_path)) == ("big/base", "a/bcd")
    told = {"gguf": {"general.base_model.0.repo_url": "https://huggingface.co/a/b", "general.base_model.0.name": "B"}}
    told["gguf"] |= {"general.base_model.1.name": "Other", "general.base_model.1.organization": "O"}
    assert named_bases(told, str(tmp_path / "x.gguf")) == ("a/b", "Other")
    beside = {"adapter_config": {"base_model_name_or_path": None}}  # the card lies beside a file
    assert named_bases(beside, str(tmp_path / "x.safetensors")) == ("a/bcd",)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("owner/name", ["owner/name"]),
        (["https://huggingface.co/a/base/", "http://hf.co/b/c/tree/main", "hf://a/base"], ["a/base", "b/c"]),
        ({"name": "huggingface.co/a/base", "revision": None, "also": ["www.huggingface.co/b/c"]}, ["a/base", "b/c"]),
        ("https://example.com/owner/name", ["https://example.com/owner/name"]),
        (None, []),
        (7, []),
        ([1.5, None, True, "ab", "null"], []),
    ],
)
def test_bases_have_one_form(value, names):
    assert base_names(value) == names


@pytest.mark.parametrize(
    ("front", "names"),
    [
        ("base_model:\n- name: some/base\n  version: 2\n", ["some/base"]),
        ("base_model: {a: [b/c]}\ntags:\n- {d: e}\n", ["b/c"]),
        ("base_model: [a/b\n", []),
        ("base_model: &x [*x]\n", []),
        ("- a list\n", []),
        ("base_model:\n", []),
        ("base_model: null\n", []),
        ("base_model: [~, https://huggingface.co/a/b]\n", ["a/b"]),
        ("base_model: 12\n", []),
    ],
)
def test_cards_of_any_form_are_read(tmp_path, front, names):
    (tmp_path / "README.md").write_text(f"---\n{front}---\n")
    assert card_bases(tmp_path / "README.md") == names


@pytest.mark.parametrize(
    ("name", "path", "meant"),
    [
        ("owner/base", "/hub/models--owner--base/snapshots/1/model.safetensors", True),
        ("owner/base", "/zoo/owner/base", True),
        ("owner/base", "/zoo/owner/base/model.safetensors", True),
        ("owner/base", "/zoo/owner/base.safetensors", True),
        ("owner/base", "/zoo/another/base.safetensors", False),
        ("base", "/zoo/base.safetensors", True),
        ("base", "/zoo/base-tuned.safetensors", False),
        ("owner/base", "/zoo/self", False),
    ],
)
def test_a_declared_name_means_a_path(name, path, meant):
    assert names_model(name, path, "/zoo/self") is meant
    assert not names_model(name, path, path)

"""What `wsrl compare` says of small networks whose relation is known."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import draw_model, draw_network
from safetensors.numpy import save_file

from experiments.tables.identity import as_pytorch, four_bits
from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.cli.main import main
from wsrl.comparison import chain, matching
from wsrl.comparison.compare import compare
from wsrl.comparison.formula import is_formula
from wsrl.comparison.grid import find_grid, grid_of
from wsrl.comparison.matching import Agreement, match
from wsrl.comparison.merge import find_merge
from wsrl.comparison.relation import Kind
from wsrl.errors import InputError
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.zoo.copies import add_noise, prune, quantize
from wsrl.zoo.models import MLP, ResNet

RNG = np.random.default_rng(3)


def changed(checkpoint: Checkpoint, change) -> Checkpoint:
    """The checkpoint after a change of its tensors."""
    tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=change(tensors))


def tuned(tensors: dict, size: float = 0.1) -> dict:
    """Differences of another size in each tensor, with a few strong directions and a rest."""
    rng = np.random.default_rng(4)
    made = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        rest = rng.standard_normal(tensor.shape)
        if tensor.ndim > 1:
            flat = tensor.reshape(-1, tensor.shape[-1])
            strong = rng.standard_normal((len(flat), 2)) @ rng.standard_normal((2, flat.shape[1]))
            rest = rest + strong.reshape(tensor.shape)
        made[name] = (tensor + size / (1 + i % 3) * np.abs(tensor).mean() * rest).astype(np.float32)
    return made


def adapted(tensors: dict) -> dict:
    """Adds a matrix of rank 2 to every large matrix."""
    rng = np.random.default_rng(5)
    return {
        n: t + 0.05 * (rng.standard_normal((len(t), 2)) @ rng.standard_normal((2, t.shape[1]))).astype(np.float32)
        if t.ndim == 2 and min(t.shape) > 16
        else t
        for n, t in tensors.items()
    }


def bfloat16(tensors: dict) -> dict:
    return {name: t.astype(ml_dtypes.bfloat16).astype(np.float32) for name, t in tensors.items()}


CHANGES = {
    "names and layout": (as_pytorch, Kind.SAME_WEIGHTS, None),
    "bfloat16": (bfloat16, Kind.SAME_WEIGHTS, "b"),
    "int8": (quantize, Kind.SAME_PRECISION, "b"),
    "four bits": (four_bits, Kind.SAME_PRECISION, "b"),
    "noise": (lambda tensors: add_noise(tensors, 6), Kind.NOISE, None),
    "pruned": (prune, Kind.PRUNED, "b"),
    "fine-tuned": (tuned, Kind.FINE_TUNED, None),
}


@pytest.mark.parametrize("family", ["mlp", "cnn_flatten", "resnet"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_recognized_in_both_directions(family, change):
    network, _ = draw_network(family, 0)
    function, kind, derived = CHANGES[change]
    other = changed(network, function)
    relation, back = compare(network, other), compare(other, network)
    assert (relation.kind, relation.derived) == (kind, derived)
    assert (back.kind, back.derived) == (kind, {"a": "b", "b": "a"}.get(derived))
    assert relation.related and relation.p_value is not None and relation.p_value < 1e-5


@pytest.mark.parametrize("family", ["mlp", "cnn_flatten"])
def test_zeros_of_a_quantizer_are_not_pruned(family):
    network, _ = draw_network(family, 0)
    relation = compare(network, changed(network, lambda tensors: four_bits(tuned(tensors, 0.5))))
    assert relation.kind is Kind.FINE_TUNED and "pruned" not in {layer.what for layer in relation.layers}
    both = compare(network, changed(network, lambda tensors: four_bits(prune(tensors))))
    assert (both.kind, both.derived) == (Kind.PRUNED, "b")


@pytest.mark.parametrize("family", ["mlp", "cnn_flatten", "resnet", "vit"])
def test_independent_networks_are_unrelated(family):
    relation = compare(draw_network(family, 0, 1)[0], draw_network(family, 0, 2)[0])
    assert relation.kind is Kind.UNRELATED and not relation.related
    assert relation.p_value is not None and relation.p_value > 0.01
    assert {layer.what for layer in relation.layers} == {"independent"}


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), variant=st.sampled_from([("mlp", 0), ("mlp", 1), ("cnn_flatten", 1), ("resnet", 0)]))
def test_order_scales_and_signs_of_units_do_not_matter(seed, variant):
    network, _ = draw_network(*variant)
    rng = np.random.default_rng(seed)
    moved = random_symmetry(network, read_program(network).wiring, rng, max_scale=4.0)
    assert compare(network, moved).kind is Kind.SAME_SYMMETRY
    noisy = random_symmetry(changed(network, tuned), read_program(network).wiring, rng, max_scale=4.0)
    assert compare(network, noisy).kind is Kind.FINE_TUNED
    stranger = random_symmetry(draw_network(*variant, seed=9)[0], read_program(network).wiring, rng, max_scale=4.0)
    assert compare(network, stranger).kind is Kind.UNRELATED


def test_a_difference_of_low_rank_is_an_adapter():
    network, _ = draw_network("mlp", 0)
    relation = compare(network, changed(network, adapted))
    assert relation.kind is Kind.ADAPTER
    assert {layer.rank for layer in relation.layers if layer.what == "low rank"} == {2}


def test_units_that_were_taken_out_are_found():
    network, _ = draw_network("mlp", 0)
    tensors = {name.removeprefix("params/"): np.asarray(tensor) for name, tensor in network.tensors.items()}
    kept = RNG.permutation(64)[:40]
    tensors |= {f"Dense_0/{n}": tensors[f"Dense_0/{n}"][..., kept] for n in ("kernel", "bias")}
    tensors["Dense_1/kernel"] = tensors["Dense_1/kernel"][kept]
    relation = compare(network, Checkpoint("thin", tensors, network.metadata))
    assert (relation.kind, relation.derived) == (Kind.PRUNED, "b")


def test_a_new_head_is_localized():
    network, _ = draw_network("mlp", 0)
    name = "params/Dense_2/kernel"
    head = RNG.standard_normal(network.tensors[name].shape).astype(np.float32)
    relation = compare(network, changed(network, lambda tensors: tensors | {name: head}))
    assert relation.kind is Kind.FINE_TUNED
    assert {layer.a: layer.what for layer in relation.layers}[name] == "independent"


def test_networks_too_small_for_a_test():
    small = {"fc.weight": RNG.standard_normal((3, 20)), "fc.bias": np.zeros(3)}
    other = {"fc.weight": RNG.standard_normal((3, 20)), "fc.bias": np.zeros(3)}
    a, b = (
        Checkpoint(name, {k: v.astype(np.float32) for k, v in t.items()}, {})
        for name, t in (("a", small), ("b", other))
    )
    assert compare(a, a).kind is Kind.SAME_WEIGHTS
    assert compare(a, b).kind is Kind.UNKNOWN


def test_coefficients_of_a_merge():
    base, _ = draw_network("cnn_flatten", 0)
    parents = [dataclasses.replace(changed(base, lambda t, s=s: tuned(t, s)), path=f"p{s}") for s in (0.05, 0.1)]
    parents.append(dataclasses.replace(changed(base, lambda tensors: add_noise(tensors, 7)), path="noisy"))
    weights = (0.3, -0.2, 0.9)
    mixed = {n: np.tensordot(weights, [np.asarray(p.tensors[n]) for p in parents], 1) for n in base.tensors}
    merged = dataclasses.replace(base, tensors={n: t.astype(np.float32) for n, t in mixed.items()})
    relation = find_merge(merged, parents)
    assert relation.kind is Kind.MERGE
    assert np.allclose(list(relation.coefficients.values()), weights, atol=0.02)
    assert find_merge(draw_network("cnn_flatten", 0, 1)[0], parents).kind is Kind.UNKNOWN
    copied = find_merge(merged, [*parents, dataclasses.replace(parents[0], path="copy")])
    assert copied.kind is Kind.MERGE and max(map(abs, copied.coefficients.values())) < 1
    with pytest.raises(InputError, match="is given twice as a parent; name each parent once"):
        find_merge(merged, [*parents, parents[0]])


def test_the_p_value_is_small_only_where_units_agree():
    assert Agreement(3, 64).p_value > 0.5  # as networks trained alike agree
    assert Agreement(64, 64).p_value < 1e-10
    assert (Agreement(1, 10) + Agreement(2, 20)) == Agreement(3, 30)


@settings(max_examples=20)
@given(st.permutations(list(range(12))), st.integers(0, 2**16))
def test_units_are_matched_with_their_signs(order, seed):
    units = np.random.default_rng(seed).standard_normal((12, 40))
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], 12)
    found = match(units @ (units[order] * signs[:, None]).T)
    assert found.b.tolist() == np.argsort(order).tolist()
    assert np.array_equal(found.sign, signs[found.b])


def test_grids_are_told_from_other_numbers():
    values = RNG.standard_normal((64, 64))
    found = grid_of(np.rint(values * 10) / 10)
    assert found is not None and found.bits == 7
    assert grid_of(values) is None
    assert grid_of(values.astype(np.float16).astype(np.float32)) is None


def test_tensors_of_a_formula_prove_nothing():
    waves = np.cos(np.outer(np.arange(1, 33), np.arange(64)) / 9)[..., None]
    assert is_formula(waves, 256)
    assert not is_formula(RNG.standard_normal((32, 64, 1)), 256)
    own = [draw_network("mlp", 0, seed)[0] for seed in (1, 2)]
    both = [changed(network, lambda t: t | {"wave": waves[..., 0].astype(np.float32)}) for network in own]
    assert compare(*both).kind is Kind.UNRELATED


def test_the_command(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # no line is broken
    network, _ = draw_network("mlp", 0)
    tensors = {name: np.asarray(tensor) for name, tensor in network.tensors.items()}
    files = {
        "a": tensors,
        "b": quantize(tensors),
        "c": {n: np.asarray(t) for n, t in draw_network("mlp", 0, 1)[0].tensors.items()},
    }
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in files}
    for name, own in files.items():
        save_file(own, paths[name])
    assert main(["compare", paths["a"], paths["b"], "--expect", "same"]) == 0
    assert "the same weights at a lower precision" in capsys.readouterr().out
    assert main(["compare", paths["a"], paths["a"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["wsrl"], told["kind"], told["same"], told["related"]) == (1, "same_file", True, True)
    assert main(["compare", paths["a"], paths["c"], "--expect", "related"]) == 1
    assert main(["compare", paths["a"], str(tmp_path / "none.pt"), "--expect", "same"]) == 2
    assert "none.pt" in capsys.readouterr().err
    assert main(["compare", paths["a"], paths["b"], paths["c"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["coefficients"]) == ("same_precision", {paths["b"]: 1.0})  # of one of them alone


def test_a_layer_that_was_shuffled_alone_makes_another_network():
    network, _ = draw_network("mlp", 0)
    name = "params/Dense_1/kernel"

    def shuffled(tensors: dict) -> dict:
        return tensors | {name: tensors[name][:, RNG.permutation(tensors[name].shape[1])]}

    relation = compare(network, changed(network, shuffled))
    assert relation.kind is Kind.FINE_TUNED and relation.related
    assert [layer.a for layer in relation.layers if layer.what == "shuffled"] == [name]


@pytest.mark.parametrize("few_bits", [False, True])
def test_networks_of_few_units_are_the_same_if_all_units_agree(few_bits):
    model = ResNet("tanh", num_classes=5, widths=(12,), block_strides=(1,))
    network, _ = draw_model(model, 0)
    if few_bits:
        other, kind = changed(network, four_bits), Kind.SAME_PRECISION
    else:
        other = random_symmetry(network, read_program(network).wiring, np.random.default_rng(0), max_scale=4.0)
        kind = Kind.SAME_SYMMETRY
    assert compare(network, other).kind is kind
    assert not compare(network, draw_model(model, 1)[0]).related


@pytest.mark.parametrize("told", [True, False])
def test_other_scales_have_to_leave_the_function_as_it_is(told):
    network, _ = draw_network("mlp", 0)
    wiring = read_program(network).wiring
    moved = random_symmetry(changed(network, stepped), wiring, np.random.default_rng(1), max_scale=4.0)
    other = moved if told else dataclasses.replace(moved, metadata={})  # what one file tells counts for both
    assert compare(network, other).kind not in (Kind.SAME_SYMMETRY, Kind.SAME_WEIGHTS)
    assert compare(network, changed(network, smaller)).kind not in (Kind.SAME_SYMMETRY, Kind.SAME_WEIGHTS)


def stepped(tensors: dict) -> dict:
    """One step of Adam, too small for a glance."""
    return {n: t + np.float32(1e-4) * RNG.choice(np.array([-1, 1], np.float32), t.shape) for n, t in tensors.items()}


def smaller(tensors: dict) -> dict:
    """Weights that decayed: the answers are not those of the other."""
    return {n: t * np.float32(0.99 if n.endswith("kernel") else 1.0) for n, t in tensors.items()}


def test_numbers_in_the_order_of_a_converter_are_the_same_weights():
    network, _ = draw_network("cnn_flatten", 0)
    name = "params/Dense_0/kernel"

    def turned(tensors: dict) -> dict:
        kernel = tensors[name]
        units = tensors["params/Conv_1/kernel"].shape[-1]
        maps = kernel.reshape(-1, units, kernel.shape[-1]).swapaxes(0, 1).reshape(kernel.shape)  # channels first
        return tensors | {name: maps}

    assert compare(network, dataclasses.replace(changed(network, turned), metadata={})).kind in (
        Kind.SAME_WEIGHTS,
        Kind.SAME_SYMMETRY,
    )


def test_eight_bits_of_a_graph_are_a_grid():
    values = np.random.default_rng(0).standard_normal((1, 3, 3, 8)).astype(np.float32)
    lazy = LazyTensor(values.shape, "qint8", lambda start, stop: values[start:stop], "a", "w")
    grid = find_grid(lazy)
    assert grid is not None and grid.bits == 8


@pytest.mark.parametrize("family", ["mlp", "cnn_flatten", "vit"])
def test_large_tensors_are_matched_by_a_part_of_them(family, monkeypatch):
    monkeypatch.setattr(chain, "LARGE", 0)
    monkeypatch.setattr(chain, "SOME", 24)
    monkeypatch.setattr(matching, "AT_ONCE", 200)
    network, _ = draw_network(family, 0)
    moved = random_symmetry(network, read_program(network).wiring, np.random.default_rng(2), max_scale=4.0)
    assert compare(network, moved).kind is Kind.SAME_SYMMETRY
    assert compare(network, draw_network(family, 0, 7)[0]).kind is Kind.UNRELATED


@given(shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 99))
def test_units_are_matched_some_rows_at_a_time(shape, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((n, 4)).astype(np.float32) for n in shape)
    whole = match(a @ b.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "AT_ONCE", 1)
        parts = matching.match_features(a, b)
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_long_vectors_follow_their_units():
    network, _ = draw_model(MLP("relu", num_classes=5, widths=(300, 300)))
    order = random_symmetry(network, read_program(network).wiring, np.random.default_rng(3), scale=False)
    assert compare(network, order).kind is Kind.SAME_SYMMETRY
    rounded = changed(order, lambda tensors: {n: t.astype(np.float16).astype(np.float32) for n, t in tensors.items()})
    assert compare(order, rounded).kind is Kind.SAME_WEIGHTS

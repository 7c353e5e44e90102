"""Parts of the table of relations: changes of networks, counts and scores."""

import dataclasses

import numpy as np
import pytest
from networks import draw_network

from experiments.tables import tiny_language_model as language
from experiments.tables.relation_zoo import CHANGES, Member, _adapted, _doubled, _thinned
from experiments.tables.relations import Tally, asked, auc, main, merge_errors, raw_cosine
from wsrl.checkpoint import Checkpoint
from wsrl.comparison.compare import compare
from wsrl.comparison.relation import Kind, Relation

RNG = np.random.default_rng(0)


def llama(seed: int) -> Checkpoint:
    """A language model before training."""
    return Checkpoint(f"llama {seed}", language.initial(seed), {"config": language.CONFIG})


def test_layers_and_units_of_a_language_model():
    base = llama(0)
    tensors = language.initial(0)
    made = {_doubled: Kind.EXTENDED, _thinned: Kind.PRUNED}
    for change, kind in made.items():
        assert compare(base, dataclasses.replace(base, tensors=change(tensors, RNG))).kind is kind
    tuned = {name: t + 0.01 * RNG.standard_normal(t.shape).astype(np.float32) for name, t in tensors.items()}
    assert compare(base, dataclasses.replace(base, tensors=_adapted(tensors, tuned))).kind is Kind.ADAPTER
    assert compare(base, llama(1)).kind is Kind.UNRELATED


@pytest.mark.parametrize("change", ["renamed", "pruned .9", "noise of 10 %"])
def test_changes_are_what_they_are_called(change):
    network, _ = draw_network("mlp", 0)
    kind, function = CHANGES[change]
    tensors = {name: np.asarray(tensor) for name, tensor in network.tensors.items()}
    assert compare(network, dataclasses.replace(network, tensors=function(tensors, RNG))).kind is kind


def test_counts_and_scores():
    tally, other = Tally(), Tally()
    tally.add("int8", Kind.SAME_PRECISION, Relation(Kind.SAME_PRECISION))
    other.add("int8", Kind.SAME_PRECISION, Relation(Kind.NOISE))
    network, _ = draw_network("mlp", 0)
    other.score(network, network, Relation(Kind.SAME_WEIGHTS, 1e-9), False)
    other.score(network, draw_network("mlp", 0, 1)[0], Relation(Kind.UNRELATED, 0.5), True)
    other.errors.append(0.01)
    tally.join(other)
    first, everything, merges = tally.rows()
    assert (first["pairs"], first["right"], first["else"]) == (2, 0.5, "noise 1")
    assert (everything["pairs"], merges["right"]) == (2, 1.0)
    assert [row["AUC"] for row in tally.pairs()] == [1.0, 1.0, 1.0]
    assert auc([1.0, 2.0], [1.0, 0.0]) == 0.875
    assert raw_cosine(network, network) == pytest.approx(1.0)
    assert asked(Member("", "average", Kind.MERGE, network)) is Kind.FINE_TUNED


def test_errors_of_coefficients():
    base = Member("l", "base", Kind.SAME_FILE, llama(0))
    own = language.initial(0)
    tuned = [{n: t + 0.01 * RNG.standard_normal(t.shape).astype(np.float32) for n, t in own.items()} for _ in range(2)]
    made = {
        "100 steps": tuned[0],
        "100 steps, another task": tuned[1],
        "average": {n: 0.6 * tuned[0][n] + 0.4 * tuned[1][n] for n in own},
        "task vectors": {n: -0.3 * own[n] + 0.7 * tuned[0][n] + 0.6 * tuned[1][n] for n in own},
    }
    members = [
        Member("l", name, Kind.MERGE, dataclasses.replace(base.checkpoint, tensors=t)) for name, t in made.items()
    ]
    assert max(merge_errors(members, base)) < 0.02


def test_too_few_networks_are_told(tmp_path, capsys):
    assert main([f"--workdir={tmp_path}", "--siblings=1"]) == 1
    assert "--siblings" in capsys.readouterr().err

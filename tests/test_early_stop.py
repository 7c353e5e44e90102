"""Whether some units tell that the chains of two networks could not agree."""

import numpy as np
import pytest
from scipy.stats import binom

from experiments.benchmarks import streaming
from wsrl.checkpoint import Checkpoint
from wsrl.comparison import correspondence, early_stop
from wsrl.comparison.chain import Chains
from wsrl.comparison.compare import compare
from wsrl.comparison.early_stop import most_agreements
from wsrl.comparison.pairing import Sampled, pair_up
from wsrl.comparison.pieces import cut
from wsrl.comparison.relation import Kind
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

SHAPES = streaming.bert(layers=2, width=96, vocabulary=50)  # 384 hidden units: more than are drawn
SHARED = "encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense"


def network(seed: int) -> Checkpoint:
    rng = np.random.default_rng(seed)
    tensors = {name: (rng.standard_normal(shape) / 10).astype(np.float32) for name, shape in SHAPES.items()}
    return Checkpoint(str(seed), tensors, {"config": streaming.CONFIGS["bert-base"]})


def shuffled(checkpoint: Checkpoint, noise: float = 0.0) -> Checkpoint:
    rng = np.random.default_rng(5)
    tensors = permuted({n: np.asarray(t) for n, t in checkpoint.tensors.items()}, infer_wiring(checkpoint), 3)
    noisy = {n: (t + noise * t.std() * rng.standard_normal(t.shape)).astype(np.float32) for n, t in tensors.items()}
    return Checkpoint("shuffled", noisy, checkpoint.metadata)


def matrices(a: Checkpoint, b: Checkpoint):
    pairs = pair_up(*(Sampled.of(cut(own)) for own in (a, b)))
    return [pair for pair in pairs if pair.a and pair.b and pair.a.is_matrix]


def test_strangers_are_told_without_matching_all_units(monkeypatch):
    monkeypatch.setattr(Chains, "run", lambda self: pytest.fail("all units are matched"))
    relation = compare(network(0), network(1))
    assert relation.kind is Kind.UNRELATED and not relation.related


def test_one_shared_layer_is_enough():
    """All else is new, and the units of the layer stand in another order."""
    first, other = network(0), network(1)
    tensors = dict(other.tensors) | {n: t for n, t in first.tensors.items() if n.startswith(SHARED)}
    relation = compare(first, shuffled(Checkpoint("partly", tensors, first.metadata)))
    assert relation.related and relation.kind is Kind.FINE_TUNED
    assert {layer.a for layer in relation.layers if layer.what == "equal"} >= {f"{name}.weight" for name in SHARED}


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_no_group_agrees_more_than_is_said(noise, monkeypatch):
    monkeypatch.setattr(early_stop, "RELATED", 2.0)  # look at all groups
    pairs = matrices(network(0), shuffled(network(0), noise))
    chains = Chains(pairs)
    chains.run()
    most = most_agreements(pairs)
    assert most.keys() == chains.agreements().keys()
    for groups, test in chains.agreements().items():
        assert most[groups].units == test.units and most[groups].equal >= test.equal


def test_a_clear_agreement_ends_the_search():
    assert len(most_agreements(matrices(network(0), shuffled(network(0))))) == 1


@pytest.mark.parametrize("equal", [0, 7, 255])
def test_the_bound_leaves_little_doubt(equal):
    bound = early_stop._bound(equal, 256)
    assert binom.cdf(equal, 256, bound) == pytest.approx(early_stop.DOUBT)
    assert early_stop._bound(256, 256) == 1.0


def test_networks_too_small_for_a_test_are_not_stopped(monkeypatch):
    monkeypatch.setattr(correspondence, "may_agree", lambda pairs: pytest.fail("it says nothing of them"))
    tiny = {"0.weight": np.eye(4, 6, dtype=np.float32), "1.weight": np.ones((2, 4), np.float32)}
    compare(Checkpoint("a", tiny, {}), Checkpoint("b", {n: -t[::-1] for n, t in tiny.items()}, {}))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import draw_model

from wsrl.graph.batching import make_batch
from wsrl.graph.collection import Planner, checkpoint_graph, make_buckets, sweep_cost
from wsrl.graph.plans import profile
from wsrl.zoo.models import MLP, CNNGap

MODELS = (
    MLP("relu", widths=(6,)),
    MLP("tanh", widths=(40,)),
    MLP("relu", widths=(20, 20)),
    MLP("gelu", widths=(6,), num_classes=20),
    CNNGap("relu", widths=(4, 6), conv_strides=(2, 2)),
)


@pytest.fixture(scope="module")
def graphs():
    return [checkpoint_graph(draw_model(model, 0, 8)[0], 16) for model in MODELS]


def plans_of(buckets, window):
    """The plan of each network of a window, by its architecture."""
    return {window[member]: (bucket.plan, bucket.size) for bucket in buckets for member in bucket.members}


@settings(max_examples=30)
@given(
    windows=st.lists(st.lists(st.integers(0, len(MODELS) - 1), min_size=1, max_size=8), min_size=1, max_size=6),
    slack=st.sampled_from([1.0, 4.0, 50.0]),
)
def test_architectures_keep_their_plans_over_windows(graphs, windows, slack):
    planner, known = Planner(batch_cost=500, slack=slack), {}
    for window in windows:
        buckets = planner.buckets([graphs[i] for i in window])
        members = np.concatenate([bucket.members for bucket in buckets])
        np.testing.assert_array_equal(np.sort(members), np.arange(len(window)))
        found = plans_of(buckets, window)
        assert {model: found[model] for model in known.keys() & found.keys()} == {
            model: known[model] for model in known.keys() & found.keys()
        }
        known |= found
        for bucket in buckets:
            assert list(bucket.members) == sorted(bucket.members) and 1 <= bucket.size <= 64
            for first in range(0, len(bucket.members), bucket.size):
                bucket.batch(range(first, min(first + bucket.size, len(bucket.members))))  # raises where one is too big
    programs = {plan for plan, _ in known.values()}
    assert len(programs) <= len(known)  # one compiled program a plan, however many windows


def test_few_plans_where_padding_may_cost_much(graphs):
    for slack, most in ((1.0, 5), (50.0, 2)):
        planner = Planner(slack=slack)
        buckets = planner.buckets(graphs)
        assert len(buckets) <= most
        for bucket in buckets:
            padded = sum(level.edges * level.positions for level in bucket.plan.levels) / bucket.size
            assert all(padded <= slack * sweep_cost(profile(graph)) + 1e-9 for graph in bucket.graphs)


def test_a_window_without_networks_has_no_buckets():
    assert Planner().buckets([]) == []


def test_a_collection_that_is_held_whole_is_one_window(graphs):
    ours, theirs = make_buckets(graphs, 500, 4.0, 8), Planner(500, 4.0, 8).buckets(graphs)
    assert [(b.plan, b.size, b.members.tolist()) for b in ours] == [
        (b.plan, b.size, b.members.tolist()) for b in theirs
    ]


def test_the_cost_of_a_batch_bounds_its_size(graphs):
    for bucket in Planner(batch_cost=1).buckets(graphs * 3):
        assert bucket.size == 1
    for bucket in Planner(batch_cost=10**6, slack=1.0, max_size=2).buckets(graphs * 3):
        assert bucket.size == 2
        with pytest.raises(ValueError, match="do not fit"):
            make_batch(bucket.graphs, bucket.plan)

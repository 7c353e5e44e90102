import numpy as np
import pytest
from evaluation_records import make_record, make_zoo, task_embeddings

from wsrl.evaluation import METRICS, query_examples, retrieval_scores
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores


def test_perfect_and_chance_embeddings():
    records = make_zoo(tasks=8, runs=9)
    perfect = retrieval_scores([task_embeddings(records, 0.001)], records, resamples=50)
    random = np.random.default_rng(0).normal(size=(len(records), 16)).astype(np.float32)
    chance = retrieval_scores([random], records, resamples=50)
    for gallery in ("same", "cross", "any"):
        for metric in set(METRICS) - {"precision_at_10"}:
            assert perfect[gallery].metrics[metric].value == 1
        limit = perfect[gallery].precision_at_10_limit
        assert perfect[gallery].metrics["precision_at_10"].value == pytest.approx(limit)
        assert abs(chance[gallery].metrics["precision_at_1"].value - 1 / 8) < 0.1
    # 3 runs of 2 checkpoints, less the query's own.
    assert perfect["same"].precision_at_10_limit == pytest.approx(0.4)
    assert (perfect["any"].queries, perfect["any"].left_out) == (144, 0)


def test_own_run_and_lineage_are_not_in_the_gallery():
    records = [
        make_record(0, "a", run="r0", lineage="r0"),
        make_record(1, "a", run="r0", lineage="r0"),  # later checkpoint
        make_record(2, "a", "vit", run="r2", lineage="r0"),  # fine-tuned descendant
        make_record(3, "a", run="r3", lineage="r3"),
        make_record(4, "b", run="r4", lineage="r4"),
        make_record(5, "b", run="r5", lineage="r5"),
    ]
    eligible = Relevance.of(records).eligible(np.arange(6))
    assert np.flatnonzero(eligible["any"][0]).tolist() == [3, 4, 5]
    assert np.flatnonzero(eligible["cross"][0]).tolist() == []
    assert np.flatnonzero(eligible["same"][2]).tolist() == []
    assert np.flatnonzero(eligible["cross"][2]).tolist() == [3, 4, 5]
    assert not np.diagonal(eligible["any"]).any()


def test_missing_run_and_lineage_are_the_model_itself():
    relevance = Relevance.of([make_record(0, "a"), make_record(1, "a")])
    assert relevance.eligible(np.arange(2))["any"].tolist() == [[False, True], [True, False]]


def test_queries_without_an_answer_are_left_out_and_counted():
    records = [make_record(i, task, run=f"r{i}") for i, task in enumerate("aabbc")]
    scores = retrieval_scores([np.random.default_rng(0).normal(size=(5, 4))], records, resamples=20)
    assert (scores["same"].queries, scores["same"].left_out) == (4, 1)
    assert (scores["cross"].queries, scores["cross"].left_out) == (0, 5)
    assert scores["cross"].metrics["map"] == Interval()


def test_some_models_ask_all_others():
    records = make_zoo(tasks=3, runs=6)
    embeddings = np.random.default_rng(0).normal(size=(len(records), 8))
    asking = np.array([record.architecture == "vit" for record in records])
    scores = retrieval_scores([embeddings], records, resamples=20, asking=asking)["any"]
    own = query_scores(embeddings, Relevance.of(records))["any"]["map"]
    assert scores.queries == asking.sum() and 0 < asking.sum() < len(records) and scores.left_out == 0
    assert scores.metrics["map"].value == pytest.approx(own[asking].mean())


def test_no_records_at_all():
    scores = retrieval_scores([np.zeros((0, 4))], [], resamples=20)
    assert scores["any"].queries == 0 and scores["any"].metrics["mrr"].value is None


def test_wrong_number_of_embeddings():
    with pytest.raises(ValueError, match="3 embeddings for 2 records"):
        query_scores(np.zeros((3, 2)), Relevance.of([make_record(0, "a"), make_record(1, "a")]))


def test_value_is_the_mean_over_seeds_and_queries():
    records = make_zoo(tasks=4, runs=6)
    seeds = [task_embeddings(records, 2, seed) for seed in range(3)]
    together = retrieval_scores(seeds, records, resamples=50)
    alone = [retrieval_scores([seed], records, resamples=50)["cross"].metrics["map"].value for seed in seeds]
    assert together["cross"].metrics["map"].value == pytest.approx(np.mean(alone))
    again = retrieval_scores(seeds, records, resamples=50)
    assert again == together


def test_bootstrap_covers_the_true_mean():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        clusters = np.repeat(np.arange(60), 3)
        scores = np.repeat(rng.normal(0.5, 0.2, size=60), 3) + rng.normal(0, 0.05, size=180)
        interval = cluster_bootstrap({"score": scores[None]}, clusters, resamples=300, seed=trial)["score"]
        covered += interval.low <= 0.5 <= interval.high
    assert 175 <= covered <= 199  # 95 % of 200 is 190


def test_bootstrap_draws_whole_clusters_and_seeds():
    rng = np.random.default_rng(0)
    by_cluster = np.repeat(rng.normal(size=20), 50)
    narrow = cluster_bootstrap({"x": by_cluster[None]}, np.arange(1000))["x"]
    wide = cluster_bootstrap({"x": by_cluster[None]}, np.repeat(np.arange(20), 50))["x"]
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    constant = cluster_bootstrap({"x": np.array([[0.0] * 10, [1.0] * 10])}, np.arange(10))["x"]
    assert constant == Interval(0.5, 0, 1)


def test_examples_hold_hits_of_other_lineages_and_the_worst_queries():
    records = make_zoo(tasks=5, runs=6)
    embeddings = task_embeddings(records, 1.5)
    scores = query_scores(embeddings, Relevance.of(records))["any"]["map"]
    examples = query_examples(embeddings, records, drawn=4, worst=2)
    assert [example.worst for example in examples] == [False] * 4 + [True] * 2
    assert len({example.query.task for example in examples[:4]}) == 4
    assert examples[4].average_precision == pytest.approx(np.nanmin(scores))
    assert len({example.query.id for example in examples}) == 6
    for example in examples:
        assert len(example.hits) == 5
        similarities = [similarity for _, similarity, _ in example.hits]
        assert similarities == sorted(similarities, reverse=True)
        for hit, _, correct in example.hits:
            assert hit.get("lineage") != example.query.get("lineage")
            assert correct == (hit.task == example.query.task)


def test_examples_of_a_zoo_without_answers():
    records = [make_record(i, f"task-{i}") for i in range(4)]
    assert query_examples(np.eye(4), records) == []

import json
import math

import numpy as np
import pytest
from evaluation_records import make_zoo, task_embeddings

from wsrl.evaluation import Results, evaluate_methods, write_results
from wsrl.evaluation.results import Counts
from wsrl.evaluation.retrieval import GalleryScores


def found(scores: GalleryScores, metric: str) -> float:
    value = scores.metrics[metric].value
    assert value is not None
    return value


def nothing_measured(**facts) -> Results:
    return Results({}, {}, {}, {}, {}, Counts(0, 0, 0, 0, 0), {}, facts=facts)


def test_all_methods_on_both_halves_and_both_forms():
    records = make_zoo(tasks=9, runs=6)
    tasks = sorted({record.task for record in records})
    good = [task_embeddings(records, 0.1, seed) for seed in range(2)]
    bad = [np.random.default_rng(0).normal(size=(len(records), 8))]
    results = evaluate_methods(
        {"encoder": good, "chance": bad},
        records,
        train_tasks=tasks[:5],
        validation_tasks=tasks[5:6],
        shared_order={"encoder": bad},
        resamples=20,
    )
    unseen = results.retrieval["encoder"]["unseen"]
    assert unseen["any"].queries == 3 * 12 and found(unseen["any"], "map") > 0.9
    assert results.retrieval["encoder"]["seen"]["any"].queries == 5 * 12
    assert list(results.retrieval_shared_order) == ["encoder"]
    assert found(results.retrieval_shared_order["encoder"]["unseen"]["any"], "map") < 0.7
    assert (results.clustering["encoder"]["unseen"]["task"].nmi.value or 0) > 0.9
    assert set(results.hubness["chance"]) == {"seen", "unseen"}
    assert results.counts.models == 108 and results.of_half["unseen"].tasks == 3
    told = results.record()
    assert told["retrieval"]["encoder"]["unseen"]["any"]["map"]["value"] == found(unseen["any"], "map")
    assert told["counts"]["unseen"]["tasks"] == 3 and "accuracy_tau" not in told
    json.dumps(told, allow_nan=False)


def test_names_the_method_that_is_wrong():
    records = make_zoo(tasks=3)
    embeddings = task_embeddings(records, 1)
    broken = embeddings.copy()
    broken[4, 0] = np.inf
    with pytest.raises(ValueError, match="method mine: embedding 4 is not finite"):
        evaluate_methods({"mine": [embeddings, broken]}, records, ["task-0"])
    with pytest.raises(ValueError, match="method mine: 3 embeddings for 36 records"):
        evaluate_methods({"mine": [embeddings[:3]]}, records, ["task-0"])
    with pytest.raises(ValueError, match="method mine: no embeddings"):
        evaluate_methods({"mine": []}, records, ["task-0"])


def test_file_is_plain_finite_json(tmp_path):
    path = tmp_path / "results.json"
    facts = {
        "nan": math.nan,
        "scalar": np.float32(np.inf),
        "array": np.array([[1.5, np.nan]]),
        "integer": np.int64(3),
        "flag": np.True_,
        "nested": [(1, -math.inf), {2: "text é"}],
    }
    write_results(path, nothing_measured(zoo=facts))
    assert json.loads(path.read_text(encoding="utf-8"))["zoo"] == {
        "nan": None,
        "scalar": None,
        "array": [[1.5, None]],
        "integer": 3,
        "flag": True,
        "nested": [[1, None], {"2": "text é"}],
    }


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, nothing_measured(zoo={"models": 1}))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_results(path, nothing_measured(zoo={"models": object()}))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]

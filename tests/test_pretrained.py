"""The encoder of the package, as it ships."""

import json
import shlex

import numpy as np
import pytest
from networks import draw_network
from test_readme import check_main_job

from experiments.release import LARGEST, MADE_BY
from wsrl.encoder.dataset_encoder import embed_dataset, load_dataset_encoder
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import encoder_hash, load_encoder
from wsrl.encoder.files import PRETRAINED
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.program.read import read_program
from wsrl.recommendation.start_score import FILE, load_start_score
from wsrl.symmetry import random_symmetry, reorder_outputs

# ml_collections reads configuration files by a method that Python will drop
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
FILES = {f"{name}.{kind}" for name in ("encoder", "dataset_encoder") for kind in ("json", "safetensors")} | {FILE}


@pytest.fixture(scope="module")
def pretrained():
    return load_encoder(PRETRAINED)


def test_it_is_whole_small_and_tells_how_it_was_made(monkeypatch):
    assert {path.name for path in PRETRAINED.iterdir()} == FILES | {MADE_BY}
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) <= LARGEST
    made_by = json.loads((PRETRAINED / MADE_BY).read_bytes())
    monkeypatch.chdir(PRETRAINED.parents[2])
    check_main_job(shlex.split(made_by["command"])[2:])
    assert made_by["seed"] == int(np.argmax(made_by["validation_map"]))


def test_it_embeds_networks_whatever_their_symmetry_and_class_order(pretrained):
    encoder, params = pretrained
    rng = np.random.default_rng(0)
    checkpoints = [draw_network("mlp", seed)[0] for seed in (0, 1)]
    first, wiring = checkpoints[0], read_program(checkpoints[0]).wiring
    checkpoints.append(random_symmetry(reorder_outputs(first, wiring, rng.permutation(5)), wiring, rng))
    found = Embedder(encoder)(params, make_buckets([checkpoint_graph(c, 16) for c in checkpoints]))
    np.testing.assert_allclose(found.embedding[2], found.embedding[0], atol=1e-4)
    assert found.embedding[0] @ found.embedding[1] < 0.9
    assert ((found.accuracy > 0) & (found.accuracy < 1)).all()


def test_its_start_score_fits(pretrained):
    score = load_start_score(PRETRAINED, encoder_hash(*pretrained))
    assert len(score.centre) == pretrained[0].dim
    assert score.weights[-2] > 0  # heads that read more features are better starts, other things being equal
    assert score.weights[-1] > 0  # and nearer models


def test_labeled_examples_get_a_vector(pretrained):
    encoder, params = pretrained
    module, dataset_params = load_dataset_encoder(PRETRAINED, encoder, params)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, *encoder.input_shape)).astype(np.float32)
    vector = embed_dataset(module, dataset_params, encoder, params, x, np.arange(40) % 4)
    assert vector.shape == (encoder.dim,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)

"""The encoder of functions: checkpoints go the way that the main job goes."""

import numpy as np
import pytest
import safetensors.numpy
from networks import draw_network

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder import function_encoder
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.function_encoder import FunctionEncoder
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.program.read import read_programs
from wsrl.training.fit import init_params
from wsrl.zoo.manifest import Record, append_records, read_manifest, record_hints

ENCODER = ResponseEncoder(probes=8, dim=16, chunk=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an encoder, two checkpoints, and the vectors that belong to them."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype(np.float32)
    params = init_params(ENCODER, inputs, 0)
    save_encoder(folder / "encoder", ENCODER, params)
    checkpoints = [draw_network("mlp", 0)[0], draw_network("cnn_gap", 0)[0]]
    paths = []
    for i, checkpoint in enumerate(checkpoints):
        paths.append(str(folder / f"{i}.safetensors"))
        told = {key: str(value) for key, value in checkpoint.metadata.items() if value is not None}
        safetensors.numpy.save_file(dict(checkpoint.tensors), paths[-1], told)
    graphs = [checkpoint_graph(c, 8) for c in checkpoints]
    return folder, paths, Embedder(ENCODER)(params, make_buckets(graphs)).embedding


def test_hints_run_a_file_as_its_zoo_does(trained, tmp_path):
    """A file without metadata, in a zoo whose manifest says what it lacks, gets the vector that the zoo gives it."""
    folder, _, expected = trained
    checkpoint = draw_network("cnn_gap", 0)[0]
    safetensors.numpy.save_file(dict(checkpoint.tensors), tmp_path / "model.safetensors")
    told = {"input_shape": checkpoint.metadata["input_shape"], "strides": checkpoint.metadata["strides"]}
    line = Record("model", "model.safetensors", "task", "data", "cnn_gap", "relu", 0, None, 1, 0.5, None, extra=told)
    append_records(tmp_path, [line])
    source = f"{tmp_path}/../{tmp_path.name}/model.safetensors"
    hints = record_hints(read_manifest(tmp_path)[0][0])
    (row,) = load_encoder(folder / "encoder").embed([source], hints={source: hints})
    np.testing.assert_allclose(row.function, expected[1], atol=1e-5)


def test_encoder_says_what_it_assumed_and_why_a_network_has_no_vector(trained):
    folder, _, expected = trained
    known = draw_network("mlp", 0)[0]
    bare = Checkpoint("bare.pt", {"0.weight": np.eye(9, 784, dtype=np.float32), "2.weight": np.eye(9)}, {})
    encoder = FunctionEncoder(folder / "encoder")
    one = Checkpoint("one.pt", {"0.weight": np.ones((1, 784), np.float32)}, {})
    asked = ((known, None), (one, None), (bare, {"activation": "tanh"}))
    first, second, third = encoder([(checkpoint, read_programs(checkpoint, hints)) for checkpoint, hints in asked])
    np.testing.assert_allclose(first.vector, expected[0], atol=1e-5)
    assert first.assumed == () and first.kind == "dense" and 0 <= first.accuracy <= 1
    assert isinstance(second, CheckpointError) and "one output" in str(second)
    assert third.assumed == () and third.program.input_shape == (28, 28, 1)


def test_an_open_activation_gives_the_mean_of_the_vectors_that_it_may_mean(trained):
    encoder = FunctionEncoder(trained[0] / "encoder")
    weights = {
        name: np.random.default_rng(0).normal(size=s) for name, s in (("0.weight", (9, 784)), ("2.weight", (9, 9)))
    }
    bare = Checkpoint("bare.pt", {name: w.astype(np.float32) for name, w in weights.items()}, {})
    names = ("relu", "tanh", "gelu")
    (found, *each) = encoder([(bare, read_programs(bare, {"activation": name})) for name in (None, *names)])
    (assumed,) = found.assumed
    counts = [1 + (assumed == f"activation: {name}") for name in names]
    assert sorted(counts) == [1, 1, 2]
    mean = np.average([one.vector for one in each], 0, counts)
    np.testing.assert_allclose(found.vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_where_jax_has_an_accelerator_it_gives_the_same_vectors(trained, monkeypatch):
    checkpoints = [draw_network(family, 0)[0] for family in ("mlp", "cnn_gap")]
    asked = [(checkpoint, read_programs(checkpoint)) for checkpoint in checkpoints]
    in_numpy = list(FunctionEncoder(trained[0] / "encoder")(asked))
    monkeypatch.setattr(function_encoder, "has_accelerator", lambda: True)
    for one, other in zip(in_numpy, FunctionEncoder(trained[0] / "encoder")(asked), strict=True):
        assert not isinstance(one, CheckpointError) and not isinstance(other, CheckpointError)
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-5)
        assert abs(one.accuracy - other.accuracy) < 1e-4 and one.kind == other.kind

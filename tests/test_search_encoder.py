"""The commands with an encoder of the main job, a tiny one."""

import json

import numpy as np
import pytest
import safetensors.numpy
from networks import draw_network

from wsrl.cli.main import main
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import save_encoder
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.training.fit import init_params

ENCODER = ResponseEncoder(probes=4, input_shape=(16, 16, 1), dim=8, chunk=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an encoder and two checkpoints, their names, and what the encoder makes of their functions."""
    folder = tmp_path_factory.mktemp("trained")
    inputs = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    params = init_params(ENCODER, inputs, 0)
    save_encoder(folder / "encoder", ENCODER, params)
    checkpoints = [draw_network("mlp", 0)[0], draw_network("cnn_gap", 0)[0]]
    paths = []
    for i, checkpoint in enumerate(checkpoints):
        paths.append(str(folder / "models" / f"{i}.safetensors"))
        (folder / "models").mkdir(exist_ok=True)
        told = {key: str(value) for key, value in checkpoint.metadata.items() if value is not None}
        safetensors.numpy.save_file(dict(checkpoint.tensors), paths[-1], told)
    graphs = [checkpoint_graph(c, 8) for c in checkpoints]
    return folder, paths, Embedder(ENCODER)(params, make_buckets(graphs)).embedding


def test_embed_writes_functions_and_what_it_left_out(trained, tmp_path, capsys):
    folder, paths, expected = trained
    broken, out = tmp_path / "broken.safetensors", tmp_path / "embeddings.npz"
    broken.write_bytes(b"no checkpoint")
    names = [*paths, str(broken), "--out", str(out), "--encoder", str(folder / "encoder")]
    assert main(["embed", *names]) == 1 and not out.exists()
    assert main(["embed", *names, "--skip-broken"]) == 1
    assert f"left out: {broken}" in capsys.readouterr().err
    with np.load(out) as written:
        assert written["ids"].tolist() == paths
        np.testing.assert_allclose(written["function"], expected, atol=1e-5)
        assert written["architecture"].tolist() == ["dense", "map pooled"]
        assert written["accuracy"].shape == (2,) and written["accuracy"].dtype == np.float32
        assert written["embeddings"].shape[0] == 2


def test_index_and_search_by_an_encoder_of_ones_own(trained, tmp_path, capsys):
    folder, paths, expected = trained
    options = ["--encoder", str(folder / "encoder")]
    assert main(["index", str(folder / "models"), "--out", str(tmp_path / "index"), *options, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["models"] == about["functions"] == about["embedded"] == 2
    assert main(["search", paths[1], "--index", str(tmp_path / "index"), "--json"]) == 0  # no encoder is needed
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["id"], first["score"], first["same_weights"], first["by"]) == (paths[1], 1.0, True, "function")
    assert second["score"] == pytest.approx(max(0, float(expected[0] @ expected[1])), abs=1e-4)
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a.weight": np.eye(9, dtype=np.float32)}, other)
    assert main(["search", str(other), "--index", str(tmp_path / "index")]) == 1
    assert "was filled by the encoder" in capsys.readouterr().err  # that of the package is another one

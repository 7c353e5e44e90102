"""`wsrl embed --encoder`: files go the way that the main job goes."""

import numpy as np
import pytest
import safetensors.numpy
from networks import draw_network

from wsrl.checkpoint import CheckpointError
from wsrl.encoder.embed import Embedder
from wsrl.encoder.encoder import Encoder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.fit import init_params
from wsrl.errors import InputError
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.trained_embedding import embed_trained

ENCODER = Encoder(probes=8, dim=16, chunk=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an encoder, two checkpoints and a file that is none; and the vectors that belong to them."""
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


def test_files_get_the_vectors_of_the_main_job(trained):
    folder, paths, expected = trained
    found, digest = embed_trained(paths, folder / "encoder")
    assert found.ids == paths and len(digest) == 64
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


def test_bad_input_is_named(trained, tmp_path):
    folder, paths, _ = trained
    with pytest.raises(InputError, match="no readable encoder"):
        embed_trained(paths, tmp_path)
    other = tmp_path / "other.safetensors"
    cell = {"lstm.weight_ih_l0": np.ones((8, 3), np.float32), "lstm.weight_hh_l0": np.ones((8, 2), np.float32)}
    safetensors.numpy.save_file(cell, other)
    with pytest.raises(CheckpointError, match="other"):
        embed_trained([str(other)], folder / "encoder")

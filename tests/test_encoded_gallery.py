import numpy as np
import pytest
from small_zoo import SIZE, write_zoo

from experiments.job.workdir import encoder_directories
from experiments.tables import encoded_gallery
from experiments.tables.encoded_gallery import ask_by_examples, ask_by_probes, encode_gallery
from wsrl.data import ImageSet
from wsrl.encoder.dataset_encoder import init_dataset_params, save_dataset_encoder
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import save_encoder
from wsrl.errors import InputError
from wsrl.graph.tiles import TILE
from wsrl.recommendation.probes import Probes
from wsrl.search.query_expansion import QueryExpansion
from wsrl.training.fit import init_params
from wsrl.zoo.load import load_networks

ENCODER = ResponseEncoder(probes=4, input_shape=(SIZE, SIZE, 1), dim=4, rank=2, gradient_probes=2, chunk=2)
CANDIDATES = np.array([0, 2, 3, 7])


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    zoo = tmp_path_factory.mktemp("zoo")
    return load_networks(zoo, write_zoo(zoo), TILE).graphs


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, graphs):
    """The gallery as two encoders see it."""
    workdir = tmp_path_factory.mktemp("run")
    for seed in range(2):
        inputs = np.random.default_rng(seed).normal(size=(4, SIZE, SIZE, 1)).astype(np.float32)
        params = init_params(ENCODER, inputs, seed)
        save_encoder(workdir / f"encoder_{seed}", ENCODER, params)
        module, initial = init_dataset_params(ENCODER, params["inputs"], seed)
        save_dataset_encoder(workdir / f"encoder_{seed}", module, initial, ENCODER, params)
    return encode_gallery(encoder_directories(workdir, 2), graphs)


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(0).integers(0, 256, (30, SIZE, SIZE)).astype(np.uint8)
    return ImageSet("own", x, np.arange(30) % 3, 3, np.arange(30) < 6)


def check_orders(encoded, asked):
    assert len(asked.orders) == len(asked.queries) == 2 and asked.seconds > 0
    for own, query, found, order in zip(encoded, asked.queries, asked.similarities, asked.orders, strict=True):
        assert sorted(order) == CANDIDATES.tolist()
        around = QueryExpansion.build(own.vectors[CANDIDATES], [own.kinds[i] for i in CANDIDATES])
        np.testing.assert_array_equal(found, around.similarities(query.vectors, query.kinds).mean(0))
        nearness = dict(zip(CANDIDATES.tolist(), found.tolist(), strict=True))
        assert (np.diff([nearness[place] for place in order.tolist()]) <= 0).all()


def test_every_encoder_has_vectors_of_its_own(encoded):
    first, second = encoded
    assert first.vectors.shape == second.vectors.shape == (8, 4)
    assert first.hash != second.hash and not np.allclose(first.vectors, second.vectors)
    assert first.embedder is second.embedder  # programs are shared


def test_examples_rank_the_candidates(encoded, images):
    check_orders(encoded, ask_by_examples(encoded, CANDIDATES, images))


def test_probes_rank_the_candidates_and_a_network_is_nearest_to_itself(encoded, images, graphs, monkeypatch):
    probe = Probes([graphs[3]], np.ones(1, np.float32))
    monkeypatch.setattr(encoded_gallery, "train_probes", lambda images, seed: probe)
    asked = ask_by_probes(encoded, CANDIDATES, images, 0)
    check_orders(encoded, asked)
    assert [order[0] for order in asked.orders] == [3, 3]


def test_a_folder_without_encoders_is_told(tmp_path, graphs):
    with pytest.raises(InputError, match="holds no readable encoder"):
        encode_gallery(encoder_directories(tmp_path, 1), graphs)

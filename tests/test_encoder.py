import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import CASES, draw_network

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.encoder.embed import Embedder, NetworkMap, SweptNetworks
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import encoder_hash, load_encoder, save_encoder
from wsrl.encoder.files import parameter_shapes
from wsrl.encoder.swept import fit_inputs
from wsrl.errors import InputError
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry, reorder_outputs
from wsrl.training.fit import init_params

ENCODER = ResponseEncoder(probes=16, dim=32, rank=8, gradient_probes=8, chunk=4)


def make_params(seed=0):
    inputs = np.random.default_rng(seed).normal(size=(16, 16, 16, 1)).astype(np.float32)
    return init_params(ENCODER, inputs, seed)


@pytest.fixture(scope="module")
def checkpoints():
    return [draw_network(*case)[0] for case in CASES]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(ENCODER, read_size=8)


def embed(embedder, params, checkpoints, buckets=None):
    graphs = [checkpoint_graph(c, 16) for c in checkpoints]
    return embedder(params, make_buckets(graphs, batch_cost=20_000, slack=50.0))


def relative(a, b):
    return (np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()


def test_embeddings_are_invariant_and_compilations_few(checkpoints, embedder):
    params = make_params()
    original = embed(embedder, params, checkpoints)
    assert original.embedding.shape == (len(CASES), 32) and original.embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(original.embedding, axis=1), 1.0, rtol=1e-5)
    assert ((original.accuracy >= 0) & (original.accuracy <= 1)).all()
    rng = np.random.default_rng(3)
    for _ in range(3):
        transformed = [random_symmetry(c, read_program(c).wiring, rng) for c in checkpoints]
        found = embed(embedder, params, transformed)
        assert relative(found.embedding, original.embedding) < 1e-5
        np.testing.assert_allclose(found.accuracy, original.accuracy, atol=1e-4)
    shuffled = [reorder_outputs(c, read_program(c).wiring, rng.permutation(5)) for c in checkpoints]
    assert relative(embed(embedder, params, shuffled).embedding, original.embedding) < 1e-5
    assert embedder.compilations <= 4  # one a bucket and one for the read-out
    assert relative(original.embedding[1:], original.embedding[:-1]) > 0.01


@pytest.mark.parametrize("scale", [1e6, 1e18, 1e38])
def test_networks_that_overflow_have_embeddings_or_are_told_of(checkpoints, embedder, scale):
    overflowing, refused = [], 0
    for checkpoint in checkpoints:
        tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
        largest = max(np.abs(tensor).max() for tensor in tensors.values())
        tensors = {name: tensor * np.float32(scale / largest) for name, tensor in tensors.items()}
        overflowing.append(Checkpoint(checkpoint.path, tensors, checkpoint.metadata))
        try:
            checkpoint_graph(overflowing[-1], 16)
        except CheckpointError as error:
            assert "too large" in str(error)
            overflowing.pop()
            refused += 1
    assert len(overflowing) >= 3 and (refused == 0 or scale > 1e6)
    found = embed(embedder, make_params(), overflowing)
    assert np.isfinite(found.embedding).all() and np.isfinite(found.accuracy).all()
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1.0, rtol=1e-5)


def test_class_maps_leave_out_and_merge(checkpoints):
    graphs = [checkpoint_graph(c, 16) for c in checkpoints[:2]]
    params = {"params": make_params()}
    bucket = make_buckets(graphs, slack=50.0)[0]
    swept = jax.jit(lambda b: ENCODER.apply(params, b, method="sweep"))(bucket.batch([0]))
    embed = jax.jit(lambda s, m: ENCODER.apply(params, s, m, method="embed"))
    rows = np.zeros((2, *swept.mask.shape, swept.mask.shape[1]), np.float32)
    for new, groups in enumerate([[0, 1, 1, -1, -1], [2, 0, 0, -1, -1]]):
        for old, group in enumerate(groups):
            if group >= 0:
                rows[new, :, old, group] = 1
    a, b = (embed(swept, m)[0] for m in rows)
    np.testing.assert_allclose(a, b, atol=1e-5)  # the names of the new classes do not matter
    whole = embed(swept, None)[0]
    assert np.abs(a - whole).max() > 1e-3
    changed = swept._replace(logits=swept.logits.at[:, 3].add(5.0), templates=swept.templates.at[:, 3].add(5.0))
    np.testing.assert_allclose(embed(changed, rows[0])[0], a, atol=1e-5)  # what is left out does not count


def test_other_input_shapes_are_resized():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 1)), jnp.float32)
    assert fit_inputs(inputs, (8, 8, 3)).shape == (3, 8, 8, 3)
    assert fit_inputs(inputs, (1, 20, 1)).shape == (3, 1, 20, 1)
    np.testing.assert_array_equal(fit_inputs(inputs, (16, 16, 1)), inputs)


def test_network_map_keeps_the_order_and_pads(checkpoints):
    class Rows:
        def __init__(self, members, width):
            self.members, self.size, self.classes, self.width = np.array(members), 2, 1, width

        def batch(self, places):
            rows = np.zeros((3, self.width), np.float32)
            rows[: len(places)] = self.members[places][:, None]
            return rows

    double = NetworkMap(lambda params, rows: rows * params)
    found = double(2.0, [Rows([3, 0, 1], 2), Rows([2, 4], 3)])
    np.testing.assert_array_equal(found, [[0, 0, 0], [2, 2, 0], [4, 4, 4], [6, 6, 0], [8, 8, 8]])
    assert len(double.programs) == 2


def test_swept_networks_pad_the_last(embedder, checkpoints):
    graphs = [checkpoint_graph(c, 16) for c in checkpoints[:3]]
    swept = embedder.sweep(make_params(), make_buckets(graphs, batch_cost=20_000, slack=50.0))
    batch = SweptNetworks(swept, np.array([2, 0]), size=3).batch([0])
    assert batch.mask.shape[0] == 4
    np.testing.assert_array_equal(batch.logits[0], swept.logits[2])
    assert not batch.mask[1:].any()


def test_parameters_may_be_stored_in_half_precision(tmp_path):
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), make_params())
    digest = save_encoder(tmp_path, ENCODER, half)
    _, loaded = load_encoder(tmp_path)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(loaded))
    assert encoder_hash(ENCODER, loaded) == digest == encoder_hash(ENCODER, half)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), loaded, make_params())


def test_export_round_trip_and_refusal(tmp_path):
    params = make_params()
    digest = save_encoder(tmp_path, ENCODER, params)
    encoder, loaded = load_encoder(tmp_path)
    assert encoder_hash(encoder, loaded) == digest == encoder_hash(ENCODER, params)
    assert encoder_hash(ENCODER, make_params(1)) != digest
    fewer = {**params, "accuracy": jax.tree.map(lambda leaf: np.zeros(3), params["accuracy"])}
    save_encoder(tmp_path, ENCODER, fewer)
    with pytest.raises(InputError, match="parameters of another version"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="holds no readable encoder"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("encoder", [ENCODER, ResponseEncoder(probes=8, rank=4, evidence=0.0, input_shape=(9, 7, 3))])
def test_shapes_of_parameters_are_those_that_flax_draws(encoder):
    drawn = jax.eval_shape(lambda: init_params(encoder, np.zeros((encoder.probes, *encoder.input_shape)), 0))
    shapes = {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(drawn, sep="/").items()}
    assert parameter_shapes(encoder) == shapes


def test_foreign_input_size_and_channels():
    """A network for 8 x 8 color images is embedded too."""
    rng = np.random.default_rng(0)
    tensors = {"0.weight": rng.normal(size=(6, 192)), "2.weight": rng.normal(size=(3, 6)), "2.bias": rng.normal(size=3)}
    checkpoint = Checkpoint("rgb", {k: v.astype(np.float32) for k, v in tensors.items()}, {})
    encoding = Embedder(ENCODER)(make_params(), make_buckets([checkpoint_graph(checkpoint, 16)]))
    assert np.isfinite(encoding.embedding).all()

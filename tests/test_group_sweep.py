import numpy as np
import pytest
from claim_networks import (
    NETWORKS,
    convolutional,
    fused,
    lora,
    mix_products,
    permute,
    recurrent,
    rescale,
    rescale_norm,
    transformer,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.canonical import Canonicalizer
from wsrl.checkpoint import Checkpoint
from wsrl.embedding import embed_streamed
from wsrl.encoder.group_readout import DIM, encoder_hash
from wsrl.encoder.group_schedule import make_schedule
from wsrl.encoder.group_sweep import Sweep
from wsrl.encoder.group_weights import StackedWeights
from wsrl.encoder.probes import COLUMNS, fixed_states, shifts, signs

# Changes of what is embedded must change `wsrl.encoder.group_readout.FORMAT`, or indices would mix encoders.
PINNED = {
    "encoder": "13946134ad66fe50282e878ef80b7fd470daf94e72fb4e0645ed7a35f7a7f880",
    "fused": [0.106, -0.0513, 0.1426, -0.037],
    "convolutional": [0.1075, -0.1154, -0.0069, 0.0825],
}


class Embedder:
    def __init__(self, claim):
        self.canonicalize, self.schedule = Canonicalizer(claim), make_schedule(claim)

    def __call__(self, checkpoint, **options):
        return embed_streamed(checkpoint, self.canonicalize, self.schedule, **options)


def members(checkpoint, claim, seed):
    """One random member of each kind of symmetry, and one of all."""
    moved = mix_products(rescale(permute(checkpoint, claim, seed), claim, seed), claim, seed)
    return [
        permute(checkpoint, claim, seed),
        rescale(checkpoint, claim, seed),
        mix_products(checkpoint, claim, seed),
        moved,
    ]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_embeddings_are_unit_vectors_that_no_symmetry_moves(name, seed):
    checkpoint, claim = NETWORKS[name](seed % 3)
    embed = Embedder(claim)
    vector = embed(checkpoint)
    assert vector.shape == (DIM,) and vector.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-6)
    for moved in members(checkpoint, claim, seed):
        assert np.linalg.norm(embed(moved) - vector) < 1e-5
    assert np.linalg.norm(embed(NETWORKS[name](seed % 3 + 10)[0]) - vector) > 0.1


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_statistics_of_folded_norms_do_not_matter(seed):
    checkpoint, claim = convolutional(seed % 3)
    embed = Embedder(claim)
    moved = rescale_norm(checkpoint, "0.weight", "0.bias", "1", seed, largest=8.0)
    assert np.linalg.norm(embed(moved) - embed(checkpoint)) < 1e-5


def test_degenerate_products_do_not_move_embeddings():
    """Where singular values are equal the canonical form is not unique, but the embedding is."""
    checkpoint, claim = transformer(0, layers=1)
    rng = np.random.default_rng(0)
    for head in range(3):
        basis = np.linalg.qr(rng.standard_normal((16, 4)))[0]
        rows = slice(4 * head, 4 * head + 4)
        for name in ("v", "k", "q"):
            checkpoint.tensors[f"layers.0.attn.{name}.weight"][rows] = basis.T
            checkpoint.tensors[f"layers.0.attn.{name}.bias"][rows] = 0
        checkpoint.tensors["layers.0.attn.o.weight"][:, rows] = np.linalg.qr(rng.standard_normal((16, 4)))[0]
    embed = Embedder(claim)
    vector = embed(checkpoint)
    for seed in range(4):
        assert np.linalg.norm(embed(mix_products(checkpoint, claim, seed)) - vector) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_and_stacks_give_the_same(name):
    checkpoints = [NETWORKS[name](seed)[0] for seed in range(3)]
    claim = NETWORKS[name]()[1]
    embed = Embedder(claim)
    whole = [embed(c) for c in checkpoints]
    for checkpoint, vector in zip(checkpoints, whole, strict=True):
        np.testing.assert_allclose(embed(checkpoint, entries=7), vector, atol=1e-6)
    canonical = [embed.canonicalize(c).tensors for c in checkpoints]
    stacked = {n: np.stack([np.asarray(c[n], np.float32) for c in canonical]) for n in claim.shapes}
    for tokens in zip(*(Sweep(embed.schedule, StackedWeights(s)).tokens() for s in _views(stacked)), strict=True):
        both = [t.gram for t in tokens]
        np.testing.assert_allclose(
            np.concatenate(both[1:]), np.broadcast_to(both[0], (3, *both[0].shape[1:])), atol=1e-5
        )


def _views(stacked):
    """All models at once, then each alone."""
    return [stacked] + [{n: v[i : i + 1] for n, v in stacked.items()} for i in range(3)]


def test_zeros_and_constant_networks_embed():
    for network in (transformer, lora, recurrent):
        checkpoint, claim = network()
        zeros = Checkpoint("zeros", {n: np.zeros_like(t) for n, t in checkpoint.tensors.items()}, {})
        assert np.isfinite(Embedder(claim)(zeros)).all()
    checkpoint, claim = lora()
    checkpoint.tensors["q.lora_B.weight"][:] = 0  # as a pair starts
    assert np.isfinite(Embedder(claim)(checkpoint)).all()


def test_biases_and_gains_matter():
    checkpoint, claim = transformer()
    embed = Embedder(claim)
    for name in ("layers.0.mlp.up.bias", "layers.1.norm1.weight", "layers.0.attn.v.bias", "head.bias"):
        changed = {**checkpoint.tensors, name: checkpoint.tensors[name] * np.linspace(-2, 2, claim.shapes[name][0])}
        assert np.linalg.norm(embed(Checkpoint("", changed, {})) - embed(checkpoint)) > 1e-3


def test_attention_is_computed_over_the_columns():
    """The values that the output projection reads are softmax attention, as if the columns were tokens."""
    checkpoint, claim = transformer(0, layers=1)
    sweep = Sweep(make_schedule(claim), StackedWeights({n: t[None] for n, t in checkpoint.tensors.items()}))
    for visit in sweep.schedule.visits:
        if visit.tensor == "layers.0.attn.o.weight":
            break
        sweep.visit(visit)
    (link,) = visit.links
    q, k, v = (sweep.entries[f"layers.0.attn.{n}.weight"][0].astype(np.float64).reshape(3, 4, COLUMNS) for n in "qkv")
    scores = np.exp(np.einsum("hdx,hdy->hxy", q, k) / 2)
    expected = np.einsum("hxy,hdy->hdx", scores / scores.sum(-1, keepdims=True), v).reshape(12, COLUMNS)
    expected /= np.sqrt((expected**2).mean())
    np.testing.assert_allclose(sweep._linked(link)[0], expected, atol=1e-5)


def test_convolutions_slide_over_the_image():
    kernel = np.random.default_rng(0).standard_normal((3, 3))
    image = signs("fixed", 0, 1)[0]
    read = image[shifts(1, 1, (3, 3))[0]]  # [taps, columns]
    expected = sum(
        kernel[y, x] * np.roll(image.reshape(8, 8), (1 - y, 1 - x), (0, 1)) for y in range(3) for x in range(3)
    )
    np.testing.assert_allclose(kernel.ravel() @ read, expected.ravel(), rtol=1e-6)


def test_signs_do_not_depend_on_the_pieces_they_are_asked_for():
    everything = signs("fixed", 0, 1000)
    np.testing.assert_array_equal(signs("fixed", 317, 100), everything[317:417])
    assert set(np.unique(everything)) == {-1.0, 1.0}
    assert abs(everything.mean()) < 0.02 and np.abs(np.corrcoef(everything.T) - np.eye(COLUMNS)).max() < 0.2
    assert (signs("slot", 0, 1000) != everything).mean() > 0.4


@pytest.mark.parametrize("taps", [(), (5,), (3, 3), (2, 3), (3, 3, 3)])
def test_shifts_are_permutations_of_the_columns(taps):
    found = shifts(4, 9, taps)
    assert found.shape == (4, 9 * int(np.prod(taps)), COLUMNS)
    assert (np.sort(found, -1) == np.arange(COLUMNS)).all()


def test_smooth_images_have_length_one():
    states = fixed_states(0, 200, (3, 3))
    np.testing.assert_allclose(np.square(states).mean(), 1, rtol=0.05)


def test_layers_are_visited_before_they_are_read():
    names = [v.tensor for v in make_schedule(transformer()[1]).visits]
    assert names == [
        "embed.weight",
        *(
            f"layers.{i}.{n}.weight"
            for i in range(2)
            for n in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
        ),
        "head.weight",
    ]
    schedule = make_schedule(fused()[1])
    assert [v.tensor for v in schedule.visits][-1] == "head.weight" and schedule.visits[-1].output
    assert not any(v.output for v in schedule.visits[:-1])
    assert schedule.visits[-1].depth == 1 and schedule.normed == {"x"}


def test_depthwise_convolutions_read_their_own_units():
    visits = {v.tensor: v for v in make_schedule(convolutional()[1]).visits}
    assert [name for name, v in visits.items() if v.gated] == ["3.weight"]
    assert list(visits).index("2.weight") < list(visits).index("3.weight")


def test_the_encoder_has_not_changed():
    assert encoder_hash() == PINNED["encoder"]
    for network in (fused, convolutional):
        checkpoint, claim = network()
        np.testing.assert_allclose(Embedder(claim)(checkpoint)[:4], PINNED[network.__name__], atol=1e-4)

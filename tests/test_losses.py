import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.encoder.losses import contrastive

EMBEDDING = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
EMBEDDING /= np.linalg.norm(EMBEDDING, axis=1, keepdims=True)


def pairs(label, lineage):
    exists = (label >= 0)[:, None] & (label >= 0)[None] & (lineage[:, None] != lineage[None])
    same = label[:, None] == label[None]
    return exists & same, exists & ~same


@settings(max_examples=30, deadline=None)
@given(
    label=st.lists(st.integers(-1, 3), min_size=12, max_size=12),
    lineage=st.lists(st.integers(0, 9), min_size=12, max_size=12),
)
def test_losses_follow_their_definitions(label, lineage):
    label, lineage = np.array(label, np.int32), np.array(lineage, np.int32)
    positive, negative = pairs(label, lineage)
    terms = []
    for i in range(12):
        if positive[i].any():
            logits = EMBEDDING[i] @ EMBEDDING.T / 0.1
            partition = np.log(np.exp(logits[positive[i] | negative[i]]).sum())
            terms.append(-(logits[positive[i]] - partition).mean())
    expected = np.mean(terms) if terms else 0.0
    found = contrastive("supervised_contrastive", jnp.array(EMBEDDING), jnp.array(label), jnp.array(lineage), 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    distance = np.linalg.norm(EMBEDDING[:, None] - EMBEDDING[None], axis=-1)
    pull = (distance[positive] ** 2).mean() if positive.any() else 0.0
    push = (np.maximum(0, 1.0 - distance[negative]) ** 2).mean() if negative.any() else 0.0
    found = contrastive("margin", jnp.array(EMBEDDING), jnp.array(label), jnp.array(lineage), 1.0)
    np.testing.assert_allclose(found, pull + push, rtol=1e-3, atol=1e-5)


def test_unknown_loss():
    with pytest.raises(ValueError, match="loss 'triplet' is none of supervised_contrastive, margin"):
        contrastive("triplet", jnp.array(EMBEDDING), jnp.zeros(12, jnp.int32), jnp.arange(12), 1.0)

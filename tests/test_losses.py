import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.training.losses import contrastive
from wsrl.training.sampling import Targets

EMBEDDING = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
EMBEDDING /= np.linalg.norm(EMBEDDING, axis=1, keepdims=True)


def pairs(label, lineage):
    exists = (label >= 0)[:, None] & (label >= 0)[None] & (lineage[:, None] != lineage[None])
    same = label[:, None] == label[None]
    return exists & same, exists & ~same


@settings(max_examples=30)
@given(
    label=st.lists(st.integers(-1, 3), min_size=12, max_size=12),
    lineage=st.lists(st.integers(0, 9), min_size=12, max_size=12),
    architecture=st.lists(st.integers(0, 2), min_size=12, max_size=12),
    hard=st.sampled_from([1.0, 8.0]),
)
def test_losses_follow_their_definitions(label, lineage, architecture, hard):
    targets = Targets(*(np.array(part, np.int32) for part in (label, lineage, architecture)))
    positive, negative = pairs(targets.label, targets.lineage)
    same_architecture = targets.architecture[:, None] == targets.architecture[None]
    weight = np.where(negative, np.where(same_architecture, hard, 1.0), 1.0)
    terms = []
    for i in range(12):
        if positive[i].any():
            logits = EMBEDDING[i] @ EMBEDDING.T / 0.1
            partition = np.log((weight[i] * np.exp(logits))[positive[i] | negative[i]].sum())
            terms.append(-(logits[positive[i]] - partition).mean())
    expected = np.mean(terms) if terms else 0.0
    found = contrastive("supervised_contrastive", jnp.array(EMBEDDING), targets, 0.1, hard)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    distance = np.linalg.norm(EMBEDDING[:, None] - EMBEDDING[None], axis=-1)
    pull = (distance[positive] ** 2).mean() if positive.any() else 0.0
    push = 0.0
    if negative.any():
        push = np.average(np.maximum(0, 1.0 - distance[negative]) ** 2, weights=weight[negative])
    found = contrastive("margin", jnp.array(EMBEDDING), targets, 1.0, hard)
    np.testing.assert_allclose(found, pull + push, rtol=1e-3, atol=1e-5)


def test_unknown_loss():
    with pytest.raises(ValueError, match="loss 'triplet' is none of supervised_contrastive, margin"):
        contrastive("triplet", jnp.array(EMBEDDING), Targets(*np.zeros((3, 12), np.int32)), 1.0, 1.0)

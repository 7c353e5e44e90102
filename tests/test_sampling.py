import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.encoder.embed import SweptNetworks
from wsrl.encoder.swept import Swept
from wsrl.training.sampling import Examples, Sampler, draw_class_map


def swept(n=24, classes=8, probes=4):
    mask = np.zeros((n, classes), np.float32)
    mask[:, :5] = 1
    logits = np.random.default_rng(0).normal(size=(n, classes, probes)).astype(np.float32)
    templates = np.zeros((n, classes, 9), np.float32)
    return Swept(logits, templates, mask)


def examples(n=24):
    rng = np.random.default_rng(1)
    orders = [rng.permutation(5).tolist() for _ in range(n)]
    return Examples(
        np.arange(n) % 4, np.arange(n) // 2, np.arange(n) % 3, np.linspace(0, 1, n).astype(np.float32), orders
    )


def sampler(devices=2, share=1.0, known=None):
    data = SweptNetworks(swept(), np.arange(0, 24, 1), size=6)
    return Sampler([data], known or examples(), tasks=3, map_share=share, merge_share=0.5, devices=devices, seed=7)


def test_a_step_is_fixed_by_seed_and_step():
    for a, b in zip(sampler().sample(5)[1], sampler().sample(5)[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(sampler().sample(5)[1].lineage, sampler().sample(6)[1].lineage)


def test_shapes_and_padding():
    ((batch, class_map),), targets = sampler().sample(0)
    assert batch.logits.shape == (2, 7, 8, 4) and class_map.shape == (2, 7, 8, 8)
    assert targets.label.shape == (2, 7)
    assert (targets.label[:, -1] == -1).all() and not class_map[:, -1].any()


def test_networks_of_one_draw_share_task_and_map():
    known = examples()
    source = sampler(known=known)
    ((batch, class_map),), targets = source.sample(3)
    everything = source.buckets[0].swept.logits
    of_label = {}
    for device in range(2):
        for row in range(6):
            label = targets.label[device, row]
            if label < 0:
                continue
            member = next(i for i in range(24) if np.array_equal(everything[i], batch.logits[device, row]))
            assert targets.lineage[device, row] == known.lineage[member]
            assert targets.architecture[device, row] == known.architecture[member]
            new_of_class = np.full(5, -1)
            for unit, canonical in enumerate(known.class_order[member]):
                if class_map[device, row, unit].any():
                    new_of_class[canonical] = class_map[device, row, unit].argmax()
            of_label.setdefault(label, []).append((known.task[member], tuple(new_of_class)))
    assert of_label and all(len(set(found)) == 1 for found in of_label.values())


def test_unknown_class_order_keeps_all_classes():
    known = examples()._replace(class_order=[None] * 24)
    ((_, class_map),), targets = sampler(known=known).sample(0)
    assert (class_map[targets.label >= 0].sum((1, 2)) == 8).all()


def test_networks_of_a_task_whose_class_order_is_known_of_some_are_sampled():
    orders = [order if i >= 12 else None for i, order in enumerate(examples().class_order)]
    for known in (orders, orders[::-1]):
        ((_, class_map),), targets = sampler(known=examples()._replace(class_order=known)).sample(0)
        assert class_map[targets.label >= 0].any((1, 2)).all()


@settings(max_examples=100)
@given(classes=st.integers(2, 12), share=st.floats(0, 1), merge=st.floats(0, 1), seed=st.integers(0, 1000))
def test_class_maps_are_partitions_of_subsets(classes, share, merge, seed):
    new = draw_class_map(classes, share, merge, np.random.default_rng(seed))
    kept = new[new >= 0]
    assert len(new) == classes and len(np.unique(kept)) >= 2
    np.testing.assert_array_equal(np.unique(kept), np.arange(kept.max() + 1))


def test_a_task_without_networks_in_a_bucket_gives_padding():
    data = SweptNetworks(swept(), np.arange(0, 24, 4), size=4)  # all of one task
    other = SweptNetworks(swept(), np.arange(1, 24, 4), size=4)
    source = Sampler([data, other], examples(), tasks=1, map_share=0.0, merge_share=0.0, devices=1, seed=0)
    _, targets = source.sample(0)
    assert (targets.label[0, :5] == -1).all() != (targets.label[0, 5:] == -1).all()


@pytest.mark.parametrize("devices", [1, 3])
def test_every_device_gets_its_own(devices):
    _, targets = sampler(devices=devices).sample(0)
    assert targets.label.shape[0] == devices

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import draw_network

from configs.zoo import get_config
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.errors import InputError
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.training.fit import init_params
from wsrl.training.hosts import ALONE
from wsrl.training.loop import init_state, make_optimizer, make_train_step, train
from wsrl.training.sampling import Examples, Sampler

SETTINGS = get_config().encoder
SETTINGS.update(steps=6, validate_every=2, warmup_steps=1, input_learning_rate=1e-2, loss="margin")


def linear(params, rows, class_map):
    """A stand-in for an encoder."""
    embedding = rows @ params["rest"]["kernel"] + params["inputs"]
    return embedding / jnp.sqrt(jnp.square(embedding).sum(-1, keepdims=True))


class Rows:
    """Eight networks of four tasks."""

    members, size, classes = np.arange(8), 4, 1

    def batch(self, places):
        rows = np.zeros((5, 3), np.float32)
        rows[: len(places)] = np.random.default_rng(0).normal(size=(8, 3))[list(places)]
        return rows


def sampler(devices=1):
    known = Examples(
        np.arange(8) % 4, np.arange(8), np.zeros(8, int), np.linspace(0, 1, 8, dtype=np.float32), [None] * 8
    )
    return Sampler([Rows()], known, tasks=2, map_share=0.0, merge_share=0.0, devices=devices, seed=0)


def first_input(params):
    """A score that training changes."""
    return float(params["inputs"][0])


def run(directory, settings=SETTINGS, sample=None, seconds=None, validate=first_input, hosts=ALONE):
    params = {"rest": {"kernel": np.eye(3, dtype=np.float32)}, "inputs": np.full(3, 0.1, np.float32)}
    optimizer = make_optimizer(settings)
    step = make_train_step(linear, optimizer, settings, hosts)
    sample = sample or sampler(len(hosts.devices)).sample
    return train(init_state(params, optimizer), step, sample, validate, settings, directory, "t", seconds, hosts)


def test_a_checkpoint_of_other_parameters_is_told_in_one_line(tmp_path):
    run(tmp_path)
    optimizer = make_optimizer(SETTINGS)
    step = make_train_step(linear, optimizer, SETTINGS)
    other = {"rest": {"kernel": np.eye(3, dtype=np.float32), "more": np.zeros(2, np.float32)}, "inputs": np.zeros(3)}
    with pytest.raises(InputError, match=r"checkpoints: cannot be restored .* delete it to train again"):
        train(init_state(other, optimizer), step, sampler().sample, first_input, SETTINGS, tmp_path, "t")


def losses(rows):
    return [row["loss"] for row in rows]


@pytest.mark.parametrize("loss", ["margin", "supervised_contrastive"])
def test_training_lowers_the_loss(tmp_path, loss):
    last = {}
    for rate in (0.1, 0.0):  # the draws are the same
        settings = SETTINGS.copy_and_resolve_references()
        settings.update(loss=loss, steps=30, learning_rate=rate, input_learning_rate=0.0)
        _, rows = run(tmp_path / str(rate), settings)
        last[rate] = np.mean(losses(rows)[-10:])
    assert last[0.1] < 0.6 * last[0.0]


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path):
    _, whole = run(tmp_path / "whole")

    def dies(step):
        if step >= 5:
            raise KeyboardInterrupt
        return sampler(jax.local_device_count()).sample(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", sample=dies)
    best, resumed = run(tmp_path / "killed")
    assert losses(resumed) == losses(whole)
    assert [row["step"] for row in resumed] == list(range(1, 7))
    written = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert written == resumed
    assert list((tmp_path / "killed" / "tensorboard").iterdir())
    again, rows = run(tmp_path / "killed")  # a finished run trains nothing
    assert rows == resumed
    jax.tree.map(np.testing.assert_array_equal, best, again)


def test_the_best_parameters_are_those_that_validated_best(tmp_path):
    settings = SETTINGS.copy_and_resolve_references()
    settings.update(validate_every=1)
    directions = (first_input, lambda params: -first_input(params))
    for number, validate in enumerate(directions):
        best, rows = run(tmp_path / str(number), settings, validate=validate)
        scores = [validate({"inputs": [0.1]}), *(row["validation"] for row in rows)]
        assert validate(best) == pytest.approx(max(scores)) and len(set(scores)) == len(rows) + 1
        # tied to no mesh of devices, so that other programs may take them
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(best))


def test_the_initial_parameters_are_kept_where_training_makes_validation_worse(tmp_path):
    def validate(params):
        return -float(np.abs(params["inputs"] - 0.1).sum() + np.abs(params["rest"]["kernel"] - np.eye(3)).sum())

    def dies(step):
        if step >= 5:
            raise KeyboardInterrupt
        return sampler(jax.local_device_count()).sample(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, sample=dies, validate=validate)
    for _ in range(2):  # goes on after a restart, then finds all done
        best, rows = run(tmp_path, validate=validate)
        assert len(rows) == 6 and all(row["validation"] < 0 for row in rows if "validation" in row)
        np.testing.assert_array_equal(best["rest"]["kernel"], np.eye(3))
        np.testing.assert_array_equal(best["inputs"], np.full(3, 0.1, np.float32))


def test_without_steps_the_initial_parameters_are_the_best(tmp_path):
    settings = SETTINGS.copy_and_resolve_references()
    settings.update(steps=0, warmup_steps=5)
    best, rows = run(tmp_path, settings)
    assert rows == []
    np.testing.assert_array_equal(best["rest"]["kernel"], np.eye(3))


def test_inputs_are_fixed_without_a_learning_rate(tmp_path):
    settings = SETTINGS.copy_and_resolve_references()
    settings.update(input_learning_rate=0.0)
    best, _ = run(tmp_path, settings)
    np.testing.assert_array_equal(best["inputs"], np.full(3, 0.1, np.float32))


def test_training_stops_after_its_time(tmp_path):
    _, rows = run(tmp_path, seconds=1e-9)
    assert len(rows) == 2  # the first step, which compiles, does not count


EIGHT_DEVICES = """
import jax, numpy as np, sys
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
sys.path.insert(0, "tests")
from test_training_loop import global_step
loss, leaves = global_step(int(sys.argv[1]))
np.savez(sys.argv[2], loss=loss, **{str(i): leaf for i, leaf in enumerate(leaves)})
"""


def global_step(devices, hosts=ALONE):
    """One step on the same eight networks, on one device or on several."""
    checkpoints = [draw_network("mlp", 1, seed)[0] for seed in range(8)]
    graphs = [checkpoint_graph(c, 16) for c in checkpoints]
    bucket = make_buckets(graphs, batch_cost=10**9, max_size=8 // devices)[0]
    encoder = ResponseEncoder(probes=4, dim=8, rank=4, gradient_probes=2, chunk=2)
    inputs = np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)
    params = init_params(encoder, inputs, 0)
    known = Examples(
        np.arange(8) % 4, np.arange(8), np.zeros(8, int), np.linspace(0, 1, 8, dtype=np.float32), [list(range(5))] * 8
    )

    class Everyone(Sampler):
        def _draw(self, bucket, places, tasks, rng):
            return [(i, i % 4) for i in range(8)]

    data = Everyone([bucket], known, tasks=4, map_share=1.0, merge_share=0.5, devices=devices, seed=0).sample(0)
    settings = get_config().encoder
    optimizer = optax.sgd(1.0)
    step = make_train_step(lambda p, b, m: encoder.apply({"params": p}, b, m), optimizer, settings, hosts)
    state, metrics = step(init_state(params, optimizer), *data)
    return float(metrics.loss), [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]


def test_eight_devices_take_the_step_of_one(tmp_path):
    found = {}
    for devices in (1, 8):
        path = tmp_path / f"{devices}.npz"
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        subprocess.run([sys.executable, "-c", EIGHT_DEVICES, str(devices), str(path)], check=True, env=environment)
        found[devices] = dict(np.load(path))
    assert found[1].keys() == found[8].keys()
    for key, value in found[1].items():
        np.testing.assert_allclose(found[8][key], value, rtol=1e-4, atol=1e-6)

import json
from functools import partial

import jax
import numpy as np
import pytest
import safetensors.numpy
from small_zoo import write_zoo

from configs import tiny
from experiments.tables.finished_run import load_run
from wsrl.encoder.encoder import ResponseEncoder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.swept import Swept
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.training.fit import init_params
from wsrl.training.response_cache import FILE, USABLE
from wsrl.zoo.manifest import MANIFEST, assign_splits, read_manifest

ENCODER = ResponseEncoder(probes=4, input_shape=(4, 4, 1), dim=4, rank=2, chunk=2)


@pytest.fixture(scope="module")
def params():
    """Of two encoders."""
    inputs = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
    return [init_params(ENCODER, own, seed) for seed, own in enumerate(inputs)]


def write_run(workdir, params, zoo=""):
    """A run of the two encoders; one of its eight networks could not be used."""
    records = write_zoo(workdir / (zoo or "zoo"))
    config = tiny.get_config()
    config.zoo.dir = zoo and str(workdir / zoo)
    write_atomically(workdir / "config.json", json.dumps(config.to_dict()).encode())
    used = records[1:]
    write_atomically(
        workdir / USABLE,
        json.dumps({"ids": [record.id for record in used], "problems": ["model-0: left out"], "of": 8}).encode(),
    )
    for seed, own in enumerate(params):
        rng = np.random.default_rng(seed)
        logits, templates = (rng.normal(size=(len(used), 5, size)).astype(np.float32) for size in (4, 16))
        swept = Swept(logits, templates, np.ones((len(used), 5), np.float32))
        save_encoder(workdir / f"encoder_{seed}", ENCODER, own)
        write_atomically(workdir / f"encoder_{seed}" / FILE, safetensors.numpy.save(swept._asdict()))
    return used


def test_a_finished_run_is_read_whole(tmp_path, params):
    used = write_run(tmp_path, params)
    run = load_run(tmp_path)
    assert run.records == used and run.workdir == tmp_path and run.zoo == tmp_path / "zoo"
    assert [len(leaf) for swept in run.swept for leaf in swept] == [7] * 6
    assert not np.array_equal(run.swept[0].logits, run.swept[1].logits)
    for encoder, own in run.encoders:
        assert {f: getattr(encoder, f) for f in ("probes", "rank", "dim")} == {"probes": 4, "rank": 2, "dim": 4}
        embed = jax.jit(partial(encoder.apply, method="embed"))
        assert embed({"params": own}, run.swept[0]).shape == (7, 4)
    assert {name: [used[i].split for i in places] for name, places in run.split.items()} == {
        "train": ["train"] * 3,
        "validation": ["validation"] * 2,
        "test": ["test"] * 2,
    }
    assert len(run.examples.task) == 7 and run.config.encoder.seeds == 2


def test_unseen_are_test_networks_of_tasks_that_are_not_trained_on(tmp_path, params):
    used = write_run(tmp_path, params)
    lines = [json.loads(line) for line in (tmp_path / "zoo" / MANIFEST).read_text().splitlines()]
    lines[-1]["task"] = used[0].task  # a fresh run on a training task
    (tmp_path / "zoo" / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(tmp_path)
    assert run.unseen.tolist() == [5] and run.split["test"].tolist() == [5, 6]


def test_a_zoo_that_was_made_elsewhere_gets_the_splits_of_the_run(tmp_path, params):
    write_run(tmp_path, params, "elsewhere")
    path = tmp_path / "elsewhere" / MANIFEST
    lines = [json.loads(line) | {"split": None} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = load_run(tmp_path)
    assert run.zoo == tmp_path / "elsewhere" and all(len(places) for places in run.split.values())
    assert run.records == assign_splits(read_manifest(run.zoo)[0], run.config.seed)[1:]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "holds no run"),
        ("config.json", b"{", "holds no run"),
        (USABLE, None, "not finished"),
        (f"encoder_1/{FILE}", b"short", "not finished"),
        ("encoder_0/encoder.safetensors", b"short", "holds no readable encoder"),
        (f"zoo/{MANIFEST}", None, "cannot be read"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_in_one_line(tmp_path, params, name, content, reason):
    write_run(tmp_path, params)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        load_run(tmp_path)
    assert "\n" not in str(error.value)

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors
from ml_collections import ConfigDict

from wsrl.data import load_image_set, normalize
from wsrl.errors import InputError
from wsrl.zoo import training
from wsrl.zoo.bank import draw_batches, image_bank, run_arrays
from wsrl.zoo.families import CATALOGUES, Family
from wsrl.zoo.manifest import read_manifest
from wsrl.zoo.models import MLP, CNNFlatten
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.stacked import initialize, optimizer_update, train_model
from wsrl.zoo.storage import read_checkpoints, read_variables
from wsrl.zoo.tasks import draw_tasks
from wsrl.zoo.training import make_chunks, train_zoo

SMALL = {
    "mlp": (MLP("relu", widths=(8,)), MLP("tanh", widths=(6,))),
    "cnn_flatten": (CNNFlatten("gelu", widths=(3,), conv_strides=(2,), hidden=6),),
}


@pytest.fixture(autouse=True)
def small_families(monkeypatch):
    for family, models in SMALL.items():
        monkeypatch.setitem(CATALOGUES["main"], family, Family(models, models))


def config(**changes):
    fields = {
        "datasets": "digits",
        "validation_datasets": "",
        "test_datasets": "",
        "data_dir": "",
        "image_size": 8,
        "max_images": 600,
        "num_classes": 5,
        "num_tasks": 6,
        "num_test_tasks": 2,
        "num_validation_tasks": 1,
        "num_seen_tasks": 1,
        "test_images": 60,
        "catalogue": "main",
        "families": "mlp",
        "test_families": "",
        "recipes": "sound",
        "runs_train": 2,
        "runs_validation": 1,
        "runs_test": 2,
        "runs_seen": 1,
        "num_children": 3,
        "num_distilled": 0,
        "num_copies": 0,
        "stretched": 0.0,
        "stretch": 1,
        "steps": 6,
        "checkpoints": 3,
        "batch_size": 8,
        "chunk_size": 4,
        "storage": "files",
    }
    return ConfigDict(fields | changes)


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        for family, models in SMALL.items():
            patch.setitem(CATALOGUES["main"], family, Family(models, models))
        return directory, train_zoo(config(), directory)


def test_every_run_leaves_its_checkpoints(zoo):
    directory, counts = zoo
    records, problems = read_manifest(directory)
    assert not problems
    steps = collections.defaultdict(list)
    for record in records:
        steps[record.get("run"), record.parent is None].append(record.step)
    assert [found for (_, is_root), found in steps.items() if is_root] == [[2, 4, 6]] * 12
    assert [found for (_, is_root), found in steps.items() if not is_root] == [[2]] * 3
    assert (counts["models"], counts["checkpoints"], counts["diverged"]) == (15, 39, 0)
    assert counts["programs"] == 2
    known = {record.id: record for record in records}
    for record in records:
        if record.parent:
            parent = known[record.parent]
            assert parent.step == 6 and parent.task != record.task
            assert parent.get("lineage") == record.get("lineage") and parent.split == record.split


def test_files_say_what_they_hold(zoo):
    directory, _ = zoo
    for record in read_manifest(directory)[0]:
        with safetensors.safe_open(directory / record.path, "numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        assert set(tensors) == {f"params/Dense_{i}/{name}" for i in (0, 1) for name in ("kernel", "bias")}
        assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
        assert metadata == {
            "framework": "flax",
            "activation": record.activation,
            "input_shape": "8,8,1",
            "strides": "",
        }
        assert record.get("parameters") == sum(tensor.size for tensor in tensors.values())


def test_same_seed_same_bytes(zoo, tmp_path):
    train_zoo(config(), tmp_path / "again")
    assert files(tmp_path / "again") == files(zoo[0])


def test_interrupted_build_goes_on(zoo, tmp_path, monkeypatch):
    trained = []
    original = training.train_chunk

    def counted(chunk, *rest):
        trained.extend(run.id for run in chunk.runs)
        for number, checkpoint in enumerate(original(chunk, *rest)):
            if len(trained) == interrupted_at and number == 1:
                raise KeyboardInterrupt
            yield checkpoint

    monkeypatch.setattr(training, "train_chunk", counted)
    interrupted_at = 6  # in the middle of the second chunk
    with pytest.raises(KeyboardInterrupt):
        train_zoo(config(), tmp_path)
    kept = {record.get("run") for record in read_manifest(tmp_path)[0]}
    assert len(kept) == 3
    trained.clear()
    interrupted_at = None
    assert train_zoo(config(), tmp_path)["models"] == 12
    assert not kept & set(trained) and len(trained) == len(set(trained))
    assert files(tmp_path) == files(zoo[0])
    trained.clear()
    assert train_zoo(config(), tmp_path)["models"] == 0 and not trained


def test_another_configuration_is_refused(zoo, tmp_path):
    with pytest.raises(InputError, match=r"another configuration \(differs in seed, steps\)"):
        train_zoo(config(steps=9), zoo[0], seed=1)
    before = files(zoo[0])
    assert train_zoo(config(data_dir="moved"), zoo[0])["models"] == 0
    assert files(zoo[0]) == before
    (tmp_path / "models.jsonl").touch()
    with pytest.raises(InputError, match=r"without zoo\.json"):
        train_zoo(config(), tmp_path)
    (tmp_path / "zoo.json").write_text("{")
    with pytest.raises(InputError, match="not readable"):
        train_zoo(config(), tmp_path)


def test_steps_must_be_shared_evenly(tmp_path):
    with pytest.raises(InputError, match="not a multiple of 3"):
        train_zoo(config(steps=7), tmp_path)


def test_diverged_runs_and_their_children_are_left_out(zoo, tmp_path, monkeypatch):
    lost = next(record for record in read_manifest(zoo[0])[0] if record.parent).parent.split("/")[0]

    def poisoned(run, *rest):
        variables = original(run, *rest)
        return jax.tree.map(lambda w: w * np.nan, variables) if run.id == lost else variables

    original = training._initial_variables
    monkeypatch.setattr(training, "_initial_variables", poisoned)
    counts = train_zoo(config(), tmp_path)
    records = read_manifest(tmp_path)[0]
    assert counts["diverged"] >= 1 and json.loads((tmp_path / "zoo.json").read_text())["diverged"][0] == lost
    assert lost not in {record.get("lineage") for record in records}
    assert train_zoo(config(), tmp_path)["models"] == 0


def small_zoo(**changes):
    digits = load_image_set("digits", None, 8, 600)
    tasks = draw_tasks([digits], 6, 2, 1)
    return draw_runs(config(**changes), tasks), image_bank([digits], tasks, 60)


@pytest.mark.parametrize("family", SMALL)
def test_stacked_training_equals_training_alone(family, tmp_path):
    runs, bank = small_zoo(families=family)
    chunk = make_chunks(runs, 4)[0]
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("models",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    stacked = list(training.train_chunk(chunk, tmp_path, config(), bank, jax.device_put(bank.images, replicated)))
    run = chunk.runs[-1]
    variables = initialize(chunk.model, 8, run.seed, run.init_scale)
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    state = {"variables": variables, "first": zeros, "second": zeros, "step": np.int32(0)}
    rows, units = draw_batches(run, bank, 6, 8)
    state, accuracy = jax.jit(train_model, static_argnums=0)(
        chunk.model, state, (rows, units), run_arrays(run, bank, 6), bank.images
    )
    step, together, accuracies = stacked[-1]
    assert step == 6 and accuracies[len(chunk.runs) - 1] == pytest.approx(float(accuracy))
    for alone, beside in zip(jax.tree.leaves(state["variables"]), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(beside[len(chunk.runs) - 1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_are_those_of_optax(optimizer):
    rate, decay = 0.1, 0.01
    reference = {
        "sgd": optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=0.9)),
        "adam": optax.chain(optax.add_decayed_weights(decay), optax.adam(rate)),
        "adamw": optax.adamw(rate, weight_decay=decay),
    }[optimizer]
    coefficients = {
        "adaptive": float(optimizer != "sgd"),
        "decoupled": float(optimizer == "adamw"),
        "weight_decay": decay,
        "rate": rate,
    }
    ours = theirs = jnp.linspace(-1.0, 1.0, 5)
    first = second = jnp.zeros(5)
    state = reference.init(theirs)
    for step in range(4):
        ours, first, second = optimizer_update(np.sin(ours), ours, first, second, jnp.int32(step), coefficients)
        updates, state = reference.update(jnp.sin(theirs), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_batches_follow_the_recipe():
    runs, bank = small_zoo()
    run = runs[0].__class__(**{**vars(runs[0]), "data_fraction": 0.25, "label_noise": 0.0})
    rows, units = draw_batches(run, bank, 50, 8)
    task_rows, labels = bank.train[run.task]
    class_of = dict(zip(task_rows.tolist(), labels.tolist(), strict=True))
    assert [run.class_order[unit] for unit in units.ravel()] == [class_of[row] for row in rows.ravel()]
    assert len(np.unique(rows)) <= round(0.25 * len(task_rows))
    assert not set(rows.ravel()) & set(bank.test[run.task][0])
    noisy = run.__class__(**{**vars(run), "label_noise": 1.0})
    rows, units = draw_batches(noisy, bank, 50, 8)
    assert all(run.class_order[u] != class_of[r] for u, r in zip(units.ravel(), rows.ravel(), strict=True))


def contents(directory):
    """Lines of the manifest without their places, and tensors."""
    records = read_manifest(directory)[0]
    lines = [{**vars(r), "path": None, "extra": {k: v for k, v in r.extra.items() if k != "record"}} for r in records]
    return lines, [dict(checkpoint.tensors) for checkpoint in read_checkpoints(directory, records)]


def test_both_storages_hold_the_same_zoo(zoo, tmp_path):
    train_zoo(config(storage="array_record"), tmp_path)
    (lines, tensors), (known, known_tensors) = contents(tmp_path), contents(zoo[0])
    assert lines == known and any(line["parent"] for line in lines)
    jax.tree.map(np.testing.assert_array_equal, tensors, known_tensors)
    held = {path.name for path in tmp_path.iterdir()}
    assert held == {"models.jsonl", "zoo.json", "shards"} and len(list((tmp_path / "shards").iterdir())) == 6
    assert train_zoo(config(storage="array_record"), tmp_path)["models"] == 0


MORE = {"storage": "array_record", "families": "mlp,cnn_flatten", "num_distilled": 3, "num_copies": 7}


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    directory = tmp_path_factory.mktemp("larger")
    with pytest.MonkeyPatch.context() as patch:
        for family, models in SMALL.items():
            patch.setitem(CATALOGUES["main"], family, Family(models, models))
        return directory, train_zoo(config(**MORE), directory)


def test_distilled_runs_learn_what_their_teacher_predicts(larger):
    directory, counts = larger
    records = {record.id: record for record in read_manifest(directory)[0]}
    distilled = [record for record in records.values() if record.get("teacher") and not record.get("copy")]
    assert len({record.get("run") for record in distilled}) == 3 and len(distilled) == 9
    assert (counts["models"], counts["checkpoints"]) == (24 + 3 + 3 + 7, 72 + 3 + 9 + 7)
    for record in distilled:
        teacher = records[record.get("teacher")]
        assert record.architecture != teacher.architecture and record.parent is None
        for field in ("task", "split", "lineage", "class_order"):
            assert record.get(field) == teacher.get(field)


def test_taught_batches_keep_the_images(larger):
    directory, _ = larger
    runs, bank = small_zoo(**MORE)
    final = {record.get("run"): record for record in read_manifest(directory)[0]}
    run = next(run for run in runs if run.teacher)
    other = next(run for run in runs if not run.teacher)
    drawn = [draw_batches(run, bank, 6, 8) for run in (other, run)]
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("models",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    images = jax.device_put(bank.images, replicated)
    first, (rows, units) = training._taught((other, run), drawn, directory, final, images)
    assert first is drawn[0] and np.array_equal(rows, drawn[1][0])
    variables = read_variables(directory, final[run.teacher.id])
    logits = run.teacher.model.apply(variables, normalize(bank.images[rows.ravel()])[..., None])
    np.testing.assert_array_equal(units.ravel(), np.asarray(logits).argmax(-1))


def test_copies_have_parents_and_measured_accuracies(larger):
    directory, _ = larger
    records = {record.id: record for record in read_manifest(directory)[0]}
    copies = [record for record in records.values() if record.get("copy")]
    assert collections.Counter(record.get("copy") for record in copies) == {"quantized": 3, "pruned": 2, "noisy": 2}
    runs, bank = small_zoo(**MORE)
    run_of = {run.id: run for run in runs}
    apply = jax.jit(lambda model, *inputs: model.apply(*inputs), static_argnums=0)
    for record in copies:
        parent = records[record.parent]
        assert not parent.get("copy") and parent.step == max(
            r.step for r in records.values() if r.get("run") == parent.get("run")
        )
        for field in ("task", "split", "lineage", "architecture", "class_order"):
            assert record.get(field) == parent.get(field)
        run = run_of[parent.get("run")]
        rows, labels = bank.test[run.task]
        images = np.zeros((60, 8, 8), np.uint8)  # of one shape for all tasks
        images[: len(rows)] = bank.images[rows]
        logits = apply(run.model, read_variables(directory, record), normalize(images)[..., None])[: len(rows)]
        right = np.array(run.class_order)[np.asarray(logits).argmax(-1)] == labels
        assert record.accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_an_interrupted_build_of_copies_goes_on(larger, tmp_path, monkeypatch):
    made = []

    def interrupted(copies, *rest):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(copies)
        return original(copies, *rest)

    original = training.make_copies
    monkeypatch.setattr(training, "make_copies", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_zoo(config(**MORE), tmp_path)
    monkeypatch.setattr(training, "make_copies", original)
    assert train_zoo(config(**MORE), tmp_path)["models"] == 7 - len(made[0])
    (lines, tensors), (known, known_tensors) = contents(tmp_path), contents(larger[0])
    assert lines == known
    jax.tree.map(np.testing.assert_array_equal, tensors, known_tensors)


def test_unknown_storage(tmp_path):
    with pytest.raises(InputError, match="no storage 'tar'"):
        train_zoo(config(storage="tar"), tmp_path)


def test_stretched_runs_take_several_times_the_steps(tmp_path):
    settings = config(stretched=0.5, stretch=3, num_children=2, num_distilled=0)
    counts = train_zoo(settings, tmp_path)
    records, _ = read_manifest(tmp_path)
    steps = collections.defaultdict(list)
    for record in records:
        if not record.parent:
            steps[record.get("run")].append(record.step)
    assert {tuple(found) for found in steps.values()} == {(2, 4, 6), (6, 12, 18)}
    assert counts["programs"] <= 4  # architectures, and sizes of chunks
    for record in records:
        assert record.get("steps") == (
            2 if record.parent else 18 if len(set(steps[record.get("run")]) - {2, 4, 6}) else 6
        )

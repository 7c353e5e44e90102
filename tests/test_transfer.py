import importlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.transfer import get_config
from experiments.transfer import fine_tuning, gallery, measured, sources, table, targets
from experiments.transfer.heads import worth
from experiments.transfer.run import run
from experiments.transfer.starts import Rule, by_rule, choose_rule, pick_starts
from experiments.transfer.table import reached
from wsrl.errors import InputError
from wsrl.recommendation.probes import ARCHITECTURES as PROXIES
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import CNNGap
from wsrl.zoo.stacked import initialize

RULE = Rule("data", 0.0, 1)


def write_set(folder, name, classes, each, seed):
    """Noisy images of a few classes, which a stripe tells."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    x = rng.integers(0, 90, (len(y), 16, 16)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 + 3 * label : 4 + 3 * label] += 120
    order = rng.permutation(len(y))
    np.savez(folder / f"{name}.npz", x=x[order], y=y[order])


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A configuration that runs within seconds, of two sources and two targets."""
    data = tmp_path / "data" / "inner"
    data.mkdir(parents=True)
    for seed, (name, classes) in enumerate({"one": 2, "two": 4, "more": 3, "valid": 2, "test": 3}.items()):
        write_set(data, name, classes, 30, seed)
    monkeypatch.setattr(sources, "ARCHITECTURES", {"cnn_gap": CNNGap("relu", widths=(8, 8), conv_strides=(2, 2))})
    monkeypatch.setattr(gallery, "ARCHITECTURES", sources.ARCHITECTURES)
    monkeypatch.setattr(gallery, "PROXIES", PROXIES[:1])
    monkeypatch.setattr(gallery, "RANDOM", 1)
    for module, name, value in (
        *((sources, "BANK", 600), (sources, "HELD_OUT", 100), (targets, "HELD_OUT", 50), (measured, "DRAWS", 1)),
        *((table, "DRAWS", 1), (fine_tuning, "RECORDED", (0, 5)), (table, "RECORDED", (0, 5))),
        *((fine_tuning, "RATES", (1e-3,)), *((own, "LABELS", (5, 10)) for own in (targets, measured, table))),
    ):
        monkeypatch.setattr(module, name, value)
    config = get_config()
    config.update(data_dir=str(data.parent), image_size=16, sources="both=one+two,more", mirrored="more", steps=20)
    config.update(validation_targets="valid=more", test_targets="test=both", tuned="10")
    return config


def test_a_tiny_run_writes_both_tables_and_goes_on_from_what_there_is(tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    run(tiny, workdir)
    records = [json.loads(line) for line in (workdir / "zoo/models.jsonl").read_text().splitlines()]
    assert [(own["id"], own["classes"], own["steps"]) for own in records] == [
        *(("both-cnn_gap/2", 6, 20), ("both-cnn_gap/20", 6, 20)),
        *(("more-cnn_gap/2", 3, 20), ("more-cnn_gap/20", 3, 20)),
    ]
    rows = (workdir / "tables/transfer.csv").read_text().splitlines()
    starts = [row.split(",")[0].strip('"') for row in rows[1:]]
    assert {"vector and classes", "LogME of all", "random weights", "scratch", "best in hindsight"} <= set(starts)
    assert "tuned, 10 a class" in rows[0] and (workdir / "tables/transfer-validation.csv").exists()
    written = {path: path.stat().st_mtime_ns for path in (workdir / "zoo").rglob("*") if path.is_file()}
    kept = [(workdir / name).read_bytes() for name in (measured.FILE, fine_tuning.FILE)]
    run(tiny, workdir)
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert kept == [(workdir / name).read_bytes() for name in (measured.FILE, fine_tuning.FILE)]
    assert (workdir / "tables/transfer.csv").read_text().splitlines() == rows
    tiny.steps = 30
    with pytest.raises(InputError, match="another configuration"):
        run(tiny, workdir)


def test_a_set_that_is_not_there_is_named(tiny):
    with pytest.raises(InputError, match=r"holds no gone\.npz; name the folder"):
        sources.load_set("one+gone", tiny.data_dir, 16)


def test_labeled_images_are_nested_and_apart_from_the_held_out_ones(tiny):
    found, bank = targets.load_targets(tiny)
    assert [(target.name, target.split, target.classes) for target in found] == [
        ("valid", "validation", 2),
        ("test", "test", 3),
    ]
    few, many = (targets.draw_labeled(bank, "test", count, 0) for count in (5, 10))
    assert set(few.train.rows) < set(many.train.rows) and not set(many.train.rows) & set(many.test.rows)
    assert np.bincount(few.train.labels).tolist() == [5, 5, 5]
    assert set(targets.draw_labeled(bank, "test", 5, 1).train.rows) != set(few.train.rows)
    examples = targets.as_examples(bank, found[1], few.train, 8)
    assert examples.x.shape == (15, 8, 8) and np.bincount(examples.y[examples.held_out]).tolist() == [1, 1, 1]


@given(st.integers(1, 7), st.integers(1, 40), st.booleans(), st.integers(0, 9))
def test_copies_are_of_all_images_alike_and_keep_their_size(number, count, mirrored, seed):
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.integers(60, 200, (number, 1, 1)), 8, 1).repeat(8, 2).astype(np.uint8)  # each of one gray
    copies, of = sources.augmented(x, count, mirrored, rng)
    assert copies.shape == (count, 8, 8) and copies.dtype == np.uint8
    assert np.ptp(np.bincount(of, minlength=number)) <= 1
    assert np.ptp(copies.reshape(count, -1), axis=1).max() == 0  # shifted, and relit as a whole
    change = np.abs(copies[:, 0, 0].astype(int) - x[of, 0, 0])
    assert change.max() <= sources.BRIGHTNESS + sources.CONTRAST * 128 + 1


def test_output_neurons_beyond_the_classes_are_cut_off():
    model = CNNGap("relu", widths=(4,), conv_strides=(2,), num_classes=6)
    variables, images = initialize(model, 8, 0, 1.0), np.random.default_rng(0).normal(size=(3, 8, 8, 1))
    cut = sources._with_classes(variables, 4)
    logits = model.clone(num_classes=4).apply(cut, images)
    np.testing.assert_allclose(logits, model.apply(variables, images)[:, :4], rtol=1e-6)


def test_worth_tells_features_that_suit_a_target():
    rng = np.random.default_rng(0)
    labels, truth = np.tile(np.arange(3), 10), np.tile(np.arange(3), 20)
    noise, more = (0.1 * rng.normal(size=(n, 5)) for n in (30, 60))
    axes = np.eye(3, 5)
    good = worth(noise + axes[labels], labels, more + axes[truth], truth, 3)
    bad = worth(noise, labels, more, truth, 3)
    assert good.head == good.few_shot == 1.0 and bad.head < 0.7 > bad.few_shot
    assert good.evidence > bad.evidence and good.seconds >= 0


def test_levels_are_reached_between_known_places():
    assert reached((0, 10, 30), (0.2, 0.4, 0.8), 0.6) == pytest.approx(20)
    assert reached((5, 10), (0.5, 0.6), 0.4) == 5.0
    assert reached((5, 10), (0.5, 0.6), 0.7) == 10.0


def zoo():
    """Four networks of two sources."""
    return [
        Record(f"{name}/{step}", "x", name, name, "resnet", "relu", 0, None, step, accuracy, "test", extra)
        for name, accuracy, classes in (("small", 0.9, 5), ("large", 0.3, 80))
        for step in (10, 100)
        for extra in [{"steps": 100, "classes": classes, "images": 10 * classes, "parameters": 9}]
    ]


def cell(head, data):
    """What one draw of labels gave, with LogME that says the same as the head."""
    return {
        **{"head": head, "few_shot": head, "evidence": head, "evidence_seconds": [1.0] * 4},
        "scores": {"data": data, "proxies": data, "start": data},
        "seconds": {"data": 0.5, "proxies": 2.0, "start": 0.5},
    }


def test_picks_are_those_that_their_names_say():
    cells = {"10/0": cell([0.1, 0.6, 0.5, 0.7], [0.9, 0.8, 0.1, 0.2])}
    target = targets.Target("t", "test", "large", 2)
    found = pick_starts(cells, "10/0", target, zoo(), {"chosen": Rule("data", 4.0, 2)})
    places = {name: pick.places for name, pick in found.items()}
    assert places["retrieved by the data's vector"] == [0] and places["random pick"] == [0, 1, 2, 3]
    assert places["highest accuracy told"] == [1]
    for name in ("source of most images", "source of most classes", "same domain, by hand", "LogME of all", "chosen"):
        assert places[name] == [3], name
    assert (found["LogME of all"].seconds, found["chosen"].seconds) == (4.0, 2.5)


def test_a_rule_is_chosen_by_what_it_picks():
    valid = targets.Target("v", "validation", "large", 2)
    cells = {"v": {"10/0": cell([0.1, 0.2, 0.5, 0.7], [0.1, 0.4, 0.1, 0.3])}}
    chosen = choose_rule(cells, [valid], zoo(), 1)
    assert chosen.weight > 0 and by_rule(cells["v"]["10/0"], np.array([-1, -1, 1, 1.0]), chosen).places == [3]
    cells = {"v": {"10/0": cell([0.1, 0.9, 0.5, 0.7], [0.1, 0.4, 0.1, 0.3])}}
    assert choose_rule(cells, [valid], zoo(), 1) == RULE  # the simplest of those that are as good


def test_the_configuration_keeps_targets_apart_from_sources():
    config = get_config()
    names = dict(entry.split("=", 1) if "=" in entry else (entry, entry) for entry in config.sources.split(","))
    used = {part for own in names.values() for part in own.split("+")}
    asked = [e.split("=") for s in targets.SPLITS for e in config[f"{s}_targets"].split(",")]
    assert not used & {name for name, _ in asked} and {by_hand for _, by_hand in asked} <= names.keys()
    assert len({name for name, _ in asked}) == len(asked) and set(config.mirrored.split(",")) <= names.keys()


def test_the_program_ends_with_a_line_without_its_data(monkeypatch, tmp_path):
    program = importlib.import_module("experiments.transfer.__main__")
    config = get_config()
    config.data_dir = str(tmp_path)
    monkeypatch.setattr(program, "CONFIG", type("Flag", (), {"value": config}))
    monkeypatch.setattr(program, "WORKDIR", type("Flag", (), {"value": str(tmp_path)}))
    with pytest.raises(SystemExit, match=r"^error: .*holds no cmater_bangla_digits.npz"):
        program.main([])

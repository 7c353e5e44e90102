"""The table of the early stop, on a few pairs."""

import numpy as np
import pytest

from experiments.tables import relation_early_stop as table


@pytest.mark.parametrize(
    ("change", "related"), [("layer inserted", True), ("one perceptron shared", True), ("none", False)]
)
def test_the_stop_is_as_the_full_run(change, related):
    base, other = (table.draw("bert", seed) for seed in (0, 1))
    own, strange = ({n: np.asarray(t) for n, t in c.tensors.items()} for c in (base, other))
    made = dict(table.descendants(own, strange, np.random.default_rng(0))) | {"none": strange}
    assert table.judged(base, table.shuffled(base, made[change], 3)) == (related, not related)


def test_layers_and_units_are_added():
    shapes, _ = table.FORMS["llama"]
    own = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    inserted = table._inserted(own, {n: t + 1 for n, t in own.items()})
    assert [inserted[f"model.layers.{i}.mlp.up_proj.weight"].max() for i in range(4)] == [0, 1, 0, 0]
    wider = table._widened(own["model.layers.2.mlp.down_proj.weight"], np.random.default_rng(0))
    assert wider.shape == (table.WIDTH, table.HIDDEN + table.ADDED)


def test_no_seeds_are_refused(tmp_path, capsys):
    assert table.main(["--workdir", str(tmp_path), "--seeds=0"]) == 1
    assert "--seeds" in capsys.readouterr().err

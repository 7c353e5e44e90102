"""The table of parents, and the zoo of a known tree that it is made of."""

import numpy as np
import pytest

from experiments.tables import lineage_zoo
from experiments.tables.lineage import main, rows, table
from experiments.tables.lineage_zoo import Planted
from experiments.tables.relation_zoo import Recipe
from wsrl.comparison.relation import Kind
from wsrl.origins.lineage import Family, Lineage, Link


def link(parent: str, child: str, directed: bool) -> Link:
    return Link(parent, child, directed, 0.9, Kind.FINE_TUNED, 0.1, ())


def test_links_and_directions_are_counted():
    written = {
        "a": Planted("A", "base", ""),
        "b": Planted("A", "tuned", "a"),
        "c": Planted("A", "tuned", "a"),
        "d": Planted("D", "base", ""),
    }
    family = Family(("a", "b", "c", "d"), "a", (link("a", "b", True), link("b", "c", True), link("c", "d", False)))
    listed, links, false = rows(Lineage((family,), ()), written)
    own = {row["made by"]: row for row in listed}
    assert (links, false) == (3, 1)
    assert own["tuned"] | {"made by": ""} == own["all descendants"] | {"made by": ""}
    assert (own["tuned"]["linked"], own["tuned"]["claimed"], own["tuned"]["right"]) == (0.5, 1.0, 0.5)
    assert own["base"]["claimed"] == 0


def test_parents_of_a_small_zoo_are_found(tmp_path, monkeypatch):
    def initial(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        shapes = {"Dense_0": (40, 32), "Dense_1": (32, 32), "Dense_2": (32, 10)}
        return {f"params/{n}/kernel": rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} | {
            f"params/{n}/bias": rng.standard_normal(s[1]).astype(np.float32) for n, s in shapes.items()
        }

    def train(starts, task, seeds, steps, rate):
        size = min(1e-3 * steps**0.5, 0.05)
        return [
            {n: t + size * np.random.default_rng(s).standard_normal(t.shape).astype(np.float32) for n, t in own.items()}
            for own, s in zip(starts, seeds, strict=True)
        ]

    monkeypatch.setattr(lineage_zoo, "recipe", lambda architecture: Recipe(train, initial, {}))
    listed, note = table(tmp_path, ["mlp"], lineages=1, strangers=1, seed=0)
    own = {row["made by"]: row for row in listed}
    assert own["declared"]["right"] == own["float16"]["right"] == own["classes added"]["right"] == 1.0
    assert own["all descendants"]["linked"] > 0.8 and own["base"]["claimed"] == 0
    assert "0 join networks of two lineages" in note


@pytest.mark.parametrize("arguments", [["--lineages=0"], ["--strangers=-1"], ["--architectures=none"]])
def test_bad_input_ends_with_one_line(tmp_path, capsys, arguments):
    assert main([f"--workdir={tmp_path}", *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1

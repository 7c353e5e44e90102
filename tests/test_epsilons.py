"""Epsilons of norms that no configuration tells."""

import pytest

from wsrl.wiring.facts import with_facts
from wsrl.wiring.wiring import Fact, Operation


@pytest.mark.parametrize(
    ("metadata", "epsilon"),
    [({"format": "Keras"}, 1e-3), ({"format": "safetensors"}, 1e-5), ({"keras_config": {}}, 1e-3)],
)
def test_weight_files_of_keras_have_its_epsilon(metadata, epsilon):
    norm = Operation("norm", "batch norm", {"gain": "norm/gamma"})
    (found,) = with_facts([norm], metadata)
    assert found.facts["epsilon"] == Fact(epsilon, "assumed")

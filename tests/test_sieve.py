"""The sieve by signatures: it lets all copies through, and few others."""

import numpy as np
import pytest
from networks import draw_network

from wsrl.checkpoint import Checkpoint
from wsrl.origins.sieve import distance, may_be_same, nearest_tensors
from wsrl.program.read import read_program
from wsrl.signature.weights_vector import sign
from wsrl.symmetry import random_symmetry
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.zoo.copies import quantize

VARIANTS = [("mlp", 0), ("cnn_flatten", 0), ("resnet", 0)]


def signatures(checkpoint: Checkpoint) -> np.ndarray:
    return np.stack(list(sign(checkpoint, infer_wiring(checkpoint)).tensors.values()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_pass_and_other_networks_do_not(variant):
    network, _ = draw_network(*variant)
    own = signatures(network)
    moved = random_symmetry(network, read_program(network).wiring, np.random.default_rng(0), max_scale=4.0)
    assert distance(own, signatures(moved)) == pytest.approx(0, abs=1e-5)
    tensors = {name: np.asarray(tensor) for name, tensor in network.tensors.items()}
    rounded = signatures(Checkpoint("int8", quantize(tensors), network.metadata))
    assert may_be_same(own, rounded, 8.0) and not may_be_same(own, signatures(draw_network(*variant, seed=1)[0]), 32.0)


def test_the_order_of_tensors_does_not_matter():
    own = signatures(draw_network("resnet", 0)[0])
    assert distance(own, own[::-1]) == pytest.approx(0, abs=1e-6)


def test_other_shapes_tell_nothing():
    one, other = (signatures(draw_network(*variant)[0]) for variant in VARIANTS[:2])
    assert distance(one, other) is None and may_be_same(one, other, 32.0)
    assert distance(one[:0], one[:0]) is None


def test_tensors_of_many_models_are_looked_up():
    one, other = (signatures(draw_network(*variant)[0]) for variant in VARIANTS[:2])
    rows = np.concatenate([other, one])
    near = [places.tolist() for _, places, _ in nearest_tensors(one, rows, 1e-6)]
    assert near == [[len(other) + number] for number in range(len(one))]

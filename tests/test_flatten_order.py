"""In which order a map was flattened: lists, known names and smooth weights tell it; else nothing is claimed."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint, LazyTensor
from wsrl.wiring.flatten_order import channels_first
from wsrl.wiring.infer_wiring import infer_wiring

CHANNELS, PLACES, UNITS = 12, 25, 20


def smooth(first):
    """Weights that are alike at neighboring places, as those of trained networks."""
    noise = np.random.default_rng(0).standard_normal((UNITS, CHANNELS, PLACES + 2))
    values = noise[..., :-2] + noise[..., 1:-1] + noise[..., 2:]
    return (values if first else values.transpose(0, 2, 1)).reshape(UNITS, -1)


def rough():
    return np.random.default_rng(0).standard_normal((UNITS, CHANNELS * PLACES))


def inferred(dense, names=("conv1", "conv2", "fc1", "fc2")):
    shapes = ((8, 3, 3, 3), (CHANNELS, 8, 3, 3), dense.shape, (4, UNITS))
    tensors = {f"{name}.weight": np.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    return infer_wiring(Checkpoint("f", tensors | {f"{names[2]}.weight": dense}, {}))


def read(wiring, names=("conv1", "conv2", "fc1", "fc2")):
    """The group that the second convolution returns, and how the first dense layer reads it."""
    (written,), (segment,) = (wiring.axes[f"{names[i]}.weight"][i - 1] for i in (1, 2))
    assert written.group == segment.group and wiring.groups[segment.group].permutable
    return segment.outer, segment.size, segment.inner


@pytest.mark.parametrize("first", [True, False])
def test_smooth_weights_tell_the_order(first):
    assert read(inferred(smooth(first))) == ((1, CHANNELS, PLACES) if first else (PLACES, CHANNELS, 1))


def test_rough_weights_tell_nothing_so_nothing_is_claimed():
    wiring = inferred(rough())
    assert wiring.axes["conv2.weight"][0] is None and wiring.axes["fc1.weight"][1] is None
    assert wiring.axes["conv1.weight"][0] is not None
    assert any("fc1" in warning and "flattened" in warning for warning in wiring.warnings)


@pytest.mark.parametrize(
    "names", [("0", "2", "5", "7"), ("features.0", "features.2", "classifier.0", "classifier.2")], ids=["list", "names"]
)
def test_lists_and_known_names_tell_it_without_weights(names):
    assert read(inferred(rough(), names), names) == (1, CHANNELS, PLACES)


def test_constants_and_numbers_that_are_none_tell_nothing():
    def unreadable(start, stop):
        return np.full((stop - start, CHANNELS * PLACES), np.nan)

    assert channels_first(np.ones((UNITS, CHANNELS * PLACES)), CHANNELS) is None
    lazy = LazyTensor((UNITS, CHANNELS * PLACES), "float32", unreadable, "f", "fc1.weight")
    assert channels_first(lazy, CHANNELS) is None


def test_a_large_matrix_is_read_in_part():
    def rows(start, stop):
        assert stop * CHANNELS * PLACES <= 2**18
        return smooth(True)[np.arange(start, stop) % UNITS]

    assert channels_first(LazyTensor((10**6, CHANNELS * PLACES), "float32", rows, "f", "w"), CHANNELS) is True

"""Operations of networks that are built as usual stand in the order of the data and name what they read."""

import numpy as np
import pytest
from networks import draw_model, draw_network, in_torch_names

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Fact
from wsrl.zoo.models import RNN, ResNet


def operations(checkpoint):
    """Name -> (operation, names of its inputs), in order."""
    found = infer_wiring(checkpoint).operations
    return {o.name: (o, [found[i].name for i in o.inputs]) for o in found}


def of_shapes(**shapes):
    """A state dict; `__` stands for the dot."""
    return Checkpoint("f", {k.replace("__", "."): np.ones(s, np.float32) for k, s in shapes.items()}, {})


def test_blocks_of_flax_run_one_after_the_other_and_their_shortcuts_beside_them():
    checkpoint, _ = draw_model(ResNet("relu", widths=(8, 8, 8, 16), block_strides=(1, 1, 1, 2)))
    found = operations(checkpoint)
    layers = [name for name in found if "Batch" not in name]
    blocks = [f"ResidualBlock_{i}.Conv_{j}" for i in range(2) for j in range(2)]
    last = [f"ResidualBlock_2.Conv_{j}" for j in (2, 0, 1)]
    assert layers == ["Conv_0", *blocks, *last, "Dense_0"]
    assert found["ResidualBlock_1.Conv_0"][1] == ["BatchNorm_0", "ResidualBlock_0.BatchNorm_1"]
    assert found["Dense_0"][1] == ["ResidualBlock_2.BatchNorm_2", "ResidualBlock_2.BatchNorm_1"]
    assert found["ResidualBlock_2.BatchNorm_2"][0].facts["activation"] == Fact("none", "names")
    assert found["ResidualBlock_2.BatchNorm_1"][0].facts["sum_activation"] == Fact(None, "assumed")


@pytest.mark.parametrize("torch", [False, True], ids=["flax", "torch"])
def test_transformers_of_both_namings_read_alike(torch):
    checkpoint, _ = draw_network("vit", 0)
    found = operations(in_torch_names(checkpoint, "vit") if torch else checkpoint)
    types = [operation.type for operation, _ in found.values()]
    block = ["norm", *["attention"] * (2 if torch else 4), "norm", "linear", "linear"]
    assert types == ["conv", "parameter", *block, *block, "norm", "linear"]
    *_, (norm, stream), (_, read) = found.values()
    assert read == [norm.name] and len(stream) == 5  # positions, and what two blocks add twice each


def test_projections_of_flax_write_heads():
    checkpoint, _ = draw_network("vit", 0)
    query = next(o for o, _ in operations(checkpoint).values() if o.name.endswith("query"))
    weight, bias = query.tensors["weight"], query.tensors["bias"]
    assert query.reads == ((weight, 0),)
    assert query.writes == ((weight, 1), (weight, 2), (bias, 0), (bias, 1))


def test_the_two_matrices_of_a_cell_are_one_operation():
    checkpoint, _ = draw_model(RNN("tanh", widths=(12, 8)), size=4)
    found = operations(checkpoint)
    assert list(found) == ["SimpleCell_0", "SimpleCell_1", "Dense_0"]
    assert found["SimpleCell_1"][0].tensors.keys() == {"weight_ih", "weight_hh", "bias_ih"}
    assert found["Dense_0"][1] == ["SimpleCell_1"]


@pytest.mark.parametrize("units", [2, 4, 8])
def test_the_first_convolution_reads_gray_images_however_few_its_units(units):
    found = operations(
        of_shapes(conv1__weight=(units, 1, 3, 3), conv2__weight=(6, units, 3, 3), fc__weight=(5, 6 * 49))
    )
    assert found["conv1"][0].reads == (("conv1.weight", 1),) and "groups" not in found["conv1"][0].facts
    assert found["conv2"][1] == ["conv1"]


def test_a_list_tells_how_many_modules_have_no_tensors():
    sizes = {"0__weight": (8, 1, 3, 3), "1__weight": (8,), "1__running_mean": (8,), "1__running_var": (8,)}
    found = operations(of_shapes(**sizes, **{"4__weight": (16, 8, 3, 3), "8__weight": (10, 784)}))
    assert found["1"][0].facts["weightless"] == Fact(2, "names")
    assert "weightless" not in found["4"][0].facts


def test_heads_that_sort_before_hidden_layers_come_last():
    found = operations(of_shapes(fc__weight=(10, 64), fc1__weight=(64, 784), fc2__weight=(64, 64)))
    assert list(found) == ["fc1", "fc2", "fc"] and found["fc"][1] == ["fc2"]


def test_what_does_not_fit_keeps_all_inputs_that_may_be():
    """Dense blocks: each layer reads all before it."""
    names = {"conv0__weight": (8, 3, 3, 3), "block1__layer1__conv1__weight": (16, 8, 1, 1)}
    names |= {"block1__layer1__conv2__weight": (4, 16, 3, 3), "block1__layer2__conv1__weight": (16, 12, 1, 1)}
    names |= {"block1__layer2__conv2__weight": (4, 16, 3, 3), "fc__weight": (5, 16)}
    assert any(len(inputs) > 1 or not inputs for _, inputs in list(operations(of_shapes(**names)).values())[1:])

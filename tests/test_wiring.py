import numpy as np
import pytest
from networks import CASES, NAMES, draw_network, in_torch_names

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.network import read_network
from wsrl.program.read import read_program
from wsrl.wiring.wiring import Neurons, Segment


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_both_namings_give_the_same_network(case):
    flax, _ = draw_network(*case)
    torch = in_torch_names(flax, case[0])
    ours, theirs = (read_network(c, read_program(c)) for c in (flax, torch))
    if case[0] == "vit":  # LayerNorm's epsilon is the only difference
        assert len(ours.layers) == len(theirs.layers)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert (a.layer.op, a.layer.units, a.layer.grid, a.layer.pool) == (
            b.layer.op,
            b.layer.units,
            b.layer.grid,
            b.layer.pool,
        )
        np.testing.assert_array_equal(a.bias, b.bias)
        for v, w in zip(a.weights, b.weights, strict=True):
            assert (v is None and w is None) or np.array_equal(v, w)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("torch", [False, True], ids=["flax", "torch"])
def test_groups_are_well_formed_and_cover_everything(case, torch):
    checkpoint, _ = draw_network(*case)
    checkpoint = in_torch_names(checkpoint, case[0]) if torch else checkpoint
    wiring = read_program(checkpoint).wiring
    assert wiring.parameters == sum(t.size for t in checkpoint.tensors.values())
    assert all(any(axes) for axes in wiring.axes.values())
    for name, axes in wiring.axes.items():
        for length, segments in zip(checkpoint.tensors[name].shape, axes, strict=True):
            if segments is not None:
                assert sum(segment.length for segment in segments) == length
                assert all(wiring.groups[str(segment.group)].size == segment.size for segment in segments)


def test_known_groups_of_a_small_network():
    tensors = {
        "0.weight": np.zeros((3, 4), np.float32),
        "0.bias": np.zeros(3, np.float32),
        "2.weight": np.zeros((2, 3), np.float32),
    }
    wiring = read_program(Checkpoint("f", tensors, {"activation": "relu"})).wiring
    hidden = next(name for name, group in wiring.groups.items() if group.role == "hidden")
    assert wiring.groups[hidden] == Neurons(3, "hidden", True, "positive")
    assert wiring.axes["0.weight"][0] == (Segment(hidden, 3, power=1),)
    assert wiring.axes["2.weight"][1] == (Segment(hidden, 3, power=-1),)


@pytest.mark.parametrize("activation, scale", [("relu", "positive"), ("tanh", "sign"), ("gelu", "none")])
def test_scale_follows_the_activation(activation, scale):
    case = {"relu": 0, "tanh": 1, "gelu": 2}[activation]
    groups = read_program(draw_network("mlp", case)[0]).wiring.groups.values()
    assert {group.scale for group in groups if group.role == "hidden"} == {scale}


def test_prefixes_are_stripped():
    checkpoint, _ = draw_network("cnn_gap", 0)
    torch = in_torch_names(checkpoint, "cnn_gap")
    wrapped = Checkpoint("f", {f"module.{k}": v for k, v in torch.tensors.items()}, torch.metadata)
    assert [x.units for x in read_program(wrapped).layers] == [x.units for x in read_program(torch).layers]


def test_strides_and_input_shape_are_guessed():
    checkpoint, _ = draw_network("cnn_flatten", 0)
    bare = Checkpoint("f", checkpoint.tensors, {})
    assert [x.grid for x in read_program(bare).layers] == [x.grid for x in read_program(checkpoint).layers]


@pytest.mark.parametrize(
    "tensors, metadata",
    [
        ({"a.running_mean": (3,)}, {}),
        ({"0.weight": (3, 4), "2.weight": (2, 5)}, {}),
        ({"0.weight": (8, 1, 3, 3)}, {}),
        ({"0.weight": (3, 4)}, {"activation": "sine"}),
        ({"0.weight": (3, 4)}, {"input_shape": "2"}),
        ({"c.weight": (8, 1, 3, 3), "d.weight": (3, 8)}, {"strides": [1, 1]}),
        ({"c.weight": (8, 1, 3, 3), "d.weight": (3, 8)}, {"strides": "many"}),
        ({"blocks.0.attn.qkv.weight": (12, 4), "head.weight": (2, 4)}, {}),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(tensors, metadata):
    checkpoint = Checkpoint("some.file", {k: np.ones(s, np.float32) for k, s in tensors.items()}, metadata)
    with pytest.raises(CheckpointError, match=r"^some\.file: [^\n]+; [^\n]+$"):
        read_program(checkpoint)

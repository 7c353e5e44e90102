"""Programs of bare files: what the shapes say, what stays open, what hints decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import draw_network, in_torch_names

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.read import read_program, read_programs


def bare(**shapes):
    """A state dict without metadata; `__` stands for the dot."""
    tensors = {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in shapes.items()}
    return Checkpoint("bare.pt", tensors, {})


def values(program):
    return program.values


def sources(program):
    return {name: fact.source for name, fact in program.facts.items()}


def flat_cnn(**more):
    """Convolutions of 8 and 16 channels, 7 x 7 positions flattened."""
    return bare(conv1__weight=(8, 1, 3, 3), conv2__weight=(16, 8, 3, 3), fc__weight=(10, 784), **more)


def test_a_square_number_of_inputs_is_an_image():
    program = read_programs(bare(fc1__weight=(64, 784), fc2__weight=(10, 64)))[0]
    assert values(program) == {"activation": "relu", "input": "28x28x1"}
    assert sources(program) == {"activation": "assumed", "input": "shapes"}
    assert program.assumed == ("activation: relu",)


def test_colors_are_seen_where_one_channel_makes_no_square():
    assert read_programs(bare(fc1__weight=(8, 3072), fc2__weight=(10, 8)))[0].input_shape == (32, 32, 3)


def test_each_program_leads_to_the_map_that_is_flattened():
    programs = read_programs(flat_cnn())
    assert len({values(p)["pooling"] for p in programs}) > 2 and len({values(p)["strides"] for p in programs}) > 1
    for program in programs:
        last = program.layers[-2]
        assert last.units * last.grid[0] * last.grid[1] == 784
        if last.op == "pool":
            assert values(program)["pooling"].startswith(f"{last.pooling} 2x2 after")


def test_numbers_of_a_sequence_show_where_maps_are_pooled():
    shapes = {"weight": (8, 1, 3, 3), "next": (16, 8, 3, 3), "head": (10, 784)}
    strided = bare(**{"0__weight": shapes["weight"], "2__weight": shapes["next"], "5__weight": shapes["head"]})
    pooled = bare(**{"0__weight": shapes["weight"], "3__weight": shapes["next"], "7__weight": shapes["head"]})
    assert {values(p)["pooling"] for p in read_programs(strided)} == {"none"}
    assert {values(p)["pooling"] for p in read_programs(pooled)} == {
        f"{pooling} 2x2 after each convolution" for pooling in ("max", "mean")
    }


def test_a_network_without_padding_is_read_as_such():
    lenet = bare(conv1__weight=(6, 1, 5, 5), conv2__weight=(16, 6, 5, 5), fc1__weight=(48, 256), fc2__weight=(10, 48))
    shown = [(p.input_shape, values(p)["padding"], values(p)["pooling"]) for p in read_programs(lenet)]
    assert ((28, 28, 1), "none", "max 2x2 after each convolution") in shown


def test_hints_go_before_metadata_and_leave_nothing_to_assume():
    metadata = {"activation": "tanh", "input_shape": [28, 28, 1]}
    checkpoint = Checkpoint("some.pt", flat_cnn().tensors, metadata)
    (program,) = read_programs(checkpoint, {"activation": "gelu", "strides": [2, 2]})
    assert values(program)["activation"] == "gelu" and program.assumed == ()
    assert sources(program) == {
        "activation": "hint", "input": "metadata", "strides": "hint", "padding": "shapes", "pooling": "hint",
    }  # fmt: skip
    assert {values(p)["activation"] for p in read_programs(checkpoint)} == {"tanh"}


def test_pooling_is_a_hint():
    for program in read_programs(flat_cnn(), {"pooling": "mean"}):
        assert any(layer.op == "pool" and layer.pooling == "mean" for layer in program.layers)


@pytest.mark.parametrize(
    "hints", [{"pooling": "median"}, {"strides": [2]}, {"input_shape": [5, 5, 1]}, {"activation": "sine"}]
)
def test_hints_that_do_not_fit_are_refused_in_one_line(hints):
    with pytest.raises(CheckpointError, match=r"^bare\.pt: [^\n]+; [^\n]+$"):
        read_programs(flat_cnn(), hints)


def test_a_head_that_sorts_before_hidden_layers_stays_the_last():
    checkpoint = bare(fc__weight=(10, 64), fc1__weight=(64, 784), fc2__weight=(64, 64))
    assert [layer.name for layer in read_program(checkpoint).layers] == ["input", "fc1", "fc2", "fc"]


def test_counters_of_batch_norms_change_nothing():
    norm = {f"bn1__{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    with_counter = flat_cnn(**norm, bn1__num_batches_tracked=())
    assert read_programs(with_counter) and len(read_programs(with_counter)) == len(read_programs(flat_cnn(**norm)))


@pytest.mark.parametrize("family", ["mlp", "cnn_gap", "cnn_flatten", "resnet", "vit"])
def test_a_file_of_the_zoo_has_one_program_that_assumes_nothing(family):
    checkpoint, _ = draw_network(family, 0)
    (program,) = read_programs(checkpoint)
    assert program.assumed == ()


def test_fused_projections_leave_the_number_of_heads_open():
    checkpoint, _ = draw_network("vit", 0)
    checkpoint = in_torch_names(checkpoint, "vit")
    programs = read_programs(Checkpoint("vit.pt", checkpoint.tensors, {}))
    assert len({values(p)["heads"] for p in programs}) > 1
    assert values(programs[0])["activation"] == "gelu"
    (program,) = read_programs(checkpoint, {"heads": 1})
    assert values(program)["heads"] == "1"


LENGTHS = st.integers(0, 9)
SHAPES = st.lists(
    st.one_of(st.tuples(LENGTHS, LENGTHS), st.tuples(LENGTHS, LENGTHS, *[st.integers(0, 3)] * 2)), max_size=4
)


@given(SHAPES, st.sampled_from(["{}.weight", "layer1.{}.conv1.weight", "block{}.qkv.weight", "rnn.weight_ih_l{}"]))
def test_any_shapes_give_programs_that_fit_or_one_error(shapes, name):
    checkpoint = Checkpoint("any.pt", {name.format(i): np.ones(s, np.float32) for i, s in enumerate(shapes)}, {})
    try:
        programs = read_programs(checkpoint)
    except CheckpointError as error:
        assert str(error).startswith("any.pt: ") and "\n" not in str(error)
        return
    for program in programs:
        assert all(min(layer.grid) > 0 for layer in program.layers)
        assert {fact.source for fact in program.facts.values()} <= {"shapes", "assumed"}

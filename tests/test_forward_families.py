"""Image models without a graph become operators that give what their libraries' modules give, or are refused."""

import re
import sys
from importlib.util import find_spec
from math import erf

import numpy as np
import onnx
import pytest
from forward_onnx import onnx_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.proofs import families
from tests.image_networks import (
    StateDict,
    batch_norm,
    checkpoint,
    conv,
    dense,
    images,
    layer_norm,
    logits,
    small_resnet,
    small_vit,
    softmax,
)
from wsrl.checkpoint import CheckpointError
from wsrl.forward.families.module import Module, pooled
from wsrl.forward.families.network import Config, Network
from wsrl.forward.families.recognize import family_graph
from wsrl.forward.families.value import Trace
from wsrl.wiring.wiring import Fact

TO_TRANSFORMERS = (
    (r"^(conv|bn)1\.", lambda m: f"resnet.embedder.embedder.{KINDS[m[1]]}."),
    (r"^layer(\d)\.0\.downsample\.(\d)", lambda m: f"{place(m[1])}.shortcut.{list(KINDS.values())[int(m[2])]}"),
    (r"^layer(\d)\.0\.(conv|bn)(\d)", lambda m: f"{place(m[1])}.layer.{int(m[3]) - 1}.{KINDS[m[2]]}"),
    (r"^fc\.", "classifier.1."),
)
KINDS = {"conv": "convolution", "bn": "normalization"}


def place(stage):
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.0"


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf)(x / 2**0.5))


def close(found, right):
    return np.linalg.norm(found - right) < 1e-5 * np.linalg.norm(right)


def test_a_residual_network_gives_what_numpy_gives():
    state, x = small_resnet(), images(32)
    right = np.maximum(batch_norm(conv(x, state["conv1.weight"]), state, "bn1"), 0)
    for stage, stride in ((1, 1), (2, 2)):
        name = f"layer{stage}.0"
        y = np.maximum(batch_norm(conv(right, state[f"{name}.conv1.weight"], stride), state, f"{name}.bn1"), 0)
        y = batch_norm(conv(y, state[f"{name}.conv2.weight"]), state, f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            down = conv(right, state[f"{name}.downsample.0.weight"], stride)
            right = batch_norm(down, state, f"{name}.downsample.1")
        right = np.maximum(y + right, 0)
    assert close(logits(state, x), dense(right.mean((2, 3)), state, "fc"))


def test_names_of_another_library_and_of_a_wrapper_change_nothing():
    state, x = small_resnet(), images(32)
    renamed = dict(state)
    for pattern, replacement in TO_TRANSFORMERS:
        renamed = {re.sub(pattern, replacement, name): tensor for name, tensor in renamed.items()}
    assert not renamed.keys() & state.keys()
    right = logits(state, x)
    # the reader of transformers' names has no small stem of its own: the shapes tell it
    assert close(logits(renamed, x), right)
    assert close(logits({f"module.net.{name}": tensor for name, tensor in state.items()}, x), right)


def vit_in_numpy(state, x, heads):
    n, units = len(x), state["pos_embed"].shape[2]
    patches = x.reshape(n, 3, 3, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(n, 9, -1)
    flat = patches @ state["patch_embed.proj.weight"].reshape(units, -1).T + state["patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(state["cls_token"], n, 0), flat], 1) + state["pos_embed"]
    for i in range(2):
        qkv = dense(layer_norm(x, state, f"blocks.{i}.norm1"), state, f"blocks.{i}.attn.qkv")
        q, k, v = qkv.reshape(n, 10, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        found = softmax(q @ k.swapaxes(2, 3) / q.shape[-1] ** 0.5) @ v
        x = x + dense(found.transpose(0, 2, 1, 3).reshape(n, 10, units), state, f"blocks.{i}.attn.proj")
        y = gelu(dense(layer_norm(x, state, f"blocks.{i}.norm2"), state, f"blocks.{i}.mlp.fc1"))
        x = x + dense(y, state, f"blocks.{i}.mlp.fc2")
    return dense(layer_norm(x, state, "norm")[:, 0], state, "head")


@pytest.mark.parametrize("told", [None, 4])
def test_a_vision_transformer_gives_what_numpy_gives(told):
    state, x = small_vit(), images(12)
    config = {"config": {"architecture": "vit_x", "model_args": {"num_heads": told}}} if told else {}
    assert close(logits(state, x, **config), vit_in_numpy(state, x, told or 2))


def swin_in_numpy(state, x, window, shifts):
    """Attention of all pixels to all, of which only those of one window that the shift has not wrapped count."""
    n, side, units, heads = len(x), 8, 32, 2
    patches = x.reshape(n, 3, side, 4, side, 4).transpose(0, 2, 4, 1, 3, 5).reshape(n, side * side, -1)
    x = patches @ state["patch_embed.proj.weight"].reshape(units, -1).T + state["patch_embed.proj.bias"]
    x = layer_norm(x, state, "patch_embed.norm", 1e-5)
    rows, columns = np.divmod(np.arange(side * side), side)
    for i, shift in enumerate(shifts):
        name = f"layers.0.blocks.{i}"
        q, k, v = (
            dense(layer_norm(x, state, f"{name}.norm1", 1e-5), state, f"{name}.attn.qkv")
            .reshape(n, -1, 3, heads, units // heads)
            .transpose(2, 0, 3, 1, 4)
        )
        dy, dx = rows[:, None] - rows, columns[:, None] - columns
        block = (rows - shift) % side // window * side + (columns - shift) % side // window
        near = (block[:, None] == block) & (abs(dy) < window) & (abs(dx) < window)
        index = np.where(near, (dy + window - 1) * (2 * window - 1) + dx + window - 1, 0)
        bias = state[f"{name}.attn.relative_position_bias_table"][index].transpose(2, 0, 1)
        found = softmax(np.where(near, q @ k.swapaxes(2, 3) / (units // heads) ** 0.5 + bias, -np.inf)) @ v
        x = x + dense(found.transpose(0, 2, 1, 3).reshape(n, -1, units), state, f"{name}.attn.proj")
        y = gelu(dense(layer_norm(x, state, f"{name}.norm2", 1e-5), state, f"{name}.mlp.fc1"))
        x = x + dense(y, state, f"{name}.mlp.fc2")
    return dense(layer_norm(x, state, "norm", 1e-5).mean(1), state, "head.fc")


def test_shifted_windows_attend_as_pixels_do_that_see_only_their_window():
    state = StateDict()
    state.layer("patch_embed.proj", 32, 3, 4, 4)
    state.norm("patch_embed.norm", 32)
    for i in range(2):
        state.norm(f"layers.0.blocks.{i}.norm1", 32)
        state.draw(f"layers.0.blocks.{i}.attn.relative_position_bias_table", 49, 2)
        state.layer(f"layers.0.blocks.{i}.attn.qkv", 96, 32)
        state.layer(f"layers.0.blocks.{i}.attn.proj", 32, 32)
        state.norm(f"layers.0.blocks.{i}.norm2", 32)
        state.layer(f"layers.0.blocks.{i}.mlp.fc1", 64, 32)
        state.layer(f"layers.0.blocks.{i}.mlp.fc2", 32, 64)
    state.norm("norm", 32)
    state.layer("head.fc", 5, 32)
    found = logits(state, images(32), input_shape=[32, 32, 3])
    assert close(found, swin_in_numpy(state, images(32), 4, (0, 2)))


def mobilenet(names):
    """A MobileNet V2 of 17 narrow blocks; `names` gives the names of a convolution and its norm."""
    state = StateDict()
    widths = [8] * 1 + [8] * 2 + [12] * 3 + [16] * 4 + [20] * 3 + [24] * 3 + [28]
    state.conv_norm(*names("stem", 0, 0), 8, 3, 3, 3)
    inputs = 8
    for block, units in enumerate(widths):
        hidden = inputs if block == 0 else 6 * inputs
        if block:
            state.conv_norm(*names("expand", block, 0), hidden, inputs, 1, 1)
        state.conv_norm(*names("depthwise", block, int(block > 0)), hidden, 1, 3, 3)
        state.conv_norm(*names("project", block, 1 + (block > 0)), units, hidden, 1, 1)
        inputs = units
    state.conv_norm(*names("last", 18, 0), 32, inputs, 1, 1)
    return state


def of_torchvision(role, block, unit):
    if role in ("stem", "last"):
        return f"features.{block}.0", f"features.{block}.1"
    path = f"features.{block + 1}.conv"
    return (f"{path}.{unit}", f"{path}.{unit + 1}") if role == "project" else (f"{path}.{unit}.0", f"{path}.{unit}.1")


def of_timm(role, block, unit):
    if role in ("stem", "last"):
        return ("conv_stem", "bn1") if role == "stem" else ("conv_head", "bn2")
    sizes = np.cumsum([0, 1, 2, 3, 4, 3, 3, 1])
    stage = int(np.searchsorted(sizes, block, "right")) - 1
    path = f"blocks.{stage}.{block - sizes[stage]}"
    word = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl" if block else "conv_pw"}[role]
    return f"{path}.{word}", f"{path}.bn{unit + 1}"


def test_two_libraries_name_one_network_of_separable_convolutions():
    one, other = mobilenet(of_torchvision), mobilenet(of_timm)
    one.layer("classifier.1", 5, 32)
    other.layer("classifier", 5, 32)
    x = images(64, 1)
    first, second = (logits(state, x, input_shape=[64, 64, 3]) for state in (one, other))
    assert np.abs(first).max() > 0.1
    assert close(first, second)
    facts = family_graph(checkpoint(other))[1]
    assert facts["activation"] == Fact("relu6", "assumed")
    assert facts["input"] == Fact((224, 224, 3), "assumed")


def test_what_a_configuration_tells_is_not_assumed():
    bare, told = (
        family_graph(checkpoint(mobilenet_with_head(), **metadata))[1]
        for metadata in (
            {},
            {"config": {"architecture": "tf_efficientnet_lite0.x", "pretrained_cfg": {"input_size": [3, 96, 96]}}},
        )
    )
    assert bare["epsilon"] == Fact(1e-5, "assumed") and told["epsilon"] == Fact(1e-3, "config")
    assert bare["padding"].value == "half the kernel" and told["padding"].value == "what the last window lacks"
    assert told["input"] == Fact((96, 96, 3), "config")
    assert all(fact.source != "assumed" for fact in told.values())


def mobilenet_with_head():
    state = mobilenet(of_timm)
    state.layer("classifier", 5, 32)
    return state


@pytest.mark.parametrize("build", [small_resnet, small_vit, mobilenet_with_head])
def test_graphs_are_valid_and_their_shapes_those_that_onnx_infers(build):
    state = build()
    graph, _ = family_graph(checkpoint(state))
    model = onnx_model(graph, state)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert inferred.graph.output[0].type.tensor_type.shape.dim[1].dim_value == len(list(state.values())[-1])
    results = [name for step in graph.steps for name in step.outputs]
    assert len(set(results) | state.keys() | graph.constants.keys() | {graph.input}) == (
        len(results) + len(state) + len(graph.constants) + 1
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.draw("layer1.0.gate.weight", 3), "1 tensors have no part in it, such as 'layer1.0.gate.weight'"),
        (lambda s: s.pop("layer2.0.bn2.running_mean"), "no tensor 'layer2.0.bn2.running_mean'"),
        (lambda s: s.pop("layer2.0.conv1.weight"), "no tensor 'layer2.0.conv1.weight'"),
        (lambda s: s.draw("layer2.0.conv1.weight", 12, 5, 3, 3), "does not fit a map (8, 32, 32)"),
        (lambda s: s.draw("bn1.weight", 9), "'bn1.weight' does not hold a number for each of 8 channels"),
        (lambda s: s.pop("fc.weight"), "named like those of no image model"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(change, reason):
    state = small_resnet()
    change(state)
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        family_graph(checkpoint(state))


def test_a_transformer_that_may_rotate_units_by_position_is_refused():
    state = small_vit()
    del state["pos_embed"]
    with pytest.raises(CheckpointError, match="positions by other means"):
        family_graph(checkpoint(state))
    with pytest.raises(CheckpointError, match="positions by other means"):
        family_graph(checkpoint(small_vit(), config={"architecture": "vit_small_patch16_rope_ape_224"}))


def test_images_of_a_size_that_does_not_fit_are_refused():
    with pytest.raises(CheckpointError, match="not of 12 x 12 pixels and 1"):
        family_graph(checkpoint(small_vit(), input_shape=[12, 12, 1]))


@settings(max_examples=100, deadline=None)
@given(
    side=st.integers(5, 14),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.sampled_from([None, "same", 0, 1, (0, 1, 1, 0)]),
    ceil=st.booleans(),
)
def test_windows_are_counted_as_pytorch_counts_them(side, kernel, stride, padding, ceil):
    assume(not ceil or padding in (None, "same") or kernel > 1)  # PyTorch pads by half the window at most
    state = StateDict()
    state.layer("conv", 4, 3, kernel, kernel)
    net = Network({n: n for n in state}, {n: t.shape for n, t in state.items()}, Config({}), None, Trace(list(state)))
    x = net.image(3, side)
    y = pooled(x, "max", kernel, stride, padding, ceil=True) if ceil else Module(net).conv(x, "conv", stride, padding)
    pads = net.trace.steps[-1].attributes["pads"]
    for axis in (0, 1):
        low, whole = pads[axis], pads[axis] + side + pads[axis + 2]
        starts = [s for s in range(0, whole, stride) if s + kernel <= whole]
        if ceil and starts[-1] + kernel < whole and starts[-1] + stride < side + low:
            starts.append(starts[-1] + stride)  # a last window that reaches beyond the end
        assert y.shape[1 + axis] == len(starts)
    if padding == "same" and not ceil:
        assert y.shape[1:] == (-(-side // stride),) * 2


@pytest.mark.filterwarnings("default")  # other projects' own
@pytest.mark.parametrize("name", ["transformers/resnet-basic", "transformers/swin", "timm/lcnet_050"])
def test_logits_are_those_of_the_library(name):
    for package in ("torch", "timm", "transformers"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    verdicts = list(families.prove(name))
    assert [v.file for v in verdicts] == ["config", "bare"]
    for verdict in verdicts:
        assert verdict.status == "same" and verdict.error < 0.01 * verdict.contrast


def test_a_refused_model_is_shown_with_its_reason(capsys):
    families.print_table([families.Verdict("timm/unknown", "bare", "refused", "no network that can be run (why)")])
    shown = capsys.readouterr().out
    assert "no network that can be run (why)" in shown and "0 of 1 models" in shown


def test_a_proof_without_torch_says_which_extra_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert families.main([]) == 1
    assert "permcheck" in capsys.readouterr().err

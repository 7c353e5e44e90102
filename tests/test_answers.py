"""Function vectors of networks that are run by their operators."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from test_forward import attention, convolutional, node, saved, weights

from wsrl.checkpoint import CheckpointError
from wsrl.encoder import answers as module
from wsrl.encoder.answer_vector import answer_vector, probe_order
from wsrl.encoder.answers import answers
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.encoder.tinted import tinted
from wsrl.errors import InputError
from wsrl.forward.cost import Cost
from wsrl.forward.from_checkpoint import forward_graph
from wsrl.forward.graph import ForwardGraph, Step
from wsrl.forward.image_network import before_probabilities, how_run, image_shape
from wsrl.forward.run import run
from wsrl.readers import open_checkpoint
from wsrl.search.functional import functional_models
from wsrl.search.index import Index

DIM = 256


def images(count=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 1)).astype(np.float32).clip(-1, 1)


def vector(logits, count=32):
    found = answer_vector(logits.astype(np.float32), images(count), DIM)
    assert found is not None
    return found


@given(st.integers(2, 40), st.integers(0, 9))
def test_order_scale_and_shift_of_logits_do_not_matter(classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(32, classes))
    one = vector(logits)
    np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-5)
    np.testing.assert_allclose(vector(logits[:, rng.permutation(classes)]), one, atol=1e-4)
    shifted = 3 * logits + rng.normal(size=classes) + rng.normal(size=(32, 1))
    np.testing.assert_allclose(vector(shifted), one, atol=1e-4)


def test_networks_of_one_set_of_classes_are_near():
    """Noisy answers to one question, by other classes' order, are nearer than answers to another one."""
    rng = np.random.default_rng(0)
    truth, other = rng.normal(size=(2, 64, 50))
    noisy = [truth + 0.3 * rng.normal(size=truth.shape) for _ in range(2)]
    one, two = vector(noisy[0], 64), vector(noisy[1][:, rng.permutation(50)], 64)
    assert one @ two > 0.5 > 0.2 > abs(one @ vector(other, 64))


def test_what_pixels_explain_is_taken_out():
    """Linear networks with random weights, whose answers show nothing but the pixels, are not near to each other."""
    flat = images(64).reshape(64, -1)
    rng = np.random.default_rng(0)
    one, two = (vector(flat @ rng.normal(size=(36, 300)), 64) for _ in range(2))
    assert abs(one @ two) < 0.3


def test_one_output_is_the_difference_of_two():
    logits = np.random.default_rng(0).normal(size=(32, 2))
    both, one = vector(logits), vector(logits[:, :1] - logits[:, 1:])
    np.testing.assert_allclose(one, both, atol=1e-4)


def test_a_network_with_one_output_has_a_function(tmp_path):
    nodes = [node("Conv", "x a", "1"), helper.make_node("ReduceMean", ["1"], ["y"], axes=[1, 2, 3])]
    (row,) = load_encoder().embed([saved(tmp_path, {"a": weights(5, 1, 3, 3)}, nodes, opset=13)])
    assert row.function is not None and row.architecture.startswith("operators")


def test_outputs_that_vary_little_count_like_others():
    """A label set of which one network answers a half faintly."""
    rng = np.random.default_rng(0)
    truth, other = rng.normal(size=(2, 64, 20))
    faint = truth * np.where(np.arange(20) < 10, 1, 0.3)
    assert vector(truth, 64) @ vector(faint, 64) > 0.9 > 0.3 > abs(vector(faint, 64) @ vector(other, 64))


def test_a_class_of_the_background_changes_little():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 30))
    more = np.concatenate([0.1 * rng.normal(size=(64, 1)) - 2, logits], 1)
    assert vector(logits, 64) @ vector(more, 64) > 0.9


def test_gray_images_get_colors_of_their_own():
    gray = images(8)
    colored = tinted(gray)
    assert colored.shape == (8, 6, 6, 3) and colored.dtype == np.float32
    assert np.ptp(colored, axis=3).max((1, 2)).min() > 0.05 and np.abs(colored).max() <= 1
    np.testing.assert_array_equal(tinted(gray[:4]), colored[:4])
    np.testing.assert_array_equal(tinted(colored), colored)
    likeness = [
        np.corrcoef(one.mean(2).ravel(), other[..., 0].ravel())[0, 1] for one, other in zip(colored, gray, strict=True)
    ]
    assert min(likeness) > 0.8


def test_more_images_keep_the_pairs_of_fewer():
    order = probe_order(384, 128)
    assert sorted(order) == sorted(np.arange(128) * 3)
    np.testing.assert_array_equal(sorted(order[:32]), np.arange(32) * 12)


@pytest.mark.parametrize("logits", [np.zeros((32, 5)), np.tile(np.arange(5.0), (32, 1)), np.full((32, 5), np.nan)])
def test_answers_that_do_not_depend_on_the_image_have_no_vector(logits):
    assert answer_vector(logits.astype(np.float32), images(), DIM) is None


def graph(shape, steps=(), output="y", **fields):
    return ForwardGraph(tuple(steps), "x", shape, output, **fields)


@pytest.mark.parametrize(
    ("told", "size", "last", "assumed"),
    [
        ((3, 32, 24), (32, 24, 3), False, []),
        ((32, 24, 3), (32, 24, 3), True, []),
        ((3, None, None), (224, 224, 3), False, ["input: 224x224x3"]),
        ((None, 32, 32), (32, 32, 3), False, ["input: 32x32x3"]),
        ((1, 28, 28), (28, 28, 1), False, []),
    ],
)
def test_shape_of_the_images(tmp_path, told, size, last, assumed):
    checkpoint = open_checkpoint(attention(tmp_path))
    assert image_shape(graph(told), checkpoint) == (size, last, assumed)


@pytest.mark.parametrize("told", [(10,), (76, 32), (16, 32, 32), (3, 4, 4)])
def test_what_is_no_image_is_refused(tmp_path, told):
    with pytest.raises(CheckpointError, match="it does not take images"):
        image_shape(graph(told), open_checkpoint(attention(tmp_path)))


def test_logits_are_taken_before_their_softmax():
    steps = [Step("Conv", ("x",), ("1",)), Step("Softmax", ("1",), ("2",)), Step("Identity", ("2",), ("y",))]
    assert before_probabilities(graph((3, 8, 8), steps)).output == "1"
    assert before_probabilities(graph((3, 8, 8), steps[:1], "1")).output == "1"


@pytest.mark.parametrize(
    ("before", "pixels"),
    [
        ([], "standardized or -1 to 1 or 0 to 1"),
        ([node("Sub", "x mean", "0"), node("Div", "0 byte", "in")], "0 to 255"),
        ([node("Mul", "x two", "0"), node("Sub", "0 one", "in")], "0 to 1"),
    ],
)
def test_scale_of_the_pixels(tmp_path, before, pixels):
    tensors = {"a": weights(5, 1, 8, 8), "mean": np.float32([127.5]), "byte": np.float32([64.0])}
    tensors |= {"two": np.float32([4.0]), "one": np.float32([2.0])}
    nodes = [*before, node("Conv", f"{'in' if before else 'x'} a", "1"), node("Flatten", "1", "y")]
    checkpoint = open_checkpoint(saved(tmp_path, tensors, nodes))
    found = answers(forward_graph(checkpoint), checkpoint, images())
    assert found.assumed == (f"pixels: {pixels}",) and found.logits.shape == (1 if before else 3, 32, 5)


def test_inspection_tells_whether_it_can_be_run(tmp_path):
    assert how_run(open_checkpoint(attention(tmp_path))) == "its 14 operators can be run on images of 8x8x1"
    nodes = [node("Conv", "x a", "1"), node("Foo", "1", "y")]
    path = saved(tmp_path, {"a": weights(5, 1, 3, 3)}, nodes)
    assert how_run(open_checkpoint(path)).startswith("not run by its operators: operator Foo is not known")


def test_inspection_tells_of_a_dense_network_of_no_image(tmp_path):
    """It is run as a program on a row of numbers, which nothing says to be an image."""
    nodes = [node("Gemm", "x a", "1", transB=1), node("Relu", "1", "2"), node("Gemm", "2 b", "y", transB=1)]
    path = saved(tmp_path, {"a": weights(8, 30), "b": weights(4, 8)}, nodes, shape=("batch", 30))
    told = how_run(open_checkpoint(path))
    assert told.startswith("not run by its operators: it does not take images")
    assert told.endswith("; run as a program on images of 1x30x1, a size that is assumed")
    (row,) = load_encoder().embed([path])
    assert row.function is not None and "input: 1x30x1" in row.assumed


def test_costly_networks_are_run_on_fewer_images(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(attention(tmp_path))
    network = forward_graph(checkpoint)
    many = images(128)
    assert answers(network, checkpoint, many).logits.shape[1] == 128
    cost = Cost()
    run(network, checkpoint, weights(1, 1, 8, 8), cost)
    monkeypatch.setattr(module, "MOST_WORK", 3 * 65 * cost.work)
    assert answers(network, checkpoint, many).logits.shape[1] == 64
    monkeypatch.setattr(module, "MOST_WORK", 3 * 31 * cost.work)
    with pytest.raises(CheckpointError, match="one image takes more than"):
        answers(network, checkpoint, many)


def test_a_graph_for_a_fixed_number_of_images(tmp_path):
    checkpoint = open_checkpoint(attention(tmp_path))
    network = forward_graph(checkpoint)
    fixed = dataclasses.replace(network, batch=5)
    expected = answers(network, checkpoint, images()).logits
    np.testing.assert_allclose(answers(fixed, checkpoint, images()).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([node("Conv", "x a", "y")], "it does not return classes, but 5 x 6 x 6 numbers"),
        ([node("Conv", "x a", "1"), node("Foo", "1", "y")], "operator Foo is not known"),
        ([node("If", "x", "y")], "operator If is not known"),
    ],
)
def test_reasons_of_refusals(tmp_path, nodes, reason):
    path = saved(tmp_path, {"a": weights(5, 1, 3, 3)}, nodes, opset=13)
    (row,) = load_encoder().embed([path])
    assert row.function is None and reason in row.no_function


def test_an_index_of_both_kinds_of_vectors(tmp_path):
    """A network that is no program gets a vector by its answers; search finds it, recommending leaves it out."""
    attention(tmp_path)
    encoder = load_encoder()
    (row,) = encoder.embed([tmp_path / "model.onnx"])
    assert row.function is not None and row.accuracy is None and not row.no_function
    np.testing.assert_allclose(np.linalg.norm(row.function), 1, rtol=1e-5)
    assert row.architecture == "operators: norm attention map pooled skip"
    assert row.assumed == ("pixels: standardized or -1 to 1 or 0 to 1",)
    index = Index.build(encoder, tmp_path, tmp_path / "index")
    (hit,) = index.search(tmp_path / "model.onnx", k=1)
    assert hit.by == "function" and hit.accuracy is None
    assert not functional_models(index._store).ids


def test_function_is_asked_of_models_of_the_query_s_kind(tmp_path):
    (tmp_path / "zoo").mkdir()
    convolutional(tmp_path / "zoo")
    index = Index.build(load_encoder(), tmp_path / "zoo", tmp_path / "index")
    query = attention(tmp_path)
    assert index.search(tmp_path / "zoo" / "model.onnx", k=1)[0].by == "function"
    assert index.search(query, k=1)[0].by == "weights"
    with pytest.raises(InputError, match="holds no model with a function vector of the query's kind"):
        index.search(query, by="function")

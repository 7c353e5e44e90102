import copy
import json
from dataclasses import replace

import claims
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsrl.checkpoint import Checkpoint
from wsrl.errors import InputError
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Product, Slice
from wsrl.wiring.wiring_file import parse_wiring, read_wiring

SHAPES = {"a.weight": (6, 4), "a.bias": (6,), "b.weight": (3, 10), "scalar": ()}
GROUPS = {
    "g0": {"size": 4, "role": "input", "permutable": False, "scale": "none"},
    "g1": {"size": 6, "role": "hidden", "permutable": True, "scale": "positive"},
}
SHORT = {
    "groups": GROUPS,
    "tensors": {
        "a.weight": {"axes": [[{"group": "g1", "power": 1}], [{"group": "g0"}]]},
        "b.weight": {"axes": [None, [{"group": "g1", "power": -1}, {"group": None, "size": 4}]]},
    },
}


OPERATION = {"name": "a", "type": "linear", "tensors": {"weight": "a.weight"}}


def whole(claim):
    """The JSON values of a claim, once written and read."""
    return json.loads(json.dumps({**claim.to_json(), "ignored": list(claim.ignored)}))


def with_products():
    left = Slice("encoder.layer.0.attention.self.value.weight", 0, 0, 64)
    right = Slice("encoder.layer.0.attention.output.dense.weight", 1, 0, 64)
    bias = Slice("encoder.layer.0.attention.self.value.bias", 0, 0, 64)
    return replace(claims.bert(layers=1), products=(Product(left, right, 4, 16, left_bias=bias),))


@pytest.mark.parametrize("make", [claims.mlp, claims.resnet, claims.bert, with_products])
def test_a_claim_comes_back_from_json(make):
    claim = make()
    assert parse_wiring(whole(claim), claim.shapes, "w.json") == claim


def test_the_short_form():
    claim = parse_wiring(SHORT, SHAPES, "w.json")
    assert claim.axes["a.bias"] == (None,)
    assert claim.axes["scalar"] == ()
    [first, second] = claim.axes["b.weight"][1]
    assert (first.group, first.size, first.outer, first.inner, first.power) == ("g1", 6, 1, 1, -1)
    assert (second.group, second.length) == (None, 4)
    assert claim.operations == ()


def test_operations_are_inferred_where_the_file_names_none(tmp_path):
    tensors = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    (tmp_path / "w.json").write_text(json.dumps(SHORT))
    wiring = read_wiring(tmp_path / "w.json", Checkpoint("m", tensors, {}))
    assert [(o.name, o.tensors.get("bias")) for o in wiring.operations][:2] == [("a", "a.bias"), ("b", None)]
    assert wiring.groups["g1"].scale == "positive"


def edit(path, value):
    data = copy.deepcopy(SHORT)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


WEIGHT = ("tensors", "a.weight")
SLICE = {"tensor": "a.weight", "axis": 0, "start": 0, "stop": 6}
PRODUCT = {"left": SLICE, "right": {**SLICE, "tensor": "a.bias"}, "heads": 2, "dim": 3}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("tensors", "c.weight"), {"axes": []}, "tensors: the checkpoint has no tensor 'c.weight'"),
        ((*WEIGHT, "shape"), [6, 5], r"tensor 'a.weight': shape \[6, 5\] is \[6, 4\] in the checkpoint"),
        ((*WEIGHT, "axes"), [None], "tensor 'a.weight': 1 axes are described, it has 2"),
        ((*WEIGHT, "axes", 1), [{"group": "g1"}], "tensor 'a.weight', axis 1: its segments cover 6 entries of 4"),
        ((*WEIGHT, "axes", 1), [], "tensor 'a.weight', axis 1: is an empty list"),
        ((*WEIGHT, "axes", 1), [{"group": "g2"}], "tensor 'a.weight', axis 1, segment 0: there is no group 'g2'"),
        ((*WEIGHT, "axes", 1), [{"group": None}], "axis 1, segment 0: has neither a group nor a size"),
        ((*WEIGHT, "axes", 1, 0, "size"), 2, "axis 1, segment 0: has size 2, group 'g0' has size 4"),
        ((*WEIGHT, "axes", 1, 0, "outer"), 0, "outer of tensor 'a.weight', axis 1, segment 0: 0 is not an integer"),
        ((*WEIGHT, "axes", 1, 0, "inner"), 10**4000, "inner of tensor 'a.weight', axis 1, segment 0: 1000"),
        ((*WEIGHT, "axes", 1, 0, "power"), 2, "power of tensor 'a.weight', axis 1, segment 0: is 2"),
        ((*WEIGHT, "axes", 1, 0, "power"), True, "power of .*: is True"),
        ((*WEIGHT, "axis"), [], "tensor 'a.weight': unknown key 'axis'"),
        (("groups", "g1", "size"), -6, "size of group 'g1': -6 is not"),
        (("groups", "g1", "size"), True, "size of group 'g1': True is not"),
        (("groups", "g1", "role"), "middle", "role of group 'g1': 'middle' is none of input, hidden, output"),
        (("groups", "g1", "scale"), None, "scale of group 'g1': None is none of"),
        (("groups", "g1", "permutable"), 1, "permutable of group 'g1': is 1"),
        (("groups", "g1"), {"size": 6}, "group 'g1': has no 'role'"),
        (("groups",), [], "groups: is not an object"),
        (("grups",), {}, "unknown key 'grups'"),
        (("parameters",), 3, "parameters: is 3, the checkpoint has 61"),
        (("ignored",), ["a.weight"], "tensor 'a.weight': is ignored and yet"),
        (("ignored",), ["c"], "ignored: the checkpoint has no tensor 'c'"),
        (("operations",), [{**OPERATION, "tensors": {"weight": "c"}}], "operation 0: the checkpoint has no tensor"),
        (
            ("operations",),
            [{**OPERATION, "reads": [["a.weight", 2]]}],
            "reads of operation 0: tensor 'a.weight'",
        ),
        (("operations",), [{**OPERATION, "inputs": [0]}], "inputs of operation 0: .* are not all earlier"),
        (
            ("operations",),
            [{**OPERATION, "facts": {"a": {"value": {}, "source": "graph"}}}],
            "fact 'a' of operation 0",
        ),
        (("products",), [{**PRODUCT, "heads": 3}], "left of product 0: covers 6 entries, heads x dim asks for 9"),
        (("products",), [{**PRODUCT, "left": {**SLICE, "stop": 7}}], "0 to 7 is no stretch of axis 0 of 'a.weight'"),
        (("products",), [{**PRODUCT, "left": {**SLICE, "axis": 2}}], "tensor 'a.weight' has no axis 2"),
        (("products",), [{**PRODUCT, "left": {**SLICE, "axis": -1}}], "tensor 'a.weight' has no axis -1"),
        (("products",), [{**PRODUCT, "right": 3}], "right of product 0: is not an object"),
        (("warnings",), [3], "warning 0: 3 is not a text"),
    ],
)
def test_what_does_not_fit_is_named(path, value, reason):
    with pytest.raises(InputError, match=f"^w.json: .*{reason}.*; .+") as caught:
        parse_wiring(edit(path, value), SHAPES, "w.json")
    assert len(str(caught.value)) < 500


def test_a_tensor_is_ignored_or_wired_and_a_product_read():
    data = {**SHORT, "ignored": ["scalar"], "products": [PRODUCT]}
    claim = parse_wiring(data, SHAPES, "w.json")
    assert claim.ignored == ("scalar",)
    assert claim.products[0].right == Slice("a.bias", 0, 0, 6)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"groups": {}, "groups": {}}', b"[" * 100_000, b"9" * 10_000, b'{"groups": {}}'],
)
def test_files_that_are_no_wiring(content, tmp_path):
    path = tmp_path / "w.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*w\.json: [^\n]+; [^\n]+$"):
        read_wiring(path, Checkpoint("a", {"a": np.zeros(3, np.float32)}, {}))


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(InputError, match="cannot be read"):
            read_wiring(path, Checkpoint("a", {}, {}))


def test_a_file_is_read_against_the_tensors(tmp_path):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(SHORT))
    checkpoint = Checkpoint("a", {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}, {})
    inferred = infer_wiring(checkpoint).operations
    assert read_wiring(path, checkpoint) == replace(parse_wiring(SHORT, SHAPES, path), operations=inferred)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["input", "hidden", "output"]), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.lists(
        st.lists(
            st.none()
            | st.lists(
                st.tuples(st.integers(-1, 3), *[st.integers(1, 3)] * 2, st.integers(-1, 1)), min_size=1, max_size=3
            ),
            max_size=3,
        ),
        max_size=5,
    ),
)
def test_random_claims_come_back(sizes, tensors):
    groups = {f"g{i}": {"size": s, "role": r, "permutable": p, "scale": "sign"} for i, (s, r, p) in enumerate(sizes)}
    shapes, described = {}, {}
    for i, axes in enumerate(tensors):
        entry, shape = [], []
        for axis in axes:
            segments = [
                {
                    "group": None if g < 0 else f"g{g % len(sizes)}",
                    "size": 2 if g < 0 else sizes[g % len(sizes)][0],
                    "outer": outer, "inner": inner, "power": power,
                }
                for g, outer, inner, power in axis or ()
            ]  # fmt: skip
            entry.append(segments or None)
            shape.append(sum(s["outer"] * s["size"] * s["inner"] for s in segments) or 7)
        shapes[f"t{i}.w"] = tuple(shape)
        described[f"t{i}.w"] = {"shape": shape, "axes": entry}
    claim = parse_wiring({"groups": groups, "tensors": described}, shapes, "w.json")
    told = whole(claim)
    assert (told["groups"], told["tensors"]) == (groups, described)
    assert parse_wiring(told, shapes, "w.json") == claim


WHOLE = whole(with_products())
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["g0", "g1", 64, -1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value):
    """(container, key) of everything inside JSON values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from places(inner)


@given(
    st.lists(st.tuples(st.integers(0), JUNK, st.sampled_from(["replace", "remove", "swap"])), min_size=1, max_size=3)
)
def test_mutated_values_are_a_claim_or_an_input_error(mutations):
    data = copy.deepcopy(WHOLE)
    for at, junk, what in mutations:
        found = list(places(data))
        if not found:
            break
        container, key = found[at % len(found)]
        other, other_key = found[at * 7919 % len(found)]
        if what == "remove":
            del container[key]
        elif what == "swap":
            container[key] = copy.deepcopy(other[other_key])
        else:
            container[key] = junk
    try:
        claim = parse_wiring(data, with_products().shapes, "w.json")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        json.dumps(claim.to_json())


@given(at=st.integers(0), junk=st.binary(max_size=4), cut=st.integers(0, 4))
def test_mutated_bytes_are_a_claim_or_an_input_error(at, junk, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    text = json.dumps(WHOLE).encode()
    at %= len(text)
    path.write_bytes(text[:at] + junk + text[at + cut :])
    claim = claims.bert(layers=1)
    try:
        read_wiring(
            path, Checkpoint("a", {name: np.zeros(shape, np.float32) for name, shape in claim.shapes.items()}, {})
        )
    except InputError as error:
        assert "\n" not in str(error)

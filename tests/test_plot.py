import json
import re
from xml.etree import ElementTree

import claims
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl.cli.main import main
from wsrl.drawing.fold import fold_groups, fold_operations
from wsrl.drawing.layout import arrange, find_nets
from wsrl.drawing.plot import plot
from wsrl.wiring.wiring import Neurons, Operation, Segment, Wiring

SVG = "{http://www.w3.org/2000/svg}"
SAMPLES = ("mlp", "resnet", "bert")


def layers(claim, unfold=False):
    rows = fold_operations(claim, unfold)
    groups = fold_groups(claim, rows)
    return arrange(rows, groups), groups


def order(claim, unfold=False):
    return [[box.row.name for box in row] for row in layers(claim, unfold)[0]]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_perceptron_is_a_chain():
    arranged, groups = layers(claims.mlp())
    assert [[box.row.name for box in row] for row in arranged] == [["0"], ["2"], ["4"]]
    nets = find_nets(arranged)
    assert [(net.gap, groups[net.group].ids, net.rail) for net in nets] == [(i, (f"g{i}",), False) for i in range(4)]


def test_layers_follow_what_they_read_though_their_names_do_not():
    names = order(claims.resnet())
    flat = [name for row in names for name in row]
    assert flat[:2] == ["conv1", "bn1"]
    assert flat[2:6] == [f"layer1.{{0..1}}.{part}" for part in ("conv1", "bn1", "conv2", "bn2")]
    assert flat[-1] == "fc"


def test_a_transformer_has_its_heads_side_by_side_and_its_stream_on_a_rail():
    arranged, groups = layers(claims.bert())
    names = [[box.row.name.removeprefix("encoder.layer.{0..11}.") for box in row] for row in arranged]
    assert names[2:] == [
        ["attention.self.key", "attention.self.query", "attention.self.value"],
        ["attention.output.dense"], ["attention.output.LayerNorm"],
        ["intermediate.dense"], ["output.dense"], ["output.LayerNorm"],
        ["pooler.dense"],
    ]  # fmt: skip
    rails = {groups[net.group].ids for net in find_nets(arranged) if net.rail}
    assert rails == {("g0",)}


def pre_norm(blocks=3):
    """A transformer whose names, in their natural order, tell nothing of the order of its layers."""
    groups = {g: Neurons(8, "hidden", True) for g in ("stream", *(f"{k}{i}" for i in range(blocks) for k in "am"))}
    groups["out"] = Neurons(8, "output", False)
    tensors = {"stem.weight": ((8, 8), "stream -")}
    for i in range(blocks):
        tensors |= {
            f"blocks.{i}.norm1.weight": ((8,), "stream"),
            f"blocks.{i}.self_attn.qkv.weight": ((8, 8), f"a{i} stream"),
            f"blocks.{i}.self_attn.out.weight": ((8, 8), f"stream a{i}"),
            f"blocks.{i}.norm2.weight": ((8,), "stream"),
            f"blocks.{i}.mlp.fc1.weight": ((8, 8), f"m{i} stream"),
            f"blocks.{i}.mlp.fc2.weight": ((8, 8), f"stream m{i}"),
        }
    tensors |= {"norm.weight": ((8,), "stream"), "head.weight": ((8, 8), "out stream")}
    return claims.make(groups, {"norm": "norm", "attn": "attention", "": "linear"}, tensors)


@pytest.mark.parametrize("unfold", [False, True])
def test_norms_stand_before_the_layers_of_their_block(unfold):
    block = ["norm1", "self_attn.qkv", "self_attn.out", "norm2", "mlp.fc1", "mlp.fc2"]
    numbers = range(3) if unfold else ["{0..2}"]
    blocks = [f"blocks.{i}.{part}" for i in numbers for part in block]
    assert order(pre_norm(), unfold) == [[name] for name in ("stem", *blocks, "norm", "head")]
    arranged, _ = layers(pre_norm(), unfold)
    direct = {
        (net.sources[0].row.name, net.targets[0].row.name)
        for net in find_nets(arranged)
        if not net.rail and net.sources and net.targets
    }
    assert {("norm", "head"), (blocks[0], blocks[1]), (blocks[3], blocks[4])} <= direct


@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_reader_and_writer_is_joined(name, unfold):
    arranged, _ = layers(getattr(claims, name)(), unfold)
    nets = find_nets(arranged)
    for row in arranged:
        for box in row:
            assert {net.group for net in nets if box in net.targets} == box.reads
            assert {net.group for net in nets if box in net.sources} == box.writes


@pytest.mark.parametrize("name", SAMPLES)
def test_the_drawing_shows_every_layer_inside_its_canvas(name):
    claim = getattr(claims, name)()
    svg = plot(claim, "title & <more>")
    assert svg == plot(claim, "title & <more>")
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [{k: float(e.attrib[k]) for k in ("x", "y", "width", "height")} for e in root.iter(f"{SVG}rect")]
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= width for b in boxes)
    assert all(b["y"] >= 0 and b["y"] + b["height"] <= height for b in boxes)
    points = [p.split(",") for e in root.iter(f"{SVG}polyline") for p in e.attrib["points"].split()]
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in points)
    shown = texts(svg)
    assert shown[0] == "title & <more>"
    for row in fold_operations(claim):
        if row.type != "ignored":
            assert any(row.name.endswith(text) for text in shown)


def test_boxes_do_not_overlap():
    for name in SAMPLES:
        root = ElementTree.fromstring(plot(getattr(claims, name)(), name, unfold=True))
        boxes = [
            [float(e.attrib[k]) for k in ("x", "y", "width", "height")]
            for e in root.iter(f"{SVG}rect")
            if e.attrib["rx"] == "5"
        ]
        for i, (x, y, w, h) in enumerate(boxes):
            for a, b, v, k in boxes[:i]:
                assert x + w <= a or a + v <= x or y + h <= b or b + k <= y


def test_repeats_are_framed():
    assert "encoder.layer.{0..11} × 12" in texts(plot(claims.bert(), "bert"))
    assert not any("×" in text for text in texts(plot(claims.bert(layers=2), "bert", unfold=True)))


def test_nested_repeats_are_framed_within_one_another():
    names = [f"s.{i}.b.{j}.{k}" for i in range(3) for j in range(2) for k in ("c", "n")]
    names = sorted([*names, *(f"s.{i}.a" for i in range(3))])
    claim = Wiring(
        {"g": Neurons(4, "hidden", True)},
        {name: (4, 4) for name in names},
        {name: ((Segment("g", 4),), None) for name in names},
        tuple(Operation(name, "linear", {"weight": name}) for name in names),
    )
    frames = [
        e.attrib for e in ElementTree.fromstring(plot(claim, "nested")).iter(f"{SVG}rect") if e.attrib["rx"] == "8"
    ]
    outer, inner = ({k: float(f[k]) for k in ("x", "y", "width", "height")} for f in frames)
    assert outer["x"] < inner["x"] and inner["x"] + inner["width"] < outer["x"] + outer["width"]
    assert outer["y"] < inner["y"] and inner["y"] + inner["height"] < outer["y"] + outer["height"]


def test_a_network_that_is_not_understood_is_boxes_alone():
    names = [f"{letter}.weight" for letter in "abcde"]
    claim = Wiring({}, {n: (3, 3) for n in names}, {n: (None, None) for n in names})
    assert order(claim) == [names[:4], names[4:]]
    assert not list(ElementTree.fromstring(plot(claim, "x")).iter(f"{SVG}polyline"))


def test_an_empty_claim_and_names_that_xml_has_no_signs_for():
    ElementTree.fromstring(plot(Wiring({}, {}, {}), "empty"))
    name = "a\x00\x1b<&\ud800"
    svg = plot(Wiring({}, {name: (2,)}, {name: (None,)}, (Operation(name, "k\x01", {"value": name}),)), name)
    assert "a\\x00\\x1b<&\\ud800" in texts(svg)


GROUPS = st.sampled_from([None, "g0", "g1", "g2", "g3"])
TANGLED = st.tuples(st.sampled_from(["", "blocks.0.", "blocks.1.", "a.b.c."]), GROUPS, GROUPS, st.booleans())


def tangle(layers):
    """Layers that read and write whatever they like."""
    groups = {f"g{i}": Neurons(4, "hidden", True) for i in range(4)}
    operations, shapes, axes = [], {}, {}
    for i, (prefix, out, into, norm) in enumerate(layers):
        path = f"{prefix}m{i}"
        chosen = [out] if norm else [out, into]
        shapes[f"{path}.weight"] = (4,) * len(chosen)
        axes[f"{path}.weight"] = tuple(None if g is None else (Segment(g, 4),) for g in chosen)
        name = f"{path}.weight"
        reads, writes = (((name, 0),), ((name, 0),)) if norm else (((name, 1),), ((name, 0),))
        operations.append(Operation(path, "norm" if norm else "linear", {"weight": name}, reads, writes))
    return Wiring(groups, shapes, axes, tuple(operations))


@settings(max_examples=30)
@given(st.lists(TANGLED, min_size=1, max_size=12))
def test_any_tangle_can_be_drawn(drawn):
    claim = tangle(drawn)
    arranged, _ = layers(claim)
    nets = find_nets(arranged)
    boxes = [box for row in arranged for box in row]
    assert sum(len(box.row.operations) for box in boxes) == len(claim.operations)
    for box in boxes:
        assert {net.group for net in nets if box in net.targets} == box.reads
        assert {net.group for net in nets if box in net.sources} == box.writes
    svg = plot(claim, "tangle")
    assert not re.search(rb"nan|inf", svg)
    ElementTree.fromstring(svg)


def test_the_command_writes_the_file_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    claim = claims.mlp()
    safetensors.numpy.save_file(claims.arrays(claim), "mlp.safetensors")
    (tmp_path / "wiring.json").write_text(json.dumps(claim.to_json()))
    arguments = ["inspect", "mlp.safetensors", "--wiring", "wiring.json", "--json", "--plot", "plots/mlp.svg"]
    assert main(arguments) == 0
    json.loads(capsys.readouterr().out)
    assert "mlp.safetensors" in texts((tmp_path / "plots/mlp.svg").read_bytes())
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["mlp.svg"]

"""Claims about real architectures hold and false ones are caught; most needs PyTorch, the extra `permcheck`."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from experiments.proofs import verify
from tests import claims
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.wiring import Neurons, Product, Segment, Slice

NAMES = ["mlp", "vgg", "resnet18", "mobilenetv2", "convnext", "vit", "swin", "bert", "gpt2", "llama", "mixtral", "t5"]
NAMES += ["lstm"]


@pytest.fixture(scope="module")
def architectures():
    for name in ("torch", "timm", "transformers"):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}")
    from experiments.proofs.architectures import ARCHITECTURES

    return ARCHITECTURES


@pytest.mark.filterwarnings("default")  # other projects' own
@pytest.mark.parametrize("name", NAMES)
def test_claims_hold(architectures, name):
    assert list(architectures) == NAMES
    verdict = verify.verify(name, architectures[name])
    assert verdict.holds, verdict
    assert verdict.groups >= 3 and verdict.felt > 0.99


@pytest.mark.filterwarnings("default")  # other projects' own
def test_claims_hold_without_a_configuration(architectures):
    alone, beside = (verify.verify("llama", architectures["llama"], bare=bare) for bare in (True, False))
    assert alone.holds and alone.groups >= 3
    assert alone.strong < beside.strong  # the number of heads is not known


def test_many_are_sixty_and_more(architectures):
    many = verify.chosen(None, many=True)
    assert len(many) >= 60
    assert architectures.items() <= many.items()


def changed_group(claim, tensor, axis, **fields):
    """The claim with other fields of the group that an axis holds."""
    group = claim.axes[tensor][axis][0].group
    return replace(claim, groups={**claim.groups, group: replace(claim.groups[group], **fields)})


def changed_segment(claim, tensor, axis, **fields):
    axes = list(claim.axes[tensor])
    axes[axis] = tuple(replace(s, **fields) for s in axes[axis])
    return replace(claim, axes={**claim.axes, tensor: tuple(axes)})


def inputs_moved(claim):
    """The features of a perceptron's input are called interchangeable."""
    axis = (Segment("x", 20),)
    axes = {**claim.axes, "0.weight": (claim.axes["0.weight"][0], axis)}
    return replace(claim, groups={**claim.groups, "x": Neurons(20, "hidden", True)}, axes=axes)


def inner_swapped(claim):
    """Channels of the flattened map run fastest."""
    return changed_segment(claim, "classifier.0.weight", 1, outer=16, inner=1)


def gates_swapped(claim):
    """The four gates of a unit lie beside each other."""
    return changed_segment(claim, "lstm.weight_ih_l0", 0, outer=1, inner=4)


def tensor_forgotten(claim):
    """The group of a norm's input does not reach the norm."""
    return replace(claim, axes={**claim.axes, "bert.embeddings.LayerNorm.bias": (None,)})


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name, change",
    [("mlp", inputs_moved), ("vgg", inner_swapped), ("lstm", gates_swapped), ("bert", tensor_forgotten)],
)
def test_false_groups_are_named(architectures, name, change):
    verdict = verify.verify(name, architectures[name], lambda checkpoint: change(infer_wiring(checkpoint)))
    assert len(verdict.false_groups) == 1 < verdict.groups and not verdict.holds and verdict.strong < 1


def with_scale(claim, scale):
    """All hidden groups of a perceptron have a scale."""
    for name in ("0", "2", "4"):
        claim = changed_group(claim, f"{name}.weight", 0, scale=scale)
        for tensor, axis, power in (
            (f"{name}.weight", 0, 1),
            (f"{name}.bias", 0, 1),
            (f"{int(name) + 2}.weight", 1, -1),
        ):
            claim = changed_segment(claim, tensor, axis, power=power)
    return claim


@pytest.mark.parametrize("scale, false", [("positive", 0), ("sign", 3)])
def test_scales_of_relu_are_positive(architectures, scale, false):
    verdict = verify.verify("mlp", architectures["mlp"], lambda checkpoint: with_scale(infer_wiring(checkpoint), scale))
    assert (verdict.scales, len(verdict.false_scales), verdict.false_groups) == (3, false, ())


def llama_products(claim):
    """Value and output are a product; key and query are none, for a rotary embedding lies between them."""

    def part(name, axis, length):
        return Slice(f"model.layers.0.self_attn.{name}_proj.weight", axis, 0, length)

    true = Product(part("v", 0, 32), part("o", 1, 64), heads=2, dim=16, repeat=2)
    false = Product(part("k", 0, 32), part("q", 0, 64), heads=2, dim=16, repeat=2)
    return replace(claim, products=(true, false))


@pytest.mark.filterwarnings("default")
def test_false_products_are_named(architectures):
    verdict = verify.verify(
        "llama", architectures["llama"], lambda checkpoint: llama_products(infer_wiring(checkpoint))
    )
    path = "model.layers.0.self_attn"
    assert verdict.products == 2
    assert verdict.false_products == (f"{path}.k_proj.weight x {path}.q_proj.weight",)


@pytest.mark.parametrize(
    "breaking, found", [([], ""), ([{"c"}], "c"), ([{"a"}, {"e"}], "ae"), ([{"a", "e"}], "abcde"), ([{"a", "b"}], "ab")]
)
def test_halving_finds_what_breaks(breaking, found):
    assert verify.find_false(lambda parts: any(b <= set(parts) for b in breaking), list("abcde")) == list(found)


def test_strong_coverage():
    groups = {"i": Neurons(9, "input", False), "h": Neurons(16, "hidden", True), "o": Neurons(9, "output", False)}
    tensors = {
        "a.weight": ((16, 9), "h i"),  # wholly
        "b.weight": ((16, 16), "h -"),  # half
        "c.weight": ((9, 9), "o i"),  # nothing to move
        "d.weight": ((16, 4), "h -"),  # the rest is short
        "e.weight": ((16, 9, 11, 11), "h i - -"),  # taps
        "e.bias": ((16,), "h"),  # one axis
    }
    claim = claims.make(groups, {"": "linear"}, tensors)
    total = 144 + 256 + 81 + 64 + 144 * 121
    assert verify.strong_coverage(claim, {"e.weight"}) == pytest.approx((144 + 64 + 144 * 121) / total)
    assert verify.strong_coverage(claim, ()) == pytest.approx((144 + 64) / total)
    assert verify.strong_coverage(claim, (), {"h"}) == 0


def test_command(architectures, tmp_path, monkeypatch, capsys):
    assert verify.main(["--models", "mlp,lstm", "--json", str(tmp_path / "verdicts.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "mlp", "lstm"]
    saved = json.loads((tmp_path / "verdicts.json").read_text())
    assert [verdict["model"] for verdict in saved] == ["mlp", "lstm"] and saved[0]["false_groups"] == []
    infer, bare = verify.verify.__defaults__
    monkeypatch.setattr(verify.verify, "__defaults__", (lambda checkpoint: inputs_moved(infer(checkpoint)), bare))
    assert verify.main(["--models", "mlp"]) == 1
    assert "mlp: false groups: x" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["resnet19", "timm/resnet19"])
@pytest.mark.filterwarnings("default")
def test_unknown_architectures_are_told(architectures, name, capsys):
    assert verify.main(["--models", f"mlp,{name}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "resnet19" in error


def test_missing_packages_are_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("experiments.proofs.architectures", "experiments.proofs.random_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert verify.main([]) == 1
    error = capsys.readouterr().err
    assert error == "error: torch: this optional package is not installed; pip install 'wsrl[permcheck]'\n"

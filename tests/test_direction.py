import pytest

from wsrl.wiring.claim import Claim, Module, Neurons, Segment
from wsrl.wiring.direction import Direction, directions

GROUPS = {
    "a": Neurons(6, "hidden", True),
    "b": Neurons(4, "hidden", True),
    "x": Neurons(5, "input", False),
}


def claim_of(kind, **tensors):
    """Tensors as name=(shape, groups), a dot in a group for an axis without."""
    names = {name.replace("__", "/"): value for name, value in tensors.items()}
    axes = {
        name: tuple(
            None if g == "." else (Segment(g, GROUPS[g].size, 1, n // GROUPS[g].size),)
            for g, n in zip(groups, shape, strict=True)
        )
        for name, (shape, groups) in names.items()
    }
    module = Module("m", kind, tuple(names))
    return Claim(GROUPS, {n: s for n, (s, _) in names.items()}, axes, (module,)), module


@pytest.mark.parametrize(
    "kind, tensors, name, expected",
    [
        ("linear", {"weight": ((6, 4), "ab")}, "weight", Direction((1,), (0,))),
        ("linear", {"weight": ((6, 4), "ab"), "bias": ((6,), "a")}, "weight", Direction((1,), (0,), "bias")),
        ("linear", {"weight": ((4, 6), "ba"), "bias": ((6,), "a")}, "weight", Direction((0,), (1,), "bias")),
        ("linear", {"weight": ((6, 6), "aa"), "bias": ((6,), "a")}, "weight", Direction((1,), (0,), "bias")),
        ("linear", {"m__kernel": ((4, 6), "ba")}, "m/kernel", Direction((0,), (1,))),
        ("conv", {"weight": ((6, 4, 3, 3), "ab..")}, "weight", Direction((1, 2, 3), (0,))),
        ("conv_transpose", {"weight": ((6, 4, 3, 3), "ab..")}, "weight", Direction((0, 2, 3), (1,))),
        ("conv", {"m__kernel": ((3, 3, 4, 6), "..ba")}, "m/kernel", Direction((0, 1, 2), (3,))),
        ("embedding", {"weight": ((5, 6), "xa")}, "weight", Direction((0,), (1,))),
        ("other", {"weight": ((5, 6), "xa")}, "weight", Direction((0,), (1,))),
        ("linear", {"q__kernel": ((4, 6, 7), "ba.")}, "q/kernel", Direction((0,), (1, 2))),
        ("linear", {"out__kernel": ((6, 7, 4), "a.b")}, "out/kernel", Direction((0, 1), (2,))),
        ("parameter", {"m__pos": ((1, 9, 6), "..a")}, "m/pos", Direction((0, 1), (2,))),
        (
            "recurrent",
            {"weight_ih_l0": ((24, 4), "ab"), "bias_ih_l0": ((24,), "a")},
            "weight_ih_l0",
            Direction((1,), (0,), "bias_ih_l0"),
        ),
        (
            "linear",
            {"q__kernel": ((4, 6, 7), "ba."), "q__bias": ((6, 7), "a.")},
            "q/kernel",
            Direction((0,), (1, 2), "q/bias"),
        ),
    ],
)
def test_directions(kind, tensors, name, expected):
    claim, module = claim_of(kind, **tensors)
    assert directions(claim, module) == {name: expected}

"""The family digest: equal for networks of one architecture, whatever their names, layout and weights.

It has two halves, `SHAPES-WIRING`. The first knows the shapes of the matrices alone, so it is the same in all formats
that hold the same matrices. The second also knows which axes share their units, by rounds of color refinement
(Weisfeiler and Leman 1968) on the graph of matrices and neuron groups; it is stricter, and as good as the wiring.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256

from wsrl.signature.matrices import Matrix
from wsrl.wiring.wiring import Wiring

ROUNDS = 4  # of refinement: how many layers away a difference is seen
HALF = 16  # hexadecimal digits of either half


def family_digest(matrices: Mapping[str, Matrix], wiring: Wiring) -> str:
    """Returns the digest of an architecture, two halves of 16 hexadecimal digits.

    Args:
      matrices: see `wsrl.signature.matrices.matrices`. Vectors do not count, unless there is nothing else.
      wiring: of the same checkpoint.
    """
    shapes = {name: tuple(sorted(n for n in matrix.shape if n > 1)) for name, matrix in matrices.items()}
    counted = {name: shape for name, shape in shapes.items() if len(shape) > 1} or shapes
    first = _digest("x".join(map(str, shape)) for shape in counted.values())
    return f"{first}-{_digest(_colors(counted, wiring))}"


def _digest(lines: Iterable[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:HALF]


def _colors(shapes: Mapping[str, tuple[int, ...]], wiring: Wiring) -> list[str]:
    """The colors of all matrices after some rounds; what is cut out of a tensor has that tensor's groups."""
    touched = {name: _groups(name.partition("[")[0] if name not in wiring.axes else name, wiring) for name in shapes}
    held = defaultdict(list)
    for name, groups in touched.items():
        for group in groups:
            held[group].append(name)
    colors = {name: "x".join(map(str, shape)) for name, shape in shapes.items()}
    for _ in range(ROUNDS):
        around = {group: _digest(colors[name] for name in names) for group, names in held.items()}
        colors = {
            name: _digest([f"0 {own}", *(f"1 {around[g]}" for g in touched[name])]) for name, own in colors.items()
        }
    return list(colors.values())


def _groups(name: str, wiring: Wiring) -> list[str]:
    """The groups along the axes of a tensor, each as often as it appears there."""
    return [s.group for axis in wiring.axes.get(name, ()) for s in axis or () if s.group is not None]

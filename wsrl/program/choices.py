"""What the operations of a network leave open: one of the alternatives that its tensors allow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod

from wsrl.program.geometry import Pair, windowed
from wsrl.program.hints import Hints
from wsrl.program.layers import POOLINGS
from wsrl.program.views import heads_of
from wsrl.wiring.usual_forms import widths
from wsrl.wiring.wiring import Fact, Operation, Wiring

SIDES = (28, 32, 16)  # pixels a side of small images: of MNIST and its like, of CIFAR and its like, of small zoos
MORE_SIDES = (8, 12, 20, 24, 40, 48, 56, 64)  # larger images say no more than those of the encoder, at a high cost
USUAL_ACTIVATIONS = ("relu", "tanh", "gelu")  # others are close to one of these
USUAL_HEAD = 64  # units of a head
WINDOW = 2  # pixels a side of pooled windows, and from one to the next


@dataclass(frozen=True)
class Downsampling:
    """What a chain of convolutions does to maps.

    Attributes:
      strides: of each convolution.
      padded: whether maps are padded by half the kernel, else not at all.
      pooling: one of `POOLINGS`; of no matter where no convolution is pooled.
      pooled: whether 2 x 2 windows of the convolution's map are pooled, after the activation.
    """

    strides: tuple[int, ...]
    padded: bool
    pooling: str
    pooled: tuple[bool, ...]

    def facts(self) -> dict[str, str]:
        """As words, by name."""
        last = len(self.pooled) - 1
        places = [i for i, pooled in enumerate(self.pooled) if pooled]
        if len(places) == len(self.pooled):
            where = "each convolution"
        elif places == list(range(last)):
            where = "each convolution but the last"
        else:
            where = "convolution " + " and ".join(str(i + 1) for i in places)
        return {
            "strides": ", ".join(map(str, self.strides)),
            "padding": "half the kernel" if self.padded else "none",
            "pooling": f"{self.pooling} 2x2 after {where}" if places else "none",
        }


@dataclass(frozen=True)
class Choice:
    """A network's activation and geometry, one of those that its tensors allow.

    Attributes:
      activation: of hidden layers, one of `ACTIVATIONS`.
      input_shape: [height, width, channels].
      downsampling: of a chain of convolutions; None in other families.
      heads: of attention, where the shapes of the projections do not say.
    """

    activation: str
    input_shape: tuple[int, int, int]
    downsampling: Downsampling | None = None
    heads: int | None = None

    def facts(self) -> dict[str, str]:
        """As words, by name."""
        words = {"activation": self.activation, "input": "x".join(map(str, self.input_shape))}
        if self.downsampling:
            words |= self.downsampling.facts()
        if self.heads:
            words["heads"] = str(self.heads)
        return words


def choices(wiring: Wiring, hints: Hints) -> Iterator[Choice]:
    """Yields what a network may be beside what its operations tell, the most usual first.

    Activations are tried for each geometry; where operations tell all of them there is one.

    Raises:
      ValueError: hints do not fit the operations, or no usual geometry fits the tensors.
    """
    types = {operation.type for operation in wiring.operations}
    if "recurrent" in types:
        activation, geometries = "tanh", _recurrent(wiring, hints)
    elif "attention" in types:
        activation, geometries = "gelu", _transformer(wiring, hints)
    elif any(len(operation.inputs) > 1 for operation in wiring.operations):
        activation, geometries = "relu", _residual(wiring, hints)
    else:
        activation, geometries = "relu", _chain(wiring, hints)
    usual = [hints.activation] if hints.activation else list(dict.fromkeys((activation, *USUAL_ACTIVATIONS)))
    for choice in geometries:
        for own in usual if leaves_activation(wiring) else usual[:1]:
            yield replace(choice, activation=own)


def leaves_activation(wiring: Wiring) -> bool:
    """Whether an operation does not tell which activation follows it."""
    return any(fact is None or fact.value is None for fact in _activations(wiring))


def takes_activation(wiring: Wiring) -> bool:
    """Whether the activation of a choice, or a hint, is that of an operation."""
    return any(fact is None or fact.value is None or fact.source == "metadata" for fact in _activations(wiring))


def _activations(wiring: Wiring) -> Iterator[Fact | None]:
    """Facts of activations; None for a cell without one."""
    for operation in wiring.operations:
        if operation.type == "recurrent":
            yield operation.facts.get("activation")
        else:
            yield from (operation.facts[name] for name in ("activation", "sum_activation") if name in operation.facts)


def told_shape(wiring: Wiring) -> tuple[int, int, int] | None:
    """[height, width, channels] of the images that the file says the network is fed."""
    facts = (o.facts.get("input") for o in wiring.operations if not o.inputs)
    shape = next((fact.value for fact in facts if fact is not None), None)
    return shape if isinstance(shape, tuple) and len(shape) == 3 else None  # type: ignore[return-value]


def in_forward_order(wiring: Wiring) -> list[Operation]:
    """Convolutions in the order in which they run, one beside others in a block after them, as hints list strides."""
    found: list[Operation] = []
    beside: list[Operation] = []
    for i, operation in enumerate(wiring.operations):
        if operation.type == "conv":
            forks = any(o.type == "conv" and o.inputs == operation.inputs for o in wiring.operations[i + 1 :])
            (beside if forks else found).append(operation)
        if "sum_activation" in operation.facts:
            found, beside = found + beside, []
    return found + beside


def _input_shapes(
    first: Operation, wiring: Wiring, hints: Hints, sides: tuple[int, ...] = SIDES
) -> list[tuple[int, int, int]]:
    """Shapes [height, width, channels] of the images that the first layer may read, the most usual first.

    Args:
      first: a convolution reads images of any size; a dense layer reads whole ones, square where that is possible.
      wiring: a shape that the file tells is the only one.
      hints: and so is one among them.
      sides: that images may have.
    """
    if shape := hints.input_shape or told_shape(wiring):
        return [shape]
    fan_in, _ = widths(first, wiring.shapes)
    if first.type == "conv":
        # images in color are more often of 32 pixels, as CIFAR's, than of 28
        ordered = sides if fan_in == 1 else tuple(sorted(sides, key=lambda side: side != 32))
        return [(side, side, fan_in) for side in ordered]
    for channels in (1, 3):
        side = isqrt(fan_in // channels)
        if fan_in == channels * side * side:
            return [(side, side, channels)]
    return [(1, fan_in, 1)]


def _chain(wiring: Wiring, hints: Hints) -> Iterator[Choice]:
    """Yields geometries of convolutions and dense layers that follow one another.

    Convolutions before a flatten have a map of a known size at the end, to which images of few sizes shrink. Before
    global average pooling any size will do; then sides of `SIDES` are tried, and padding by half the kernel. Numbered
    modules, as in PyTorch's Sequential, leave out numbers for activations and pooling.
    """
    convs = in_forward_order(wiring)
    first = next((o for o in wiring.operations if o.type == "linear"), None)
    if first is None:
        raise ValueError("no dense layer at the end")
    if not convs or "stride" in convs[0].facts:
        shapes = _input_shapes([*convs, first][0], wiring, hints, (*SIDES, *MORE_SIDES))
        yield from (Choice("relu", shape) for shape in shapes)
        return
    if hints.strides and len(hints.strides) != len(convs):
        raise ValueError(f"{len(hints.strides)} strides for {len(convs)} convolutions")
    positions = widths(first, wiring.shapes)[0] // widths(convs[-1], wiring.shapes)[1]
    kernels = [_kernel(conv) for conv in convs]
    room = _room_for_pooling(wiring, convs)
    for sides in (SIDES, MORE_SIDES):
        fitting = [
            (how, Choice("relu", shape, how))
            for shape in _input_shapes(convs[0], wiring, hints, sides)
            for how in downsamplings(len(convs), hints)
            if min(grid := _map_after(kernels, shape[:2], how)) > 0
            and (how.padded and not how.pooled[-1] if positions == 1 else prod(grid) == positions)
        ]
        shown = [choice for how, choice in fitting if _agrees(how.pooled, room)]
        yield from shown or [choice for _, choice in fitting]
        if fitting:
            return
    raise ValueError(
        f"no usual strides and pooling shrink an image to the {positions} positions that {first.name} reads"
    )


def _kernel(conv: Operation) -> Pair:
    kernel = conv.facts["kernel"].value
    if not (isinstance(kernel, tuple) and len(kernel) == 2):
        raise ValueError(f"{conv.name} is not a convolution of images")
    return kernel[0], kernel[1]


def _room_for_pooling(wiring: Wiring, convs: Sequence[Operation]) -> list[bool | None]:
    """Whether more than an activation lies between a convolution, with its norm, and the next; None where numbers do
    not show it.
    """
    room: dict[str, bool] = {}
    for operation in wiring.operations:
        if "weightless" in operation.facts:
            conv = operation if operation.type == "conv" else wiring.operations[operation.inputs[0]]
            room[conv.name] = operation.facts["weightless"].value not in (0, 1)
    return [room.get(conv.name) for conv in convs]


def _agrees(pooled: tuple[bool, ...], room: list[bool | None]) -> bool:
    """Whether convolutions are pooled where there is room for it, and only there."""
    return all(known is None or known == taken for known, taken in zip(room, pooled, strict=True))


def _map_after(kernels: Sequence[Pair], grid: Pair, how: Downsampling) -> Pair:
    """Grid of the map behind a chain of convolutions; not positive where an image is too small for them."""
    for kernel, stride, pooled in zip(kernels, how.strides, how.pooled, strict=True):
        grid = windowed(grid, kernel, stride, kernel[0] // 2 if how.padded else 0).grid
        grid = windowed(grid, (WINDOW, WINDOW), WINDOW, 0).grid if pooled else grid
    return grid


def _residual(wiring: Wiring, hints: Hints) -> Iterator[Choice]:
    """Yields geometries of residual networks.

    A block with a convolution as shortcut is taken to have stride 2; the convolutions before the blocks may have it
    too.
    """
    convs = in_forward_order(wiring)
    if not convs:
        raise ValueError("no convolution before the blocks")
    if "stride" in convs[0].facts:
        for shape in _input_shapes(convs[0], wiring, hints, (*SIDES, *MORE_SIDES)):
            yield Choice("relu", shape)
        return
    forks = [conv for conv in convs if sum(other.inputs == conv.inputs for other in convs) > 1]
    skipped = next(o.inputs[0] for o in wiring.operations if len(o.inputs) > 1)
    owner = wiring.operations[skipped]
    owner = owner if owner.type == "conv" or not owner.inputs else wiring.operations[owner.inputs[0]]
    last = owner.inputs[-1] if owner in forks else skipped
    stem = [conv for conv in convs if wiring.operations.index(conv) <= last]
    inner = tuple(2 if conv in forks else 1 for conv in convs if conv not in stem)
    usual = [(1,) * len(stem) + inner, (2,) * len(stem) + inner]
    for strides in [hints.strides] if hints.strides else usual:
        if len(strides) != len(convs):
            raise ValueError(f"{len(strides)} strides for {len(convs)} convolutions")
        for shape in _input_shapes(convs[0], wiring, hints):
            yield Choice("relu", shape, Downsampling(strides, True, POOLINGS[0], (False,) * len(strides)))


def _transformer(wiring: Wiring, hints: Hints) -> Iterator[Choice]:
    """Yields geometries of transformers: a position embedding tells the image; fused projections hide the heads.

    Heads have most often 64 units, in small models a power of two of them.
    """
    patches = next((o for o in wiring.operations if o.type == "conv"), None)
    if patches is None:
        raise ValueError("no convolution cuts an image into patches")
    tables = (o for o in wiring.operations if o.type == "parameter" and o.inputs)
    positions = next((wiring.shapes[tensor] for o in tables for tensor in o.tensors.values()), None)
    (stride, width), (channels, units) = _kernel(patches), widths(patches, wiring.shapes)
    shapes = _input_shapes(patches, wiring, hints)
    if hints.input_shape is None and (positions or width != stride):
        tokens = positions[-2] if positions else 0
        side = isqrt(tokens) * stride
        shapes = [(tokens * stride, width, channels) if width != stride else (side, side, channels)]
    known = all(heads_of(o, wiring) for o in wiring.operations if o.type == "attention")
    usual = dict.fromkeys((max(1, units // USUAL_HEAD), 4, 2, 8, 1))
    fitting = [heads for heads in usual if units % heads == 0]
    for heads in [None] if known else [hints.heads] if hints.heads else fitting:
        for shape in shapes:
            yield Choice("gelu", shape, heads=heads)


def _recurrent(wiring: Wiring, hints: Hints) -> Iterator[Choice]:
    """Yields one geometry: without a hint, images are square and gray."""
    first = next(o for o in wiring.operations if o.type == "recurrent")
    tensor = next(tensor for role, tensor in first.tensors.items() if role.startswith("weight_ih"))
    (axis,) = first.axes_of(tensor, first.reads)
    row = wiring.shapes[tensor][axis]
    yield Choice("tanh", hints.input_shape or (row, row, 1))


def downsamplings(count: int, hints: Hints) -> Iterator[Downsampling]:
    """What a chain of `count` convolutions may do to maps, the most usual first.

    Strides are 2 for all convolutions or for the first or last of them; or 1 with 2 x 2 windows pooled after all of
    them, all but the last, the last, or every other one.
    """
    plain = (1,) * count
    none = (False,) * count
    for padded in (True, False):
        if hints.pooling in (None, "none"):
            shrinking = [(2,) * k + (1,) * (count - k) for k in range(count, 0, -1)] + [
                (1,) + (2,) * (count - 1),
                plain,
            ]
            for strides in [hints.strides] if hints.strides else dict.fromkeys(shrinking):
                yield Downsampling(strides, padded, POOLINGS[0], none)
        places = (
            (True,) * count,
            (True,) * (count - 1) + (False,),
            (False,) * (count - 1) + (True,),
            tuple(i % 2 == 1 for i in range(count)),
        )
        for pooling in POOLINGS:
            if hints.pooling in (None, pooling):
                for pooled in dict.fromkeys(p for p in places if any(p)):
                    yield Downsampling(hints.strides or plain, padded, pooling, pooled)

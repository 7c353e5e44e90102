"""A layer of a Keras model as rules see it: its configuration, its weights and the shapes of what it reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from wsrl.wiring.tree import Shape

Lengths = tuple[int | None, ...] | None  # of a value's axes; None where not even their number is known
Made = tuple[str, list[str], dict, Lengths]  # operator, tensors, attributes, shape of the result

ACTIVATIONS = {
    **{"relu": "RELU", "relu6": "RELU6", "tanh": "TANH", "sigmoid": "LOGISTIC", "gelu": "GELU", "elu": "ELU"},
    **{"softmax": "SOFTMAX", "log_softmax": "LOG_SOFTMAX", "hard_swish": "HARD_SWISH", "hard_silu": "HARD_SWISH"},
    **{"selu": "Selu", "softplus": "Softplus", "softsign": "Softsign", "exponential": "EXP", "mish": "Mish"},
    **{"swish": "Swish", "silu": "Swish", "hard_sigmoid": "HardSigmoid", "leaky_relu": "LEAKY_RELU"},
}


class Layer:
    """A layer: its configuration, weights, and the shapes of what it reads."""

    def __init__(
        self,
        name: str,
        config: Mapping,
        weights: Mapping[str, str],
        tensors: Mapping[str, Shape],
        read: Sequence[Lengths],
    ):
        self.name, self.config, self.weights, self.read = name, config, weights, read
        self._tensors = tensors
        self._used: set[str] = set()

    def weight(self, role: str, below: str = "") -> str:
        """Name of the tensor of a role, such as `kernel`, in a part whose name begins with `below`.

        Raises:
          ValueError: there is none, or more than one.
        """
        paths = {path: name for path, name in self.weights.items() if path.startswith(below)}
        found = [name for path, name in paths.items() if f"/{path}".endswith(f"/{role}")]
        if len(found) != 1:
            raise ValueError(f"layer {self.name!r} has {len(found)} tensors {role!r}")
        self._used |= {found[0]}
        return found[0]

    def optional(self, role: str, key: str) -> str:
        """The same where the configuration says that there is one, else an empty name."""
        return self.weight(role) if self.config.get(key, True) else ""

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor."""
        return self._tensors[tensor]

    def is_used_up(self) -> bool:
        """Whether all weights have been asked for."""
        return self._used == set(self.weights.values())

    def numbers(self, key: str, rank: int, default: object = 1) -> tuple[int, ...]:
        """A number for each axis of the positions."""
        value = self.config.get(key)
        value = default if value is None else value
        given = value if isinstance(value, list | tuple) else (value,) * rank
        found = tuple(n for n in given if isinstance(n, int) and n > 0)
        if len(given) != rank or len(found) != rank:
            raise ValueError(f"{key} is not a number for each axis")
        return found

    def windows(self, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> tuple[int | None, ...]:
        """Lengths of the positions after windows over them."""
        padding, before = str(self.config.get("padding", "valid")).lower(), self.known()[1:-1]
        if padding not in ("same", "valid", "causal"):
            raise ValueError("an unknown padding")
        found: list[int | None] = []
        for n, width, step, gap in zip(before, size, strides, dilation, strict=True):
            lost = (width - 1) * gap if padding == "valid" else 0
            found.append(None if n is None else -(-(n - lost) // step))
        return tuple(found)

    def known(self, place: int = 0) -> tuple[int | None, ...]:
        """Shape of what is read.

        Raises:
          ValueError: not known.
        """
        shape = self.read[place]
        if shape is None:
            raise ValueError("what it reads has an unknown number of axes")
        return shape

    def maps(self, rank: int, lengths: Callable[[], Sequence[int | None]], channels: int | None) -> Lengths:
        """Shape of maps; positions are unknown if those that are read are."""
        shape = self.read[0]
        if shape is None:
            return (None,) * (rank + 1) + (channels,)
        if len(shape) != rank + 2:
            raise ValueError("maps of another number of axes")
        return (shape[0], *lengths(), channels)


Rule = Callable[[Layer], Iterator[Made]]


def activation_op(told: object) -> str | None:
    """The operator of an activation that a configuration names; None of one that is not known."""
    if isinstance(told, Mapping):  # a function that is not named by a text alone may be a user's own
        return None
    return ACTIVATIONS.get(str(told))

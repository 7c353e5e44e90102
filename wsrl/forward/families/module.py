"""Modules of a network by their paths, and the layers that read their tensors."""

from dataclasses import dataclass

import numpy as np

from wsrl.forward.families.network import Network, children, numbers
from wsrl.forward.families.value import Shape, Value

Padding = int | tuple[int, ...] | str | None


@dataclass(frozen=True)
class Module:
    """A part of the network: all tensors whose names begin with its path.

    Methods that apply a layer take the value that it reads and the name of the layer below this module.
    """

    net: Network
    path: str = ""

    def __getitem__(self, name: str | int) -> "Module":
        return Module(self.net, f"{self.path}.{name}" if self.path and name != "" else self.path or str(name))

    def __contains__(self, name: str) -> bool:
        path = self[name].path
        return path in self.net.shapes or any(other.startswith(f"{path}.") for other in self.net.shapes)

    def listed(self, name: str = "") -> list["Module"]:
        """The modules of a numbered list, in order."""
        return [self[name][n] for n in numbers(self.net.shapes, self[name].path)]

    def children(self) -> list[str]:
        """Names of what lies directly below, in natural order."""
        return children(self.net.shapes, self.path)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor; ValueError if there is none."""
        path = self[name].path
        if path not in self.net.shapes:
            raise ValueError(f"it has no tensor {path!r}")
        return self.net.shapes[path]

    def tensor(self, name: str) -> Value:
        """A tensor below this module."""
        return self.net.tensor(self[name].path)

    def per_channel(self, name: str) -> Value:
        """A tensor with an entry for each channel, as it is added to or multiplies [channels, height, width]."""
        value = self.tensor(name)
        return value.reshape(value.shape[0] if len(value.shape) == 1 else max(value.shape), 1, 1)

    def conv(
        self,
        x: Value,
        name: str = "",
        stride: int = 1,
        padding: Padding = None,
        dilation: int = 1,
        weight: Value | None = None,
    ) -> Value:
        """A convolution of [channels, height, width], grouped as its shape tells.

        Args:
          padding: pixels at each side, those of (top and bottom, left and right), or of (top, left, bottom, right); by
            default half the kernel, or what `Network.same` says. "same" pads by what the last windows lack, the odd
            pixel at the end.
          weight: instead of the tensor of that name.

        Raises:
          ValueError: the kernel does not fit the channels.
        """
        layer = self[name]
        weight = layer.tensor("weight") if weight is None else weight
        units, fan_in, *kernel = weight.shape
        if len(x.shape) != 3 or len(kernel) != 2 or x.shape[0] % fan_in or units % (x.shape[0] // fan_in):
            raise ValueError(f"the kernel of {layer.path!r}, {weight.shape}, does not fit a map {x.shape}")
        bias = (layer.tensor("bias").name,) if "bias" in layer else ()
        pads = _pads(x.shape[1:], kernel, stride, dilation, padding, self.net.same)
        shape = _windows(x.shape[1:], kernel, stride, dilation, pads)
        strides, dilations = (stride, stride), (dilation, dilation)
        more = {"kernel_shape": tuple(kernel), "strides": strides, "dilations": dilations, "pads": pads}
        return x.then("Conv", weight.name, *bias, shape=(units, *shape), group=x.shape[0] // fan_in, **more)

    def linear(self, x: Value, name: str = "") -> Value:
        """A dense layer of [..., units]; also one that is stored as a convolution by 1 x 1."""
        layer = self[name]
        weight = layer.tensor("weight")
        weight = weight.reshape(*weight.shape[:2])
        if weight.shape[1] != x.shape[-1]:
            raise ValueError(f"{layer.path!r} reads {weight.shape[1]} units, not {x.shape[-1]}")
        bias = layer.tensor("bias") if "bias" in layer else None
        if len(x.shape) == 1 and bias is not None:
            return x.then("Gemm", weight.name, bias.name, shape=weight.shape[:1], transB=1)
        x = x @ weight.transpose(1, 0)
        return x if bias is None else x + bias

    def norm(self, x: Value, name: str = "", epsilon: float | None = None, groups: int = 0) -> Value:
        """A norm: a batch norm where there are running statistics, a group norm where groups are given, else a layer
        norm of the last axis.
        """
        layer = self[name]
        kind = "batch norm" if "running_var" in layer else "norm"
        epsilon = self.net.epsilon[kind] if epsilon is None else epsilon
        channels = x.shape[0] if groups or kind == "batch norm" else x.shape[-1]
        gain, shift = (layer._vector(role, fill, channels) for role, fill in (("weight", 1.0), ("bias", 0.0)))
        if kind == "batch norm":
            moments = [layer.tensor(role).name for role in ("running_mean", "running_var")]
            return x.then("BatchNormalization", gain, shift, *moments, epsilon=epsilon)
        if groups:
            return x.then("GroupNormalization", gain, shift, epsilon=epsilon, num_groups=groups)
        return x.then("LayerNormalization", gain, shift, axis=-1, epsilon=epsilon)

    def _vector(self, role: str, fill: float, length: int) -> str:
        if role not in self:
            return self.net.trace.constant(np.full(length, fill, np.float32))
        if self.shape(role) != (length,):
            raise ValueError(f"{self[role].path!r} does not hold a number for each of {length} channels")
        return self.tensor(role).name

    def conv_norm(self, x: Value, conv: str, norm: str, act: str = "", stride: int = 1, **more: Padding) -> Value:
        """A convolution, its norm and an activation, "" for none."""
        return activate(self.norm(self.conv(x, conv, stride, **more), norm), act)  # type: ignore[arg-type]


def activate(x: Value, activation: str) -> Value:
    """Applies an activation by its usual name, "" or `identity` for none.

    Raises:
      ValueError: it is not known.
    """
    match activation:
        case "" | "identity" | "linear":
            return x
        case "relu":
            return x.then("Relu")
        case "relu6":
            low, high = (x.trace.constant(np.array(bound, np.float32)) for bound in (0, 6))
            return x.then("Clip", low, high)
        case "silu" | "swish":
            return x * x.then("Sigmoid")
        case "hard_swish" | "hardswish":
            return x.then("HardSwish")
        case "hard_sigmoid" | "hardsigmoid":
            return x.then("HardSigmoid", alpha=1 / 6, beta=0.5)
        case "gelu":
            return x.then("Gelu")
        case "gelu_tanh" | "gelu_new" | "gelu_pytorch_tanh":
            return x.then("Gelu", approximate="tanh")
        case "quick_gelu":
            return x * (x * 1.702).then("Sigmoid")
        case "mish":
            return x.then("Mish")
        case "sigmoid" | "tanh" | "softplus" | "elu":
            return x.then(activation.capitalize())
        case "leaky_relu":
            return x.then("LeakyRelu", alpha=0.01)
    raise ValueError(f"its activation {activation!r} is not known")


def pooled(x: Value, kind: str, size: int, stride: int, padding: Padding = 0, ceil: bool = False, **more) -> Value:
    """Windows of [channels, height, width] pooled, `kind` being `max` or `average`."""
    pads = _pads(x.shape[1:], (size, size), stride, 1, padding, False)
    shape = _windows(x.shape[1:], (size, size), stride, 1, pads, ceil)
    op = {"max": "MaxPool", "average": "AveragePool"}[kind]
    common = {"kernel_shape": (size, size), "strides": (stride, stride), "pads": pads, "ceil_mode": int(ceil)}
    return x.then(op, shape=(x.shape[0], *shape), **common, **more)


def _pads(
    grid: Shape, kernel: Shape | list[int], stride: int, dilation: int, padding: Padding, same: bool
) -> tuple[int, int, int, int]:
    """Pixels at the top, left, bottom and right."""
    if padding == "same" or (padding is None and same and stride > 1):
        reach = [(n - 1) // stride * stride + (k - 1) * dilation + 1 for n, k in zip(grid, kernel, strict=True)]
        total = [max(0, r - n) for r, n in zip(reach, grid, strict=True)]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    if padding is None:
        padding = (dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2)
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r} is not known")
    pads = (padding, padding) if isinstance(padding, int) else padding
    top, left, bottom, right = pads if len(pads) == 4 else pads * 2
    return top, left, bottom, right


def _windows(
    grid: Shape, kernel: Shape | list[int], stride: int, dilation: int, pads: Shape, ceil: bool = False
) -> Shape:
    """Grid of the windows; ValueError if there are none."""
    found = []
    for n, k, low, high in zip(grid, kernel, pads[:2], pads[2:], strict=True):
        room = n + low + high - (dilation * (k - 1) + 1)
        steps = -(-room // stride) if ceil else room // stride
        if ceil and steps * stride >= n + low:  # a window must begin in the map or in the padding before it
            steps -= 1
        if room < 0:
            raise ValueError(f"a map {grid} is too small for a window {tuple(kernel)}")
        found.append(steps + 1)
    return tuple(found)

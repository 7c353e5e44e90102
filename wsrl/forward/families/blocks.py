"""Parts that many families share: squeeze and excitation, attention, perceptrons, tokens."""

import numpy as np

from wsrl.forward.families.module import Module, activate
from wsrl.forward.families.value import Value, concat


def squeeze_excite(
    m: Module, x: Value, reduce: str = "fc1", expand: str = "fc2", act: str = "relu", gate: str = "sigmoid"
) -> Value:
    """Scales channels by what two dense layers make of their means (Hu et al. 2018)."""
    scale = activate(m.linear(x.mean(1, 2), reduce), act)
    scale = activate(m.linear(scale, expand), gate)
    return x * scale.reshape(x.shape[0], 1, 1)


def efficient_channels(m: Module, x: Value) -> Value:
    """Scales channels by what a convolution over their means makes of them (Wang et al. 2020, ECA)."""
    kernel = m.tensor("conv.weight")
    (length,) = kernel.shape[2:]
    means = x.mean(1, 2).reshape(1, x.shape[0])
    attributes = {"kernel_shape": (length,), "pads": (length // 2, length // 2)}
    scale = activate(means.then("Conv", kernel.name, **attributes), "sigmoid")
    return x * scale.reshape(x.shape[0], 1, 1)


def perceptron(m: Module, x: Value, act: str, first: str = "fc1", second: str = "fc2") -> Value:
    """Two dense layers with an activation between them; where `norm` lies between, it is applied."""
    x = activate(m.linear(x, first), act)
    return m.linear(m.norm(x, "norm") if "norm" in m else x, second)


def gated_perceptron(m: Module, x: Value, act: str, fused: bool, gates_last: bool = False) -> Value:
    """A perceptron whose hidden units are multiplied by gates (Shazeer 2020): SwiGLU where `act` is `silu`.

    Args:
      fused: whether `fc1` holds gates and hidden units; else `fc1_g` holds the gates and `fc1_x` the units.
      gates_last: whether gates come after the units.
    """
    if fused:
        hidden = m.shape("fc1.weight")[0] // 2
        gates, units = m.linear(x, "fc1").split(-1, hidden, hidden)[:: -1 if gates_last else 1]
    else:
        gates, units = m.linear(x, "fc1_g"), m.linear(x, "fc1_x")
    x = activate(gates, act) * units
    return m.linear(m.norm(x, "norm") if "norm" in m else x, "fc2")


def heads_apart(x: Value, heads: int) -> Value:
    """[tokens, heads x dim] as [heads, tokens, dim]."""
    tokens, width = x.shape
    if width % heads:
        raise ValueError(f"{width} units are not those of {heads} heads")
    return x.reshape(tokens, heads, width // heads).transpose(1, 0, 2)


def queries_keys_values(m: Module, x: Value) -> tuple[Value, ...]:
    """[tokens, units] each, of three projections or of a fused one, `qkv`, which may have biases `q_bias`, `v_bias`."""
    if "qkv" not in m:
        return tuple(m.linear(x, name) for name in "qkv")
    third = m.shape("qkv.weight")[0] // 3
    q, k, v = m.linear(x, "qkv").split(-1, third, third, third)
    if "q_bias" in m:
        q, v = q + m.tensor("q_bias"), v + m.tensor("v_bias")
    return q, k, v


def attend(q: Value, k: Value, v: Value, scale: float | None = None, bias: Value | None = None) -> Value:
    """Softmax attention of [heads, tokens, dim], joined to [tokens, heads x dim].

    Args:
      scale: of the products; by default one over the square root of dim.
      bias: added to them, [heads, queries, keys]; or, for windows in the batch, [windows, heads, queries, keys].
    """
    heads, tokens, dim = q.shape
    scores = (q * (dim**-0.5 if scale is None else scale)) @ k.transpose(0, 2, 1)
    if bias is not None and len(bias.shape) == 4:
        scores = (scores.refold(bias.shape[0], *scores.shape) + bias).refold(*scores.shape)
    elif bias is not None:
        scores = scores + bias
    found = scores.then("Softmax", axis=-1) @ v
    return found.transpose(1, 0, 2).reshape(tokens, heads * v.shape[-1])


def attention(m: Module, x: Value, heads: int, bias: Value | None = None) -> Value:
    """Self-attention of [tokens, units] with its projections; queries and keys are normed where there are norms."""
    q, k, v = (heads_apart(part, heads) for part in queries_keys_values(m, x))
    if "q_norm" in m:
        q, k = m.norm(q, "q_norm"), m.norm(k, "k_norm")
    x = attend(q, k, v, bias=bias)
    return m.linear(m.norm(x, "norm") if "norm" in m else x, "proj")


def layer_scale(m: Module, x: Value, *names: str) -> Value:
    """Multiplies the units of [..., units] by those of the tensors that there are."""
    for name in names:
        x = x * m.tensor(name) if name in m else x
    return x


def tokens_before(tokens: list[Value], x: Value) -> Value:
    """Puts learned tokens, [1, n, units] each, before those of [tokens, units].

    The tokens are padded to the whole length and added, which takes no operator that asks for the size of the batch.
    """
    count = sum(t.shape[1] for t in tokens)
    own = concat(tokens, 1) if len(tokens) > 1 else tokens[0]
    length = x.shape[0]
    return x.pad((count, 0), (0, 0)) + own.pad((0, 0), (0, length), (0, 0)).reshape(count + length, x.shape[1])


def window_bias(table: Value, index: np.ndarray) -> Value:
    """Biases [heads, queries, keys] of relative positions out of a table [positions, heads].

    Args:
      index: row of the table for each pair, [queries, keys].
    """
    heads = table.shape[1]
    flat = table.trace.constant(index.reshape(-1).astype(np.int64))
    rows = table.then("Gather", flat, shape=(index.size, heads), axis=0)
    return rows.transpose(1, 0).reshape(heads, *index.shape)

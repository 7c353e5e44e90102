"""Small networks that people write in which names and shapes hide what meets a group: tensors' shapes and outputs."""

import numpy as np
from doubtful_networks import MAP, TIMES, conv, relu, sigmoid

VECTOR, STATE = TIMES[0], TIMES[1]


def joined_beside_a_code():
    """Two maps are joined that are together as long as the code of a time step (Ho et al., 2020)."""
    shapes = {"time_embed.0.weight": (16, 6), "time_embed.2.weight": (16, 16), "conv_in.weight": (8, 3, 3, 3)}
    for path, into in (("down", 8), ("up", 16)):
        shapes |= {f"{path}.conv1.weight": (8, into, 3, 3), f"{path}.time_mlp.1.weight": (8, 16)}
    shapes["conv_out.weight"] = (3, 8, 3, 3)

    def outputs(t):
        code = t["time_embed.2.weight"] @ np.tanh(t["time_embed.0.weight"] @ VECTOR)
        first = x = conv(MAP, t["conv_in.weight"])
        for path in ("down", "up"):
            x = np.concatenate([x, first]) if path == "up" else x
            x = relu(conv(x, t[f"{path}.conv1.weight"]) + (t[f"{path}.time_mlp.1.weight"] @ code)[:, None, None])
        return conv(x, t["conv_out.weight"])

    return shapes, outputs


def read_beside_the_input():
    """Park et al. (DeepSDF, 2019): a layer is narrower by the input, which the next one reads beside it."""
    widths = ((16, 6), (10, 16), (16, 16), (16, 16), (1, 16))
    shapes = {f"lin{i}.weight": shape for i, shape in enumerate(widths)}

    def outputs(t):
        x = VECTOR
        for i in range(len(widths)):
            x = t[f"lin{i}.weight"] @ (np.concatenate([x, VECTOR]) if i == 2 else x)
            x = relu(x) if i < 4 else x
        return x

    return shapes, outputs


def bilinear():
    """PyTorch's bilinear layer, whose weight looks like that of a convolution over a sequence."""
    shapes = {"fa.weight": (16, 6), "bilinear.weight": (12, 16, 16), "out.weight": (3, 12)}

    def outputs(t):
        h = relu(t["fa.weight"] @ VECTOR)
        return t["out.weight"] @ relu(np.einsum("i,oij,j->o", h, t["bilinear.weight"], h))

    return shapes, outputs


def returned_code():
    """An autoencoder that returns its code beside what it decodes."""
    shapes = {"encoder.0.weight": (16, 6), "encoder.2.weight": (4, 16)}
    shapes |= {"decoder.0.weight": (16, 4), "decoder.2.weight": (6, 16)}

    def outputs(t):
        code = t["encoder.2.weight"] @ relu(t["encoder.0.weight"] @ VECTOR)
        return np.concatenate([code, t["decoder.2.weight"] @ relu(t["decoder.0.weight"] @ code)])

    return shapes, outputs


def returned_features():
    """Wen et al. (center loss, 2016): the features are returned beside the logits."""
    shapes = {"base.weight": (16, 6), "feature.weight": (4, 16), "fc.weight": (5, 4)}

    def outputs(t):
        features = t["feature.weight"] @ relu(t["base.weight"] @ VECTOR)
        return np.concatenate([features, t["fc.weight"] @ features])

    return shapes, outputs


def state_of_a_cell():
    """An agent that is given the state of its cell and returns the next one (Samvelyan et al., PyMARL, 2019)."""
    shapes = {"fc1.weight": (16, 6), "rnn.weight_ih": (18, 16), "rnn.weight_hh": (18, 6), "fc2.weight": (3, 6)}

    def outputs(t):
        i = np.split(t["rnn.weight_ih"] @ relu(t["fc1.weight"] @ VECTOR), 3)
        h = np.split(t["rnn.weight_hh"] @ STATE, 3)
        gate, kept = sigmoid(i[0] + h[0]), sigmoid(i[1] + h[1])
        state = (1 - kept) * np.tanh(i[2] + gate * h[2]) + kept * STATE
        return np.concatenate([t["fc2.weight"] @ state, state])

    return shapes, outputs


def normed_in_groups_later():
    """A group norm that follows the activation of a convolution in a list."""
    shapes = {"net.0.weight": (16, 3, 3, 3), "net.2.weight": (16,), "net.2.bias": (16,), "fc.weight": (4, 16)}

    def outputs(t):
        x = relu(conv(MAP, t["net.0.weight"])).reshape(4, -1)
        x = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)).reshape(16, -1)
        return t["fc.weight"] @ np.maximum(x * t["net.2.weight"][:, None] + t["net.2.bias"][:, None], 0.1).mean(1)

    return shapes, outputs


def added_further_on():
    """Mao et al. (RED-Net, 2016): maps are added to those of the same number further on."""
    widths = ((8, 3), (12, 8), (8, 12), (3, 8))
    shapes = {f"conv{i}.weight": (*shape, 3, 3) for i, shape in enumerate(widths, 1)}

    def outputs(t):
        first = relu(conv(MAP, t["conv1.weight"]))
        x = relu(conv(relu(conv(first, t["conv2.weight"])), t["conv3.weight"]))
        return conv(x + first, t["conv4.weight"])

    return shapes, outputs


def added_in_a_list():
    """Dense layers of one list, the first of which is added to the third."""
    widths = ((8, 6), (12, 8), (8, 12), (3, 8))
    shapes = {f"net.{i}.weight": shape for i, shape in enumerate(widths)}

    def outputs(t):
        first = relu(t["net.0.weight"] @ VECTOR)
        x = relu(t["net.2.weight"] @ relu(t["net.1.weight"] @ first))
        return t["net.3.weight"] @ (x + first)

    return shapes, outputs


def depthwise_on_colors():
    """A depthwise convolution of three colors, with four maps for each, which looks like one of gray images."""
    shapes = {"dw1.weight": (12, 1, 3, 3), "pw1.weight": (8, 12, 1, 1), "fc.weight": (4, 8)}

    def outputs(t):
        x = conv(MAP, t["dw1.weight"], groups=3)
        return t["fc.weight"] @ relu(conv(x, t["pw1.weight"])).mean((1, 2))

    return shapes, outputs


NETWORKS = {
    make.__name__: make()
    for make in (
        joined_beside_a_code,
        read_beside_the_input,
        bilinear,
        returned_code,
        returned_features,
        state_of_a_cell,
        normed_in_groups_later,
        added_further_on,
        added_in_a_list,
        depthwise_on_colors,
    )
}

"""Small networks in which something meets a group that names and shapes do not show: tensors' shapes and outputs."""

import numpy as np

RNG = np.random.default_rng(1)
MAP = RNG.standard_normal((3, 6, 6))
SOUND = RNG.standard_normal((5, 9))
WORDS = np.array([2, 5, 1, 7])
TIMES = RNG.standard_normal((4, 6))


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def conv(x, w, groups=1):
    """Maps [in, *places] convolved with [out, in / groups, *taps], as many places as before."""
    radius = [k // 2 for k in w.shape[2:]]
    padded = np.pad(x, [(0, 0), *((r, r) for r in radius)])
    out = np.zeros((w.shape[0], *x.shape[1:]))
    for taps in np.ndindex(*w.shape[2:]):
        moved = padded[(slice(None), *(slice(t, t + n) for t, n in zip(taps, x.shape[1:], strict=True)))]
        parts = moved.reshape(groups, -1, *x.shape[1:])
        kernels = w[(..., *taps)].reshape(groups, -1, w.shape[1])
        out += np.einsum("goi,gi...->go...", kernels, parts).reshape(out.shape)
    return out


def lstm(t, path, inputs, layers=1, suffix="", states=None):
    """Runs PyTorch's LSTM without biases over inputs [times, in]; returns the last layer's outputs and all states."""
    final = []
    for layer in range(layers):
        ih, hh = t[f"{path}.weight_ih_l{layer}{suffix}"], t[f"{path}.weight_hh_l{layer}{suffix}"]
        h, c = states[layer] if states else (np.zeros(hh.shape[1]),) * 2
        outputs = []
        for x in inputs:
            i, f, g, o = np.split(ih @ x + hh @ h, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        inputs = np.stack(outputs)
        final.append((h, c))
    return inputs, final


def cells(path, inputs, width, layers=1, both=False):
    shapes = {}
    for layer in range(layers):
        for suffix in ("", "_reverse") if both else ("",):
            shapes[f"{path}.weight_ih_l{layer}{suffix}"] = (4 * width, width if layer else inputs)
            shapes[f"{path}.weight_hh_l{layer}{suffix}"] = (4 * width, width)
    return shapes


def padded_shortcuts():
    """He et al. (ResNet, 2016), option A: what is widened is added to what was read, padded with zeros."""
    widths = {"layer1.0": (8, 8), "layer1.1": (8, 8), "layer2.0": (8, 16), "layer2.1": (16, 16)}
    shapes = {"conv1.weight": (8, 3, 3, 3), "linear.weight": (5, 16)}
    for path, (into, out) in widths.items():
        shapes |= {f"{path}.conv1.weight": (out, into, 3, 3), f"{path}.conv2.weight": (out, out, 3, 3)}
        fields = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"{path}.bn{i}.{field}": (out,) for i in (1, 2) for field in fields}

    def outputs(t):
        def scaled(x, path):
            gain, shift, mean, variance = (
                t[f"{path}.{field}"][:, None, None] for field in ("weight", "bias", "running_mean", "running_var")
            )
            return gain * (x - mean) / np.sqrt(np.abs(variance) + 1) + shift

        x = relu(conv(MAP, t["conv1.weight"]))
        for path in widths:
            y = relu(scaled(conv(x, t[f"{path}.conv1.weight"]), f"{path}.bn1"))
            y = scaled(conv(y, t[f"{path}.conv2.weight"]), f"{path}.bn2")
            more = (len(y) - len(x)) // 2
            x = relu(y + np.pad(x, ((more, more), (0, 0), (0, 0))))
        return t["linear.weight"] @ x.mean((1, 2))

    return shapes, outputs


def groups_by_words():
    """A bottleneck whose layers are named by words, which do not stand in the order in which they run."""
    shapes = {"first_3x3.weight": (16, 3, 3, 3), "classifier.weight": (5, 32)}
    for path, into in (("stage.block_a", 16), ("stage.block_b", 32)):
        shapes |= {f"{path}.conv_reduce.weight": (16, into, 1, 1), f"{path}.conv_conv.weight": (16, 4, 3, 3)}
        shapes |= {f"{path}.conv_expand.weight": (32, 16, 1, 1)}
    shapes["stage.block_a.shortcut.weight"] = (32, 16, 1, 1)

    def outputs(t):
        x = relu(conv(MAP, t["first_3x3.weight"]))
        for path in ("stage.block_a", "stage.block_b"):
            y = relu(conv(x, t[f"{path}.conv_reduce.weight"]))
            y = relu(conv(y, t[f"{path}.conv_conv.weight"], groups=4))
            beside = conv(x, t["stage.block_a.shortcut.weight"]) if path.endswith("a") else x
            x = relu(conv(y, t[f"{path}.conv_expand.weight"]) + beside)
        return t["classifier.weight"] @ x.mean((1, 2))

    return shapes, outputs


def gated_depthwise():
    """A gated convolution whose depthwise layer comes first by name, not in time."""
    shapes = {"input_linear.weight": (16, 5), "out.weight": (4, 16)}
    shapes |= {"layers.0.conv.depth_conv.weight": (24, 1, 3), "layers.0.conv.down_conv.weight": (16, 24, 1)}
    shapes |= {"layers.0.conv.up_conv.weight": (48, 16, 1)}

    def outputs(t):
        x = np.einsum("oi,it->ot", t["input_linear.weight"], SOUND)
        a, b = np.split(conv(x, t["layers.0.conv.up_conv.weight"]), 2)
        y = conv(a * sigmoid(b), t["layers.0.conv.depth_conv.weight"], groups=24)
        return t["out.weight"] @ (x + conv(relu(y), t["layers.0.conv.down_conv.weight"]))

    return shapes, outputs


def lists_of_branches():
    """Lists of layers that run in turns, in the manner of Graph WaveNet (Wu et al., 2019)."""
    shapes = {"start_conv.weight": (16, 5, 1), "end_conv_1.weight": (20, 24, 1), "end_conv_2.weight": (5, 20, 1)}
    for i in (0, 1):
        shapes |= {f"filter_convs.{i}.weight": (12, 16, 3), f"gate_convs.{i}.weight": (12, 16, 3)}
        shapes |= {f"residual_convs.{i}.weight": (16, 12, 1), f"skip_convs.{i}.weight": (24, 12, 1)}

    def outputs(t):
        x, skip = conv(SOUND, t["start_conv.weight"]), 0
        for i in (0, 1):
            y = np.tanh(conv(x, t[f"filter_convs.{i}.weight"])) * sigmoid(conv(x, t[f"gate_convs.{i}.weight"]))
            skip = skip + conv(y, t[f"skip_convs.{i}.weight"])
            x = x + conv(y, t[f"residual_convs.{i}.weight"])
        return conv(relu(conv(relu(skip), t["end_conv_1.weight"])), t["end_conv_2.weight"])

    return shapes, outputs


def added_directions():
    """Luong et al. (2015): both directions of the encoder are added; state and context are read side by side."""
    shapes = {"encoder.embedding.weight": (9, 10), "decoder.embedding.weight": (9, 12)}
    shapes |= cells("encoder.rnn", 10, 12, both=True) | cells("decoder.rnn", 12, 12)
    shapes |= {"decoder.attn.weight": (12, 12), "decoder.concat.weight": (12, 24), "decoder.out.weight": (9, 12)}

    def outputs(t):
        x = t["encoder.embedding.weight"][WORDS]
        forward, states = lstm(t, "encoder.rnn", x)
        back, _ = lstm(t, "encoder.rnn", x[::-1], suffix="_reverse")
        read = forward + back[::-1]
        y, _ = lstm(t, "decoder.rnn", t["decoder.embedding.weight"][WORDS], states=states)
        scores = np.exp(y @ t["decoder.attn.weight"] @ read.T)
        context = scores / scores.sum(1, keepdims=True) @ read
        return np.tanh(np.concatenate([y, context], 1) @ t["decoder.concat.weight"].T) @ t["decoder.out.weight"].T

    return shapes, outputs


def handed_states():
    """Sutskever et al. (2014): the states of all layers of the encoder are the first ones of the decoder."""
    shapes = {
        "encoder.embedding.weight": (9, 10),
        "decoder.embedding.weight": (9, 10),
        "decoder.fc_out.weight": (9, 12),
    }
    shapes |= cells("encoder.rnn", 10, 12, layers=2) | cells("decoder.rnn", 10, 12, layers=2)

    def outputs(t):
        _, states = lstm(t, "encoder.rnn", t["encoder.embedding.weight"][WORDS], 2)
        y, _ = lstm(t, "decoder.rnn", t["decoder.embedding.weight"][WORDS], 2, states=states)
        return y @ t["decoder.fc_out.weight"].T

    return shapes, outputs


def states_of_all_layers():
    """Salinas et al. (DeepAR, 2020): the last states of all layers are read."""
    shapes = cells("lstm", 6, 12, layers=2) | {"distribution_mu.weight": (1, 24), "distribution_sigma.weight": (1, 24)}

    def outputs(t):
        h = np.concatenate([h for h, _ in lstm(t, "lstm", TIMES, 2)[1]])
        return np.concatenate([t["distribution_mu.weight"] @ h, t["distribution_sigma.weight"] @ h])

    return shapes, outputs


def weights_of_a_sum():
    """Li et al. (Involution, 2021): the last convolution returns kernels for groups of the first one's maps."""
    shapes = {"stem.weight": (16, 3, 3, 3), "conv1.weight": (8, 16, 1, 1), "conv2.weight": (18, 8, 1, 1)}
    shapes |= {"fc.weight": (5, 16)}

    def outputs(t):
        x = relu(conv(MAP, t["stem.weight"]))
        kernels = conv(relu(conv(x, t["conv1.weight"])), t["conv2.weight"]).reshape(2, 1, 9, 6, 6)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        moved = np.stack([padded[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)], 1)
        return t["fc.weight"] @ (kernels * moved.reshape(2, 8, 9, 6, 6)).sum(2).reshape(16, 36).mean(1)

    return shapes, outputs


def layers_named_by_depth():
    """Badrinarayanan et al. (SegNet, 2017): names of the decoder's layers say how deep they lie, not when they run."""
    shapes = {"conv11.weight": (8, 3, 3, 3), "conv21.weight": (12, 8, 3, 3)}
    shapes |= {"conv21d.weight": (8, 12, 3, 3), "conv11d.weight": (4, 8, 3, 3)}

    def outputs(t):
        x = MAP
        for name in ("conv11", "conv21", "conv21d"):
            x = relu(conv(x, t[f"{name}.weight"]))
        return conv(x, t["conv11d.weight"])

    return shapes, outputs


def filters_from_beside():
    """Schuett et al. (SchNet, 2017): filters that a network beside makes multiply what a layer deeper in returns."""
    shapes = {"embedding.weight": (9, 16), "output.0.weight": (8, 16), "output.2.weight": (1, 8)}
    for i in (0, 1):
        path = f"interactions.{i}"
        shapes |= {f"{path}.filter_network.0.weight": (20, 7), f"{path}.filter_network.2.weight": (20, 20)}
        shapes |= {f"{path}.cfconv.in2f.weight": (20, 16), f"{path}.cfconv.f2out.weight": (16, 20)}
        shapes |= {f"{path}.dense.weight": (16, 16)}
    distances = RNG.standard_normal((4, 4, 7))

    def outputs(t):
        x = t["embedding.weight"][WORDS]
        for i in (0, 1):
            w = {name: t[f"interactions.{i}.{name}.weight"] for name in ("cfconv.in2f", "cfconv.f2out", "dense")}
            filters = np.tanh(distances @ t[f"interactions.{i}.filter_network.0.weight"].T)
            filters = filters @ t[f"interactions.{i}.filter_network.2.weight"].T
            y = ((x @ w["cfconv.in2f"].T)[None] * filters).sum(1)
            x = x + np.tanh(y @ w["cfconv.f2out"].T) @ w["dense"].T
        return np.tanh(x @ t["output.0.weight"].T) @ t["output.2.weight"].T

    return shapes, outputs


def scales_of_noise():
    """Karras et al. (StyleGAN, 2019): noise and styles act on maps that nothing is known to read."""
    shapes = {"style.weight": (12, 6), "input.const": (1, 12, 6, 6), "to_rgb.weight": (3, 8, 1, 1)}
    for i, (into, out) in enumerate(((12, 12), (12, 8))):
        path = f"progression.{i}"
        shapes |= {f"{path}.conv.weight": (out, into, 3, 3), f"{path}.noise.weight": (1, out, 1, 1)}
        shapes |= {f"{path}.adain.style.weight": (2 * out, 12)}

    def outputs(t):
        style, x = np.tanh(t["style.weight"] @ TIMES[0]), t["input.const"][0]
        for i in (0, 1):
            x = conv(x, t[f"progression.{i}.conv.weight"])
            x = relu(x + t[f"progression.{i}.noise.weight"][0] * MAP[0])
            gain, shift = np.split(t[f"progression.{i}.adain.style.weight"] @ style, 2)
            x = gain[:, None, None] * x + shift[:, None, None]
        return conv(x, t["to_rgb.weight"])

    return shapes, outputs


NETWORKS = {
    make.__name__: make()
    for make in (
        padded_shortcuts,
        groups_by_words,
        gated_depthwise,
        lists_of_branches,
        added_directions,
        handed_states,
        states_of_all_layers,
        weights_of_a_sum,
        layers_named_by_depth,
        filters_from_beside,
        scales_of_noise,
    )
}

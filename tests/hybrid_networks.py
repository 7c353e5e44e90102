"""Small language and sound models of linear attention, state spaces, gated convolutions and experts, run in float64.

Each is (shapes, config, outputs): shapes of its tensors, its `config.json`, and what it computes from those tensors.
"""

import numpy as np

WIDTH, WORDS = 24, 30


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rms(x, gain=1.0):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * gain


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def along(x, taps):
    """A causal convolution of a sequence [length, channels], each channel for itself, with taps [channels, 1, n]."""
    padded = np.concatenate([np.zeros((taps.shape[2] - 1, x.shape[1])), x])
    return sum(padded[i : i + len(x)] * taps[:, 0, i] for i in range(taps.shape[2]))


def model(inner, config, mixer, path="model.layers.0.mixer"):
    """A language model of one block: `mixer(tensors, x)` is added to the stream, then a gated layer is."""
    shapes = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {"model.layers.0.input_layernorm.weight": (WIDTH,), "model.layers.0.mlp_norm.weight": (WIDTH,)}
    shapes |= {f"model.layers.0.mlp.{n}_proj.weight": (40, WIDTH) for n in ("gate", "up")}
    shapes |= {"model.layers.0.mlp.down_proj.weight": (WIDTH, 40), "lm_head.weight": (WORDS, WIDTH)}
    shapes |= {f"{path}.{name}": shape for name, shape in inner.items()}
    config = {"architectures": ["AForCausalLM"], "tie_word_embeddings": False, "rope_theta": 1e4, **config}

    def outputs(tensors, words):
        t = {name: values.astype(np.float64) for name, values in tensors.items()}
        own = {name: t[f"{path}.{name}"] for name in inner}
        x = t["model.embed_tokens.weight"][words]
        x = x + mixer(own, rms(x, t["model.layers.0.input_layernorm.weight"]))
        y = rms(x, t["model.layers.0.mlp_norm.weight"])
        gate, up, down = (t[f"model.layers.0.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
        x = x + (silu(y @ gate.T) * (y @ up.T)) @ down.T
        return rms(x, t["model.norm.weight"]) @ t["lm_head.weight"].T

    return shapes, config, outputs


def mamba2(groups, heads=8, dim=6, states=4):
    units, shared = heads * dim, 2 * groups * states
    inner = {"in_proj.weight": (2 * units + shared + heads, WIDTH), "conv1d.weight": (units + shared, 1, 3)}
    inner |= {name: (heads,) for name in ("dt_bias", "A_log", "D")}
    inner |= {"conv1d.bias": (units + shared,), "norm.weight": (units,), "out_proj.weight": (WIDTH, units)}

    def mixer(t, x):
        gate, mixed, step = np.split(x @ t["in_proj.weight"].T, [units, 2 * units + shared], axis=1)
        mixed = silu(along(mixed, t["conv1d.weight"]) + t["conv1d.bias"])
        u, b, c = np.split(mixed, [units, units + shared // 2], axis=1)
        b, c = (np.repeat(v.reshape(-1, groups, states), heads // groups, 1) for v in (b, c))
        step = np.log1p(np.exp(step + t["dt_bias"]))
        u, state, found = u.reshape(-1, heads, dim), np.zeros((heads, dim, states)), []
        for i in range(len(x)):
            decay = np.exp(-np.exp(t["A_log"]) * step[i])[:, None, None]
            state = decay * state + step[i][:, None, None] * u[i][:, :, None] * b[i][:, None]
            found.append(np.einsum("hds,hs->hd", state, c[i]) + t["D"][:, None] * u[i])
        y = np.stack(found).reshape(len(x), units) * silu(gate)
        y = rms(y.reshape(len(x), groups, -1)).reshape(len(x), units) * t["norm.weight"]
        return y @ t["out_proj.weight"].T

    return model(inner, {"n_groups": groups}, mixer)


def delta_net(blocked, key_heads=2, heads=4, dim=4):
    """Gated DeltaNet; with `blocked` rows lie key head by key head."""
    keys, values, repeat = key_heads * dim, heads * dim, heads // key_heads
    inner = {"conv1d.weight": (2 * keys + values, 1, 3), "dt_bias": (heads,), "A_log": (heads,), "norm.weight": (dim,)}
    inner["out_proj.weight"] = (WIDTH, values)
    if blocked:
        inner |= {"in_proj_qkvz.weight": (2 * keys + 2 * values, WIDTH), "in_proj_ba.weight": (2 * heads, WIDTH)}
    else:
        inner |= {"in_proj_qkv.weight": (2 * keys + values, WIDTH), "in_proj_z.weight": (values, WIDTH)}
        inner |= {"in_proj_a.weight": (heads, WIDTH), "in_proj_b.weight": (heads, WIDTH)}

    def mixer(t, x):
        n = len(x)
        if blocked:
            rows = (x @ t["in_proj_qkvz.weight"].T).reshape(n, key_heads, -1)
            parts = np.split(rows, [dim, 2 * dim, (2 + repeat) * dim], axis=2)
            q, k, v, z = (p.reshape(n, -1) for p in parts)
            b, a = (p.reshape(n, -1) for p in np.split((x @ t["in_proj_ba.weight"].T).reshape(n, key_heads, -1), 2, 2))
            mixed = np.concatenate([q, k, v], 1)
        else:
            mixed, z, a, b = (x @ t[f"in_proj_{name}.weight"].T for name in ("qkv", "z", "a", "b"))
        q, k, v = np.split(silu(along(mixed, t["conv1d.weight"])), [keys, 2 * keys], axis=1)
        q, k = (np.repeat(p.reshape(n, key_heads, dim), repeat, 1) for p in (q, k))
        q, k, v = rms(q), rms(k), v.reshape(n, heads, dim)
        decay = np.exp(-np.exp(t["A_log"]) * np.log1p(np.exp(a + t["dt_bias"])))
        state, found = np.zeros((heads, dim, dim)), []
        for i in range(n):
            state = state * decay[i][:, None, None]
            error = (v[i] - np.einsum("hkv,hk->hv", state, k[i])) * sigmoid(b[i])[:, None] / dim
            state = state + k[i][:, :, None] * error[:, None]
            found.append(np.einsum("hkv,hk->hv", state, q[i]))
        y = rms(np.stack(found), t["norm.weight"]) * silu(z.reshape(n, heads, dim))
        return y.reshape(n, -1) @ t["out_proj.weight"].T

    return model(inner, {"linear_num_key_heads": key_heads}, mixer, "model.layers.0.linear_attn")


def kimi(heads=3, dim=4, rank=5):
    """Decays for each entry of a key, by way of a narrow layer; here the state only decays."""
    inner = {f"{n}_proj.weight": (heads * dim, WIDTH) for n in "qkv"} | {"b_proj.weight": (heads, WIDTH)}
    inner |= {f"{n}_conv1d.weight": (heads * dim, 1, 3) for n in "qkv"} | {"dt_bias": (heads * dim,)}
    inner |= {f"{n}_a_proj.weight": (rank, WIDTH) for n in "fg"} | {
        f"{n}_b_proj.weight": (heads * dim, rank) for n in "fg"
    }
    inner |= {"A_log": (1, 1, heads, 1), "o_norm.weight": (dim,), "o_proj.weight": (WIDTH, heads * dim)}

    def mixer(t, x):
        n = len(x)
        q, k, v = (silu(along(x @ t[f"{p}_proj.weight"].T, t[f"{p}_conv1d.weight"])) for p in "qkv")
        f, g = (x @ t[f"{p}_a_proj.weight"].T @ t[f"{p}_b_proj.weight"].T for p in "fg")
        decay = np.exp(
            -np.exp(t["A_log"].reshape(heads, 1)) * np.log1p(np.exp(f + t["dt_bias"])).reshape(n, heads, dim)
        )
        q, k, v = (p.reshape(n, heads, dim) for p in (q, k, v))
        b, state, found = sigmoid(x @ t["b_proj.weight"].T), np.zeros((heads, dim, dim)), []
        for i in range(n):
            state = decay[i][:, :, None] * state + (b[i][:, None] * k[i])[:, :, None] * v[i][:, None]
            found.append(np.einsum("hkv,hk->hv", state, q[i]))
        y = rms(np.stack(found), t["o_norm.weight"]) * sigmoid(g.reshape(n, heads, dim))
        return y.reshape(n, -1) @ t["o_proj.weight"].T

    return model(inner, {}, mixer, "model.layers.0.self_attn")


def short_convolution(channels=20):
    inner = {"in_proj.weight": (3 * channels, WIDTH), "conv.weight": (channels, 1, 3)}
    inner["out_proj.weight"] = (WIDTH, channels)

    def mixer(t, x):
        b, c, u = np.split(x @ t["in_proj.weight"].T, 3, axis=1)
        return (c * along(b * u, t["conv.weight"])) @ t["out_proj.weight"].T

    return model(inner, {}, mixer, "model.layers.0.conv")


def conformer(channels=20):
    inner = {"layer_norm.weight": (WIDTH,), "pointwise_conv1.weight": (2 * channels, WIDTH, 1)}
    inner |= {"depthwise_conv.weight": (channels, 1, 3), "depthwise_layer_norm.weight": (channels,)}
    inner["pointwise_conv2.weight"] = (WIDTH, channels, 1)

    def mixer(t, x):
        y = rms(x, t["layer_norm.weight"]) @ t["pointwise_conv1.weight"][:, :, 0].T
        y = y[:, :channels] * sigmoid(y[:, channels:])
        y = silu(rms(along(y, t["depthwise_conv.weight"]), t["depthwise_layer_norm.weight"]))
        return y @ t["pointwise_conv2.weight"][:, :, 0].T

    return model(inner, {}, mixer, "model.layers.0.conv_module")


def unlike_attention(heads=4, dim=5):
    """Attention whose queries get an addition by way of a narrow layer, which no rule knows."""
    inner = {f"{n}_proj.weight": (heads * dim, WIDTH) for n in "qkv"} | {"o_proj.weight": (WIDTH, heads * dim)}
    inner |= {"f_a_proj.weight": (3, WIDTH), "mix.weight": (heads * dim, 3)}

    def mixer(t, x):
        more = np.tanh(x @ t["f_a_proj.weight"].T) @ t["mix.weight"].T
        q, k, v = (x @ t[f"{p}_proj.weight"].T for p in "qkv")
        q, k, v = (p.reshape(len(x), heads, dim) for p in (q + np.sort(more), k, v))
        scores = softmax(np.einsum("nhd,mhd->hnm", q, k))
        return np.einsum("hnm,mhd->nhd", scores, v).reshape(len(x), -1) @ t["o_proj.weight"].T

    return model(inner, {"num_attention_heads": heads}, mixer, "model.layers.0.self_attn")


def gated_attention(by_head, doubled=False, heads=4, shared=2, dim=6):
    """Attention with rotary pairs, whose result is scaled unit by unit or head by head."""
    inner = {"q_proj.weight": ((1 + doubled) * heads * dim, WIDTH), "o_proj.weight": (WIDTH, heads * dim)}
    inner |= {f"{n}_proj.weight": (shared * dim, WIDTH) for n in "kv"}
    if not doubled:
        inner["gate_proj.weight"] = (heads if by_head else heads * dim, WIDTH)

    def mixer(t, x):
        n = len(x)
        q, gate = (x @ t["q_proj.weight"].T).reshape(n, heads, -1), None
        if doubled:
            q, gate = q[..., :dim], q[..., dim:]
        else:
            gate = (x @ t["gate_proj.weight"].T).reshape(n, heads, -1)
        k, v = (np.repeat((x @ t[f"{p}_proj.weight"].T).reshape(n, shared, dim), heads // shared, 1) for p in "kv")
        angles = np.arange(n)[:, None, None] / np.arange(1, 1 + dim // 2)

        def turn(p):
            a, b = p[..., : dim // 2], p[..., dim // 2 :]
            return np.concatenate(
                [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1
            )

        scores = softmax(np.einsum("nhd,mhd->hnm", turn(q), turn(k)))
        y = np.einsum("hnm,mhd->nhd", scores, v) * sigmoid(gate)
        return y.reshape(n, -1) @ t["o_proj.weight"].T

    return model(
        inner, {"num_attention_heads": heads, "num_key_value_heads": shared}, mixer, "model.layers.0.self_attn"
    )


def stacked_experts(groups, experts=6, hidden=10):
    """Experts of which the best two are taken, of the better half of the routing groups where there are any."""
    inner = {"gate.weight": (experts, WIDTH), "experts.gate_up_proj": (experts, 2 * hidden, WIDTH)}
    inner["experts.down_proj"] = (experts, WIDTH, hidden)
    if groups > 1:
        inner["gate.e_score_correction_bias"] = (experts,)

    def mixer(t, x):
        scores = sigmoid(x @ t["gate.weight"].T) + sigmoid(t.get("gate.e_score_correction_bias", np.zeros(experts)))
        by_group = scores.reshape(len(x), groups, -1)
        best = by_group.max(-1) >= np.sort(by_group.max(-1), 1)[:, -max(groups // 2, 1)][:, None]
        scores = (by_group * best[:, :, None]).reshape(len(x), -1)
        scores = scores * (scores >= np.sort(scores, 1)[:, -2:-1])
        up = np.einsum("eoi,ni->neo", t["experts.gate_up_proj"], x)
        y = silu(up[..., :hidden]) * up[..., hidden:]
        return np.einsum("ne,eoh,neh->no", scores, t["experts.down_proj"], y)

    return model(inner, {"n_group": groups}, mixer, "model.layers.0.moe")


def head_axes(heads=4, dim=5):
    """Flax's attention: kernels with an axis for heads and one for their entries."""
    inner = {f"{n}.kernel": (WIDTH, heads, dim) for n in ("query", "key", "value")}
    inner |= {f"{n}.bias": (heads, dim) for n in ("query", "key", "value")} | {"out.kernel": (heads, dim, WIDTH)}

    def mixer(t, x):
        q, k, v = (np.einsum("nw,whd->nhd", x, t[f"{p}.kernel"]) + t[f"{p}.bias"] for p in ("query", "key", "value"))
        scores = softmax(np.einsum("nhd,mhd->hnm", q, k))
        return np.einsum("hnm,mhd,hdw->nw", scores, v, t["out.kernel"])

    return model(inner, {}, mixer, "model.layers.0.MultiHeadDotProductAttention_0")


def distance_codes(heads=4, dim=6):
    """Attention of conformers: a layer reads sines of distances, and two biases of heads are added to queries."""
    inner = {f"linear_{n}.weight": (heads * dim, WIDTH) for n in ("q", "k", "v", "pos")}
    inner |= {f"pos_bias_{n}": (heads, dim) for n in "uv"} | {"linear_out.weight": (WIDTH, heads * dim)}

    def mixer(t, x):
        n = len(x)
        distances = np.sin(np.arange(-n, n)[:, None] / np.arange(1, 1 + WIDTH))
        q, k, v = ((x @ t[f"linear_{p}.weight"].T).reshape(n, heads, dim) for p in "qkv")
        codes = (distances @ t["linear_pos.weight"].T).reshape(2 * n, heads, dim)[
            np.arange(n)[:, None] - np.arange(n) + n
        ]
        scores = np.einsum("nhd,mhd->hnm", q + t["pos_bias_u"], k) + np.einsum(
            "nhd,nmhd->hnm", q + t["pos_bias_v"], codes
        )
        return np.einsum("hnm,mhd->nhd", softmax(scores), v).reshape(n, -1) @ t["linear_out.weight"].T

    return model(inner, {"num_attention_heads": heads}, mixer, "model.layers.0.self_attn")


def twin_projections(heads=4, dim=6):
    """Attention of Longformer: the first token's query has a projection of its own."""
    inner = {f"{n}_proj.weight": (heads * dim, WIDTH) for n in "qkv"} | {"o_proj.weight": (WIDTH, heads * dim)}
    inner["query_global.weight"] = (heads * dim, WIDTH)

    def mixer(t, x):
        q = x @ t["q_proj.weight"].T
        q[0] = x[0] @ t["query_global.weight"].T
        q, k, v = (p.reshape(len(x), heads, dim) for p in (q, x @ t["k_proj.weight"].T, x @ t["v_proj.weight"].T))
        scores = softmax(np.einsum("nhd,mhd->hnm", q, k))
        return np.einsum("hnm,mhd->nhd", scores, v).reshape(len(x), -1) @ t["o_proj.weight"].T

    return model(inner, {"num_attention_heads": heads}, mixer, "model.layers.0.self_attn")


def position_convolution(groups=3):
    """A grouped convolution over the sequence whose result is added to the stream (wav2vec 2.0)."""
    inner = {"conv.weight": (WIDTH, WIDTH // groups, 3), "conv.bias": (WIDTH,)}

    def mixer(t, x):
        padded = np.concatenate([np.zeros((2, WIDTH)), x]).reshape(-1, groups, WIDTH // groups)
        taps = t["conv.weight"].reshape(groups, WIDTH // groups, WIDTH // groups, 3)
        y = np.sum([np.einsum("ngi,goi->ngo", padded[i : i + len(x)], taps[..., i]) for i in range(3)], axis=0)
        return silu(y.reshape(len(x), -1) + t["conv.bias"])

    return model(inner, {}, mixer, "model.layers.0.pos_conv_embed")


NETWORKS = {
    "mamba2": mamba2(1),
    "mamba2-groups": mamba2(2),
    "delta-blocks": delta_net(True),
    "delta": delta_net(False),
    "kimi": kimi(),
    "short-convolution": short_convolution(),
    "conformer": conformer(),
    "unlike-attention": unlike_attention(),
    "gate-by-head": gated_attention(True),
    "gate-by-unit": gated_attention(False),
    "gate-in-queries": gated_attention(False, doubled=True),
    "head-axes": head_axes(),
    "distance-codes": distance_codes(),
    "twin-projections": twin_projections(),
    "position-convolution": position_convolution(),
    "experts": stacked_experts(1),
    "experts-in-groups": stacked_experts(2),
}

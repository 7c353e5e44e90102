"""Samples of weights that are packed in words, as in `experiments.proofs.samples`."""

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from experiments.proofs import torch_files
from experiments.proofs.samples import registrar, write

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


def packed_words(codes, bits):
    """Codes along the last axis as words of 32 bits, the lowest bits first."""
    split = codes.astype(np.int64).reshape(*codes.shape[:-1], -1, 32 // bits)
    words = np.sum([split[..., i] << bits * i for i in range(32 // bits)], axis=0)
    return words.astype(np.uint32).view(np.int32)


def packed_tensors():
    """Weights in the layouts of packed_weights, by convention, and the numbers that they stand for."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, (2, 8)).astype(np.float16)  # [groups, outputs]
    codes, zero = rng.integers(0, 16, (16, 8)), rng.integers(1, 16, (2, 8))  # codes [inputs, outputs]
    group = np.arange(16) // 8
    order = rng.permutation(group)
    awq = [0, 2, 4, 6, 1, 3, 5, 7]
    nf4 = np.linspace(-1, 1, 16, dtype=np.float32)
    flat = rng.integers(0, 16, 6 * 5)
    absmax = rng.uniform(1, 2, 4).astype(np.float32)
    state = json.dumps({"quant_type": "nf4", "blocksize": 8, "dtype": "float16", "shape": [6, 5]}).encode()
    nested_state = {**json.loads(state), "nested_blocksize": 2, "nested_offset": 0.5}
    blocks, powers = rng.integers(0, 256, (2, 3, 2, 16)), rng.integers(120, 130, (2, 3, 2))
    small = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    paired = np.stack([blocks & 15, blocks >> 4], -1).reshape(2, 3, 2, 32)

    def grouped(zeros, groups):
        return ((codes - zeros[groups]) * scale.astype(np.float32)[groups]).T

    def bitsandbytes(described, **parts):
        described = np.frombuffer(described, np.uint8)
        tensors = {"w.weight": ((flat[::2] << 4) | flat[1::2]).astype(np.uint8)[:, None], "w.weight.quant_map": nf4}
        tensors |= {f"w.weight.{name}": array for name, array in parts.items()}
        return tensors | {"w.weight.quant_state.bitsandbytes__nf4": described}

    gptq = {"w.qweight": packed_words(codes.T, 4).T.copy(), "w.scales": scale}
    gptq |= {"w.qzeros": packed_words(zero - 1, 4), "w.g_idx": order.astype(np.int32)}
    compressed = {"w.weight_packed": packed_words(codes.T, 4), "w.weight_scale": scale.T.copy()}
    compressed |= {"w.weight_shape": np.array([8, 16]), "w.weight_zero_point": packed_words(zero, 4).T.copy()}
    packed_awq = {"w.qweight": packed_words(codes[:, awq], 4), "w.qzeros": packed_words(zero[:, awq], 4)}
    symmetric = {name: array for name, array in compressed.items() if "zero" not in name}
    inner = np.array([3, 250, 0, 17], np.uint8)
    nested = {"absmax": inner, "nested_absmax": absmax[:2], "nested_quant_map": np.arange(256, dtype=np.float32)}
    scales = inner * np.repeat(absmax[:2], 2) + 0.5
    experts = (small[paired] * np.exp2(powers - 127.0)[..., None]).reshape(2, 3, 64).transpose(0, 2, 1)
    reordered = compressed | {"w.weight_g_idx": order.astype(np.int32)}
    pairs = rng.integers(0, 16, (4, 64))
    values, low_first = small[pairs], (pairs[:, ::2] | pairs[:, 1::2] << 4).astype(np.uint8)
    fine, coarse = rng.uniform(0.5, 2, (4, 4)).astype(ml_dtypes.float8_e4m3fn), rng.integers(120, 130, (4, 2))
    nvfp4 = {"w.weight_packed": low_first, "w.weight_scale": fine, "w.weight_global_scale": np.array([2.0], np.float32)}
    modelopt = {"w.weight": low_first, "w.weight_scale": fine, "w.weight_scale_2": np.array(2.0, np.float32)}
    fine = fine.astype(np.float32)
    mlx_float = {"w.weight": packed_words(pairs, 4).view(np.uint32), "w.scales": coarse.astype(np.uint8)}
    eight = rng.standard_normal((4, 64)).astype(ml_dtypes.float8_e4m3fn)
    mlx_byte = {"w.weight": eight.view(np.uint32), "w.scales": coarse.astype(np.uint8)}
    three, steps, lows = rng.integers(0, 8, (4, 64)), *rng.standard_normal((2, 4, 2)).astype(np.float32)
    single = (three[..., None] >> np.arange(3) & 1).reshape(4, -1).astype(np.uint8)
    words = np.packbits(single, axis=1, bitorder="little").view(np.uint32)
    mlx = {"w.weight": words, "w.scales": steps, "w.biases": lows}
    signed = rng.integers(-127, 128, (8, 16)).astype(np.int8)
    subclass = {
        "w.weight.qdata": signed,
        "w.weight.scale": scale.T.copy(),
        "w.weight.zero_point": np.ones((8, 2), np.int8),
    }
    return {
        "gptq": (gptq, "w.weight", grouped(zero, order)),
        "gptq without an order": ({k: v for k, v in gptq.items() if "idx" not in k}, "w.weight", grouped(zero, group)),
        "awq": (packed_awq | {"w.scales": scale}, "w.weight", grouped(zero, group)),
        "compressed": (compressed, "w.weight", grouped(zero, group)),
        "compressed, symmetric": (symmetric, "w.weight", grouped(np.full((2, 8), 8), group)),
        "nf4": (bitsandbytes(state, absmax=absmax), "w.weight", (nf4[flat] * absmax.repeat(8)[:30]).reshape(6, 5)),
        "nf4, nested": (
            bitsandbytes(json.dumps(nested_state).encode(), **nested),
            "w.weight",
            (nf4[flat] * scales.repeat(8)[:30]).reshape(6, 5),
        ),
        "compressed, reordered": (reordered, "w.weight", grouped(zero, order)),
        "nvfp4": (nvfp4, "w.weight", values * fine.repeat(16, 1) / 2),
        "nvfp4 of NVIDIA": (modelopt, "w.weight", values * fine.repeat(16, 1) * 2),
        "mlx": (mlx, "w.weight", three * steps.repeat(32, 1) + lows.repeat(32, 1)),
        "mlx, mxfp4": (mlx_float, "w.weight", values * np.exp2(coarse - 127.0).repeat(32, 1)),
        "mlx, mxfp8": (mlx_byte, "w.weight", eight.astype(np.float32) * np.exp2(coarse - 127.0).repeat(32, 1)),
        "torchao": (subclass, "w.weight", (signed - 1.0) * scale.T.astype(np.float32).repeat(8, 1)),
        "mxfp4": (
            {"w_blocks": blocks.astype(np.uint8), "w_scales": powers.astype(np.uint8)},
            "w",
            experts,
        ),
    }


@sample("safetensors-packed")
def packed_file(folder):
    tensors = {f"{i}.{n}": a for i, (parts, _, _) in enumerate(packed_tensors().values()) for n, a in parts.items()}
    return write(folder / "model.safetensors", safetensors.numpy.save(tensors))


@sample("pytorch-subclass")
def subclass_file(folder):
    """A weight that is an object of several tensors, of a class that is not known here."""
    name = torch_files.Name
    codes, scale = np.arange(-6, 6, dtype=np.int8).reshape(4, 3), np.full((4, 1), 0.5, np.float32)
    arrays = {"qdata": codes, "scale": scale, "b": np.ones(4, np.float32)}
    tensors = {key: torch_files.tensor(array, i) for i, (key, array) in enumerate(arrays.items())}
    kind, bias = name("torchao.quantization", "Int8Tensor"), tensors.pop("b")
    arguments = (kind, name("torch", "float32"), (4, 3), (3, 1), 0, None, None, False)
    rebuild = (name("torch._utils", "_rebuild_wrapper_subclass"), kind, arguments, {**tensors, "block_size": [1, 3]})
    weight = torch_files.Call(name("torch._tensor", "_rebuild_from_type_v2"), rebuild)
    storages = [tensor.arguments[0] for tensor in (*tensors.values(), bias)]
    value = torch_files.ordered({"l.weight": weight, "l.bias": bias})
    return write(folder / "model.pt", torch_files.zip_bytes(value, storages))

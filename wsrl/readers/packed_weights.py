"""Weights of several codes a word, with scales a group, as quantized PyTorch models keep them.

    layer.qweight, qzeros, scales, g_idx        GPTQ (Frantar et al. 2022), as AutoGPTQ lays it out
    layer.qweight, qzeros, scales               AWQ (Lin et al. 2023), version "gemm"
    layer.weight_packed, weight_scale, weight_shape, weight_zero_point      compressed-tensors, "pack-quantized"
    layer.weight, weight.absmax, weight.quant_map, weight.quant_state.*     bitsandbytes, NF4 and FP4 (QLoRA)
    name.qdata, name.scale, name.zero_point     tensor subclasses of torchao; older ones keep `tensor_impl.int_data`

packed_floats and packed_mlx have those of short floating point and of MLX.
Codes lie lowest bits first but for bitsandbytes and AWQ, which has an order of its own.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from wsrl.checkpoint import LazyTensor
from wsrl.readers import packed_floats, packed_mlx
from wsrl.readers.affine import affine
from wsrl.readers.derived import expanded, reshaped, transposed

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word the codes of neighbors lie
STATE = ".quant_state.bitsandbytes__"
BROKEN = (ValueError, IndexError, KeyError, TypeError, StopIteration, ZeroDivisionError, OverflowError, RecursionError)
SUBCLASSES = (".qdata", ".tensor_impl.int_data", ".tensor_impl.float8_data")
STATE_LIMIT = 4096  # bytes of the JSON that describes a tensor

Tensors = Mapping[str, LazyTensor]


def unpack_words(tensors: Tensors, config: object) -> dict[str, LazyTensor]:
    """Replaces packed weights and what belongs to them by the weights, which are computed when rows are read.

    Args:
      tensors: of any numeric type; packed ones that do not fit together stay as they are.
      config: the model's `config.json`, or None.

    Returns:
      The others and the weights, each at the place of what it was packed in; `layer.qweight` gives `layer.weight`.
    """
    told = config if isinstance(config, Mapping) else {}
    quantization = told.get("quantization_config", told.get("quantization"))  # MLX calls it by the latter
    settings = quantization if isinstance(quantization, Mapping) else {}
    result, used = {}, set()
    for name, tensor in tensors.items():
        for convention in CONVENTIONS:
            try:
                found = convention(name, tensors, settings)
            except BROKEN:  # what is there is not what it is called
                found = None
            if found is not None:
                target, weight, parts = found
                if target not in tensors or target in parts:
                    result[target] = replace(weight, name=target, path=tensor.path)
                    used |= set(parts) - {target}
                break
        else:
            result.setdefault(name, tensor)
    return {name: tensor for name, tensor in result.items() if name not in used}


Found = tuple[str, LazyTensor, tuple[str, ...]]  # the weight's name, the weight, names of what it is made of


def _grouped(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    if not name.endswith("qweight"):
        return None
    layer = name.removesuffix("qweight")
    stored, zeros, scales = (tensors[layer + part] for part in ("qweight", "qzeros", "scales"))
    order = tensors.get(f"{layer}g_idx")
    groups, outputs = scales.shape
    bits = 32 * zeros.shape[1] // outputs
    if bits not in (2, 4, 8) or {stored.dtype, zeros.dtype} - {"int32", "uint32"}:
        return None
    if stored.ndim != 2 or zeros.ndim != 2 or zeros.shape[0] != groups or groups < 1:
        return None
    parts = tuple(n for n in (name, f"{layer}qzeros", f"{layer}scales", f"{layer}g_idx") if n in tensors)
    if stored.shape[1] == outputs:
        inputs = stored.shape[0] * 32 // bits
        codes = expanded(transposed(stored, (1, 0)), bits, inputs)
        zero, less = expanded(zeros, bits, outputs), int(settings.get("checkpoint_format") != "gptq_v2")
    elif bits == 4:
        inputs = stored.shape[0]
        codes = transposed(expanded(stored, bits, outputs, AWQ_ORDER), (1, 0))
        zero, less = expanded(zeros, bits, outputs, AWQ_ORDER), 0
    else:
        return None
    group = np.arange(inputs) // -(-inputs // groups)
    if order is not None:
        group = order.read_rows(0, order.num_rows)
        if group.dtype.kind not in "iu" or group.shape != (inputs,) or not 0 <= group.min() <= group.max() < groups:
            return None

    def rows(start: int, stop: int) -> np.ndarray:
        values = codes.read_rows(start, stop).astype(np.float32)
        columns = slice(start, start + len(values))
        values -= (np.asarray(zero) + less)[:, columns].T[:, group]
        values *= np.asarray(scales)[:, columns].T[:, group]
        return values

    return f"{layer}weight", replace(codes, dtype=f"q{codes.dtype}", read_rows=rows), parts


def _compressed(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    if not name.endswith("weight_packed"):
        return None
    layer = name.removesuffix("_packed")
    stored, scales = tensors[name], tensors[f"{layer}_scale"]
    shape = tuple(tensors[f"{layer}_shape"].read_rows(0, 2).tolist())
    zeros = tensors.get(f"{layer}_zero_point")
    if {stored.dtype, zeros.dtype if zeros else "int32"} != {"int32"} or len(shape) != 2 or stored.ndim != 2:
        return None
    if scales.ndim != 2 or stored.shape[0] != shape[0] or scales.shape[0] != shape[0]:
        return None
    bits = next(bits for bits in (2, 4, 8) if stored.shape[1] == -(-shape[1] * bits // 32))
    codes = expanded(stored, bits, shape[1])
    zero = np.full((1, 1), 1 << bits - 1)
    if zeros is not None:  # packed along the rows
        zero = transposed(expanded(transposed(zeros, (1, 0)), bits, shape[0]), (1, 0))
    block = -(-shape[1] // scales.shape[1])
    parts = tuple(
        n for n in (name, *(f"{layer}_{p}" for p in ("scale", "shape", "zero_point", "g_idx"))) if n in tensors
    )
    if f"{layer}_g_idx" in parts:
        return layer, _in_order(codes, scales, zero, tensors[f"{layer}_g_idx"]), parts
    return layer, affine(codes, scales, zero, stored.path, (1, block)), parts


def _in_order(codes: LazyTensor, scales: LazyTensor, zero: LazyTensor | np.ndarray, order: LazyTensor) -> LazyTensor:
    """Codes whose inputs were quantized in another order: each input has the number of its group."""
    group = order.read_rows(0, order.num_rows)
    fits = group.dtype.kind in "iu" and group.shape == codes.shape[1:]
    if not fits or not 0 <= group.min(initial=0) <= group.max(initial=0) < scales.shape[1]:
        raise ValueError("groups that do not exist")
    if isinstance(zero, LazyTensor) and zero.shape != scales.shape:
        raise ValueError("zero points of other groups than the scales")

    def rows(start: int, stop: int) -> np.ndarray:
        zeros = zero if isinstance(zero, np.ndarray) else np.asarray(zero.rows(start, stop))[:, group]
        values = codes.read_rows(start, stop).astype(np.float32) - zeros
        return values * np.asarray(scales.read_rows(start, stop), np.float32)[:, group]

    return replace(codes, dtype=f"q{codes.dtype}", read_rows=rows)


def _subclass(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    """A weight that torchao keeps as an object of several tensors."""
    end = next((end for end in SUBCLASSES if name.endswith(end)), None)
    if end is None:
        return None
    prefix = name.rpartition(".")[0]
    parts = [n for n in (name, f"{prefix}.scale", f"{prefix}.zero_point") if n in tensors]
    stored, scale, zero = tensors[name], tensors[f"{prefix}.scale"], tensors.get(f"{prefix}.zero_point")
    if stored.dtype not in ("int8", "uint8", "float8_e4m3fn", "float8_e5m2"):
        return None
    if scale.ndim == 1 and stored.ndim > 1:  # a scale a row
        wide = (*scale.shape, *(1,) * (stored.ndim - 1))
        scale, zero = reshaped(scale, wide), zero and reshaped(zero, wide)
    if any(not m or n % m for n, m in zip(stored.shape, scale.shape, strict=True)):
        return None
    blocks = [n // m for n, m in zip(stored.shape, scale.shape, strict=True)]
    return name.removesuffix(end), affine(stored, scale, zero, stored.path, blocks), tuple(parts)


def _bitsandbytes(name: str, tensors: Tensors, settings: Mapping) -> Found | None:
    state_name = next((f"{name}{STATE}{kind}" for kind in ("nf4", "fp4") if f"{name}{STATE}{kind}" in tensors), None)
    if state_name is None or tensors[state_name].size > STATE_LIMIT:
        return None
    stored, absmax, codebook = tensors[name], tensors[f"{name}.absmax"], np.asarray(tensors[f"{name}.quant_map"])
    state = json.loads(tensors[state_name].read_rows(0, STATE_LIMIT).astype(np.uint8).tobytes())
    shape, block = tuple(int(n) for n in state["shape"]), int(state["blocksize"])
    nested = f"{name}.nested_absmax" in tensors
    nested_block, nested_offset = int(state.get("nested_blocksize", 1)), float(state.get("nested_offset", 0))
    if codebook.shape != (16,) or block < 1 or min(shape, default=0) < 1 or nested != ("nested_blocksize" in state):
        return None
    inner_scales = [tensors[f"{name}.nested_{part}"] for part in ("absmax", "quant_map")] if nested else []
    if any(part.ndim != 1 for part in inner_scales):
        return None
    count = -(-prod(shape) // block)
    if absmax.shape != (count,) or (nested and (absmax.dtype != "uint8" or inner_scales[1].shape != (256,))):
        return None
    if nested and (nested_block < 1 or inner_scales[0].size < -(-count // nested_block)):
        return None
    packed = _bytes(stored)
    codes = expanded(packed, 4, 2, (1, 0))

    def scales(first: int, last: int) -> np.ndarray:
        values = absmax.read_rows(first, last)
        if not nested:
            return np.asarray(values, np.float32)
        outer, codes_of_scales = (np.asarray(part) for part in inner_scales)
        return codes_of_scales[values] * outer[np.arange(first, last) // nested_block] + nested_offset

    inner = prod(shape[1:])
    width = stored.read_rows(0, 1).dtype.itemsize
    if not 0 <= codes.size - prod(shape) < 2 * width:
        return None

    def rows(start: int, stop: int) -> np.ndarray:
        start, stop, _ = slice(start, stop).indices(shape[0])
        first, last = start * inner, max(start, stop) * inner
        flat = codes.read_rows(first // 2, -(-last // 2)).reshape(-1)[first % 2 :][: last - first]
        places = np.arange(first, last) // block
        begin = first // block
        values = codebook[flat] * scales(begin, -(-last // block))[places - begin]
        return values.reshape(max(start, stop) - start, *shape[1:])

    ends = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
    parts = (name, state_name, *(name + end for end in ends if name + end in tensors))
    return name, LazyTensor(shape, "qfloat4", rows, stored.path, name), parts


def _bytes(tensor: LazyTensor) -> LazyTensor:
    """The bytes of a tensor as [bytes, 1]; transformers may store them as numbers of another type."""
    if tensor.dtype == "uint8":
        return reshaped(tensor, (tensor.size, 1))
    flat = reshaped(tensor, (tensor.size, 1))
    size = flat.read_rows(0, 1).dtype.itemsize
    narrow = replace(
        flat, shape=(tensor.size, size), dtype="uint8", read_rows=lambda a, b: flat.read_rows(a, b).view("u1")
    )
    return reshaped(narrow, (tensor.size * size, 1))


CONVENTIONS: tuple[Callable[[str, Tensors, Mapping], Found | None], ...] = (
    _grouped,
    _compressed,
    _bitsandbytes,
    packed_floats.experts,
    packed_floats.two_a_byte,
    packed_floats.eight_a_word,
    packed_mlx.affine_words,
    _subclass,
)

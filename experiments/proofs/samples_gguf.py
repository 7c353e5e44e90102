"""Samples of GGUF, as in `experiments.proofs.samples`."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from experiments.proofs.samples import registrar

SAMPLES: dict[str, Callable[[Path], Path]] = {}

sample = registrar(SAMPLES)


GGUF_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # those that the gguf package can write


@sample("gguf")
def gguf_file(folder):
    """A tensor of every simple type, and of one type of blocks with scales of scales."""
    rng = np.random.default_rng(0)
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list([f"token {i}" for i in range(2000)])
    writer.add_array("rope.sections", [1, 2, 3])
    matrix = rng.standard_normal((3, 64)).astype(np.float32)
    writer.add_tensor("plain.weight", matrix)
    writer.add_tensor("half.weight", matrix.astype(np.float16))
    writer.add_tensor("norm.weight", matrix[0])
    for name in GGUF_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    kind = gguf.GGMLQuantizationType.Q4_K
    blocks = rng.integers(0, 60, (2, 144)).astype(np.uint8)  # small exponents: finite scales
    writer.add_tensor("Q4_K.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""Writes valid checkpoints of random names and shapes and sees to it that whoever reads them ends as they should.

    python -m experiments.proofs.valid_files --files=2000 --seed=0

Half of the files are state_dicts of small networks with a few changes, half are tensors that nothing holds together.
Each is inspected, embedded and searched for. A failure is an exception other than CheckpointError, also one that was
turned into a CheckpointError because nobody thought of it. The file is kept, and the exit status is 1.
"""

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import flax.serialization
import ml_dtypes
import numpy as np
import safetensors.numpy
from tqdm import tqdm

import wsrl
from experiments.proofs import torch_files
from experiments.proofs.samples_keras import layers
from experiments.proofs.samples_packed import packed_tensors
from wsrl.checkpoint import CheckpointError
from wsrl.cli.table import print_table
from wsrl.readers import open_checkpoint
from wsrl.wiring.infer_wiring import infer_wiring

Arrays = dict[str, np.ndarray]

DTYPES = ("float32", "float32", "float32", "float16", "float64", "bfloat16", "float8_e4m3fn", "int8", "uint8")
INTEGERS = ("int32", "int64", "uint32", "bool")
LENGTHS = (0, 1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 64, 100)
MODULES = (
    *("fc", "conv1", "norm", "bn1", "embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "in_proj"),
    *("gate_proj", "up_proj", "down_proj", "lm_head", "ln_1", "c_attn", "lstm", "rnn", "experts", "router", "0", "1"),
    *(
        "lora_A",
        "lora_B",
        "downsample",
        "classifier",
        "kernel",
        "weight",
        "é",
        "a b",
        "-1",
        "1e3",
        "None",
        "",
        "x" * 99,
    ),
)
PREFIXES = ("", "model", "layers", "encoder.block", "module", "h", "blocks", "stages.0", "backbone", "base_model.model")
ENDS = (
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight_ih_l0", "weight_hh_l0", "kernel"),
    *("gamma", "moving_mean", "qweight", "qzeros", "scales", "biases", "g_idx", "weight_scale", "weight_packed"),
    *("weight_g", "weight_v", "weight_orig", "weight_mask", "parametrizations.weight.original0", "alpha", "A_log", "D"),
    *(
        "weight_scale_inv",
        "SCB",
        "absmax",
        "qdata",
        "scale",
        "zero_point",
        "class_token",
        "pos_embed",
        "in_proj_weight",
    ),
)
UNTHOUGHT = ("cannot be used (", "its wiring cannot be inferred (")  # how errors begin that nobody thought of


def networks() -> list[Arrays]:
    """State_dicts of small networks of common kinds."""
    rng = np.random.default_rng(0)

    def made(**shapes: tuple[int, ...]) -> Arrays:
        return {
            name.replace("__", "."): rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
        }

    block: dict[str, tuple[int, ...]] = {f"self_attn.{p}_proj.weight": (16, 16) for p in "qkvo"}
    block |= {"mlp.gate_proj.weight": (24, 16), "mlp.up_proj.weight": (24, 16), "mlp.down_proj.weight": (16, 24)}
    block |= {"input_layernorm.weight": (16,), "post_attention_layernorm.weight": (16,)}
    llama = made(**{f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in block.items()})
    llama |= made(**{"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,), "lm_head.weight": (32, 16)})
    norm = {"weight": (8,), "bias": (8,), "running_mean": (8,), "running_var": (8,)}
    residual = made(**{"conv1.weight": (8, 3, 3, 3), **{f"bn1.{name}": shape for name, shape in norm.items()}})
    for i in range(2):
        convs = {f"layer1.{i}.conv{j}.weight": (8, 8, 3, 3) for j in (1, 2)}
        norms = {f"layer1.{i}.bn{j}.{name}": shape for j in (1, 2) for name, shape in norm.items()}
        residual |= made(**convs, **norms)
    residual |= made(**{"fc.weight": (5, 8), "fc.bias": (5,)})
    lstm: dict[str, tuple[int, ...]] = {"weight_ih_l0": (32, 6), "weight_hh_l0": (32, 8), "bias_ih_l0": (32,)}
    recurrent = made(
        **{f"lstm.{name}": shape for name, shape in lstm.items()}, **{"fc.weight": (3, 8), "fc.bias": (3,)}
    )
    plain = made(**{"0.weight": (12, 10), "0.bias": (12,), "2.weight": (4, 12), "2.bias": (4,)})
    adapter = made(**{"a.lora_A.weight": (4, 16), "a.lora_B.weight": (24, 4), "a.alpha": ()})
    keras = {f"{layer}/{name}": array for layer, held in layers().items() for name, array in held.items()}
    packed = [dict(parts) for parts, _, _ in packed_tensors().values()]
    return [llama, residual, recurrent, plain, adapter, keras, *packed]


NETWORKS = networks()


def random_array(random: Random, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An array of any shape and type: of usual numbers, or all alike, huge or tiny."""
    if shape is None:
        rank = random.choice((0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 6))
        shape = tuple(random.choice(LENGTHS[: 13 if rank < 3 else 6]) for _ in range(rank))
    rng = np.random.default_rng(random.getrandbits(32))
    kind = random.choice(DTYPES) if random.random() < 0.85 else random.choice(INTEGERS)
    factor = random.choice((1, 1, 1, 1, 0, 1e-30, 1e4))
    values = rng.standard_normal(shape) * factor if random.random() < 0.9 else np.full(shape, factor)
    if kind in INTEGERS or kind in ("int8", "uint8"):
        values = rng.integers(0, 2 if kind == "bool" else 100, shape)
    dtype = getattr(ml_dtypes, kind) if hasattr(ml_dtypes, kind) else kind
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype)


def random_name(random: Random) -> str:
    """A tensor's name, from the parts of which such names are made."""
    parts = [random.choice(PREFIXES), *(str(random.choice((0, 0, 1, 2, 10, 99))) for _ in range(random.randrange(2)))]
    parts += [random.choice(MODULES) for _ in range(random.choice((0, 1, 1, 2)))]
    return random.choice(("", "", "", "/")).join([".".join(p for p in (*parts, random.choice(ENDS)) if p)]) or "weight"


def changed(random: Random, arrays: Arrays) -> Arrays:
    """A state_dict with a few changes: parts left out, repeated, renamed, cut, turned, of another type."""
    result = dict(arrays)
    for _ in range(random.choice((0, 1, 1, 2, 4))):
        if not result:
            break
        name = random.choice(list(result))
        array = result[name]
        match random.randrange(8):
            case 0:
                del result[name]
            case 1:
                result[random_name(random)] = array
            case 2:
                result = {f"{random.choice(PREFIXES)}.{n}".strip("."): a for n, a in result.items()}
            case 3:
                result[name] = np.ascontiguousarray(array.T)
            case 4 if array.ndim:
                result[name] = array[: random.randrange(len(array) + 1)]
            case 5:
                result[name] = random_array(random, array.shape)
            case 6:
                result[name] = random_array(random)
            case _:
                result[name] = array.reshape(-1) if random.random() < 0.5 else array[None]
    return result


def random_tensors(random: Random) -> Arrays:
    """What a file holds: a changed network, or tensors at random, whose axes agree at times."""
    if random.random() < 0.5:
        return changed(random, random.choice(NETWORKS))
    lengths = random.sample(LENGTHS[3:], 2)
    result = {}
    for _ in range(random.choice((1, 1, 2, 3, 5, 8, 20))):
        shape = tuple(random.choice(lengths) for _ in range(random.choice((1, 2, 2, 3, 4))))
        shape = shape if np.prod(shape) < 1 << 16 else shape[:2]
        result[random_name(random)] = random_array(random, shape if random.random() < 0.7 else None)
    return result


def config(random: Random) -> dict[str, object]:
    """A `config.json` whose numbers need not fit."""
    keys = ("num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim", "num_hidden_layers", "rope_theta")
    kinds = ("llama", "bert", "gpt2", "vit", "t5", "resnet", "mamba", "net", "", None, 7)
    result: dict[str, object] = {"model_type": random.choice(kinds)}
    for key in random.sample(keys, random.randrange(len(keys))):
        result[key] = random.choice((0, 1, 2, 4, 16, -1, 3.5, None, "4", [2], True))
    settings = {"bits": random.choice((2, 4, 8)), "group_size": random.choice((8, 32, 64, -1, None))}
    return result | (
        {random.choice(("quantization", "quantization_config")): settings} if random.random() < 0.3 else {}
    )


def _safetensors(path: Path, arrays: Arrays) -> Path:
    whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    (file := path / "model.safetensors").write_bytes(safetensors.numpy.save(whole))
    return file


def _npz(path: Path, arrays: Arrays) -> Path:
    known = {name.replace("/", "|"): array for name, array in arrays.items() if array.dtype.kind in "fiub"}
    np.savez(path / "model.npz", **known)  # pyright: ignore[reportArgumentType]
    return path / "model.npz"


def _pytorch(path: Path, arrays: Arrays) -> Path:
    known = {name: array for name, array in arrays.items() if array.dtype.name in torch_files.KINDS}
    (file := path / "model.pt").write_bytes(torch_files.zip_bytes(*torch_files.state_dict(known)))
    return file


def _msgpack(path: Path, arrays: Arrays) -> Path:
    known = {name: array for name, array in arrays.items() if array.dtype.name in ("float32", "int8", "int64")}
    (file := path / "model.msgpack").write_bytes(flax.serialization.msgpack_serialize(known))
    return file


WRITERS: tuple[Callable[[Path, Arrays], Path], ...] = (_safetensors, _safetensors, _npz, _pytorch, _msgpack)


def write_file(random: Random, folder: Path) -> Path:
    """Writes a checkpoint into an empty folder, at times with a configuration beside it; returns its path."""
    path = random.choice(WRITERS)(folder, random_tensors(random))
    if random.random() < 0.4:
        (folder / "config.json").write_text(json.dumps(config(random)))
    return path


def attempt(path: Path, encoder: wsrl.Encoder, index: wsrl.Index) -> str | None:
    """Inspects a file, embeds it and searches for it; returns what it must not do, None if all went well."""
    try:
        checkpoint = open_checkpoint(path)
        wiring = infer_wiring(checkpoint)
        json.dumps(wiring.to_json())
        with contextlib.redirect_stdout(io.StringIO()):
            print_table(checkpoint, wiring, unfold=False)
    except CheckpointError as error:
        if failure := _unthought(error):
            return failure
    except Exception:
        return traceback.format_exc(limit=-3)
    try:
        for row in encoder.embed([str(path)]):
            if isinstance(row, CheckpointError) and (failure := _unthought(row)):
                return failure
            if not isinstance(row, CheckpointError) and not np.isfinite(row.weights).all():
                return "a vector that is not finite"
        index.search(str(path), k=2)
    except CheckpointError as error:
        return _unthought(error)
    except Exception:
        return traceback.format_exc(limit=-3)
    return None


def _unthought(error: CheckpointError) -> str | None:
    if "\n" in str(error) or error.reason.startswith(UNTHOUGHT):
        return "".join(traceback.format_exception(error, limit=-3))
    return None


def make_index(encoder: wsrl.Encoder, folder: Path) -> wsrl.Index:
    """An index of two small networks."""
    for i in range(2):
        (home := folder / "zoo" / str(i)).mkdir(parents=True)
        _safetensors(home, NETWORKS[i])
    return wsrl.Index.build(encoder, str(folder / "zoo"), str(folder / "zoo.index"))


def fuzz(files: int, seed: int, keep: Path) -> int:
    """Tries files in turn; keeps those that fail and returns how many did."""
    failures = 0
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings(action="error", category=RuntimeWarning):
        encoder = wsrl.load_encoder()
        index = make_index(encoder, Path(temporary))
        for number in tqdm(range(files), desc="files", unit="file", mininterval=1.0):
            folder = Path(temporary) / "file"
            folder.mkdir()
            path = write_file(Random(f"{seed} {number}"), folder)
            if failure := attempt(path, encoder, index):
                failures += 1
                kept = keep / f"{seed}-{number}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"{kept / path.name}: {failure}", file=sys.stderr)
            shutil.rmtree(folder)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Prints how many files failed; returns the exit status, 1 if any did."""
    parser = argparse.ArgumentParser(prog="python -m experiments.proofs.valid_files", description="Tries valid files.")
    parser.add_argument("--files", type=int, default=2000, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=0, help="decides on all files")
    parser.add_argument("--keep", type=Path, default=Path("valid-failures"), metavar="DIR", help="for failures")
    args = parser.parse_args(argv)
    failures = fuzz(args.files, args.seed, args.keep)
    print(f"{args.files} files, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

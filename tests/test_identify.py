import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from experiments.proofs.samples import perceptron_file
from wsrl.cli.main import main
from wsrl.encoder.checkpoint_encoder import load_encoder
from wsrl.origins.adapter_base import adapted_modules, find_bases
from wsrl.origins.identify import UNKNOWN, identify
from wsrl.origins.key_catalog import CATALOG, Entry, find_entry
from wsrl.readers import open_checkpoint
from wsrl.search.index import Index

WIDTH = 16
Tensors = dict[str, np.ndarray]


def llama(prefix: str = "model.", blocks: int = 2, gain: float = 1.0, width: int = WIDTH) -> Tensors:
    """A tiny network with the names of Llama."""
    rng = np.random.default_rng(0)
    own = {f"{prefix}embed_tokens.weight": (32, width), f"{prefix}norm.weight": (width,)}
    for block in range(blocks):
        stem = f"{prefix}layers.{block}."
        own |= {f"{stem}self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        own |= {f"{stem}mlp.{part}_proj.weight": (2 * width, width) for part in ("gate", "up")}
        own |= {f"{stem}mlp.down_proj.weight": (width, 2 * width), f"{stem}input_layernorm.weight": (width,)}
    drawn = {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in own.items()}
    return {n: t + np.float32(gain) if "norm" in n else t for n, t in drawn.items()}


def adapter(blocks: int = 2, rank: int = 4, width: int = WIDTH) -> Tensors:
    rng = np.random.default_rng(1)
    own = {}
    for block in range(blocks):
        stem = f"base_model.model.model.layers.{block}.self_attn.q_proj"
        own |= {f"{stem}.lora_A.weight": (rank, width), f"{stem}.lora_B.weight": (width, rank)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in own.items()}


def write(path: Path, tensors: Tensors, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path, metadata or None)
    return path


@pytest.mark.parametrize("prefix", ["model.", "", "module.language_model."])
def test_names_tell_the_architecture_and_its_size(tmp_path, prefix):
    found = identify(write(tmp_path / "x.safetensors", llama(prefix)))
    assert (found.architecture, found.library, found.size) == ("Llama", "transformers", "width 16, 2 blocks")
    assert found.content == "weights" and found.stored == ("float32", 32.0) and not found.widened


def test_the_more_special_entry_counts():
    names = list(llama())
    assert _found(names) == "Llama"
    assert _found([*names, "model.layers.0.self_attn.q_proj.bias"]) == "Qwen2"
    assert _found([*names, "model.layers.0.self_attn.q_norm.weight"]) == "Qwen3"
    assert _found([name for name in names if "embed" not in name]) == UNKNOWN


def _found(names: list[str]) -> str:
    entry = find_entry(names)
    return entry.name if entry else UNKNOWN


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: f"{entry.name} {entry.library}")
def test_each_entry_is_found_by_its_keys(entry: Entry):
    assert find_entry([f"prefix.{key}" for key in entry.keys]) == entry


@given(st.sampled_from(CATALOG), st.data())
def test_no_entry_is_found_without_one_of_its_keys(entry: Entry, data):
    left_out = data.draw(st.integers(0, len(entry.keys) - 1))
    assert find_entry([key for number, key in enumerate(entry.keys) if number != left_out]) != entry


def test_unknown_is_an_answer(tmp_path):
    perceptron_file(tmp_path / "mlp.safetensors", seed=0)
    found = identify(tmp_path / "mlp.safetensors")
    assert (found.architecture, found.library, found.size, found.candidates) == (UNKNOWN, UNKNOWN, "", ())


def test_deltas_widened_weights_averages_and_optimizer_states(tmp_path):
    assert identify(write(tmp_path / "delta.safetensors", llama(gain=0.0))).content == "delta"
    wide = {n: t.astype(ml_dtypes.bfloat16).astype(np.float32) for n, t in llama().items()}
    found = identify(write(tmp_path / "wide.safetensors", wide))
    assert found.widened and found.stored == ("float32", 16.0)
    averaged = llama() | {f"model_ema.{name}": tensor for name, tensor in llama().items()}
    assert identify(write(tmp_path / "ema.safetensors", averaged)).averaged
    assert not identify(write(tmp_path / "schema.safetensors", llama("schema."))).averaged
    state = {f"state.{i}.{n}": np.ones((4, 4), np.float32) for i in range(3) for n in ("exp_avg", "exp_avg_sq")}
    assert identify(write(tmp_path / "optimizer.safetensors", state)).content == "optimizer state"


def test_an_adapter_and_the_models_that_it_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("zoo/base.safetensors"), llama())
    write(Path("zoo/wider.safetensors"), llama(width=24))
    write(Path("zoo/flatter.safetensors"), llama(blocks=1))
    write(Path("zoo/renamed.safetensors"), {f"x{i}": t for i, t in enumerate(llama().values())})
    Index.build(load_encoder(), "zoo", "zoo.index")
    Path("lora").mkdir()
    write(Path("lora/adapter_model.safetensors"), adapter())
    Path("lora/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base", "r": 4}))
    found = identify("lora/adapter_model.safetensors", "zoo.index")
    assert found.content == "adapter" and [base.name for base in found.declared] == ["some/base"]
    assert [(own.id, own.named) for own in found.candidates] == [("zoo/base.safetensors", 2)]
    assert identify("lora/adapter_model.safetensors").candidates == ()
    wide = open_checkpoint(write(Path("wide.safetensors"), adapter(width=48))).tensors
    modules = adapted_modules(wide)  # pyright: ignore[reportArgumentType]
    assert set(modules.values()) == {(48, 48)} and find_bases(Path("zoo.index"), modules) == []


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("LoRA", {"lora_A.weight": (2, 16), "lora_B.weight": (24, 2)}),
        ("LoRA", {"lora_down.weight": (2, 16), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (24, 2)}),
        ("LoRA", {"lora_mid.weight": (2, 2, 3, 3)}),
        ("DoRA", {"lora_A.weight": (2, 16), "lora_B.weight": (24, 2), "lora_magnitude_vector": (24,)}),
        ("LoHa", {"hada_w1_a": (24, 2), "hada_w1_b": (2, 16), "hada_w2_a": (24, 2), "hada_w2_b": (2, 16)}),
        ("LoHa", {"hada_t1": (2, 2, 3, 3), "hada_w1_a": (2, 24), "hada_w1_b": (2, 16)}),
        ("LoKr", {"lokr_w1": (3, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4)}),
        ("LoKr", {"lokr_w1_a": (3, 1), "lokr_w1_b": (1, 4), "lokr_w2": (8, 4)}),
        ("IA3", {"ia3_l": (24, 1)}),
    ],
)
def test_kinds_of_adapters_are_named(tmp_path, capsys, kind, ends):
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{stem}.{end}": np.ones(shape, np.float32) for end, shape in ends.items()}
    path = write(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "hf.co/some/base"}))
    found = identify(path)
    assert (found.content, found.adapter) == ("adapter", kind) and [own.name for own in found.declared] == ["some/base"]
    known = adapted_modules(open_checkpoint(path).tensors)  # pyright: ignore[reportArgumentType]
    whole = kind != "IA3" and not ends.keys() & {"lora_mid.weight", "hada_t1"}
    assert known == ({"model.layers.0.self_attn.q_proj.weight": (24, 16)} if whole else known)
    assert main(["identify", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: {kind} adapter of unknown; ")


def test_the_command(tmp_path, capsys):
    write(tmp_path / "a.safetensors", llama())
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    assert main(["identify", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert line["architecture"] == "Llama" and line["dtype"] == "float32" and err.count("\n") == 1
    assert main(["identify", str(tmp_path / "a.safetensors"), "--index", str(tmp_path)]) == 1
    assert "is no index" in capsys.readouterr().err
    assert main(["identify", str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'a.safetensors'}: weights of Llama, width 16, 2 blocks; ")

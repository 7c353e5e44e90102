import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from local_hub import Hub, commit, environment, serving

from experiments.proofs.samples_huggingface import CARD, SAMPLES
from experiments.proofs.samples_keras import arrays
from wsrl.checkpoint import CheckpointError
from wsrl.readers import huggingface, open_checkpoint


def test_a_folder_of_the_hub(tmp_path):
    checkpoint = open_checkpoint(SAMPLES["huggingface"](tmp_path))
    assert checkpoint.tensors.keys() == arrays().keys()
    metadata = checkpoint.metadata
    assert metadata["weights"] == "model.safetensors" and metadata["other_weights"] == ("flax_model.msgpack",)
    assert metadata["config"]["num_attention_heads"] == 2
    assert metadata["card"] == {"license": "mit", "tags": ["vision", "tiny"]}
    assert (metadata["format"], metadata["weights_format"]) == ("Hugging Face", "safetensors")


def test_other_weights_are_told_where_nothing_says_that_they_are_the_same(tmp_path):
    folder = SAMPLES["huggingface"](tmp_path)
    assert open_checkpoint(folder).warnings == ()
    (folder / "config.json").unlink()
    assert open_checkpoint(folder).warnings == (
        "the folder holds other files of weights, which are not read: flax_model.msgpack",
    )


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "tf_model.h5"], "model.safetensors"),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["tf_model.h5", "pytorch_model.bin"], "pytorch_model.bin"),
        (["tf_model.h5", "flax_model.msgpack"], "flax_model.msgpack"),
        (["a-Q8_0.gguf", "a-F16.gguf"], "a-F16.gguf"),
        (["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"], "a-00001-of-00002.gguf"),
        (["training_args.bin", "adapter_model.safetensors", "optimizer.pt"], "adapter_model.safetensors"),
        (["model-00001-of-00002.safetensors", "README.md", "training_args.bin"], None),
    ],
)
def test_preference(names, chosen):
    assert next(iter(huggingface._choices(names)), None) == chosen


def test_an_adapter(tmp_path):
    safetensors.numpy.save_file(
        {"a.lora_A.weight": np.ones((2, 4), np.float32)}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.metadata["adapter_config"] == {"r": 2} and "config" not in checkpoint.metadata


BOMB = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)])


@pytest.mark.parametrize("front", [BOMB, "a: [", "- " * 5000, "a: !!python/object:os.system {}\n\ta", "\0"])
def test_a_card_that_cannot_be_read_is_told(tmp_path, front):
    path = SAMPLES["huggingface"](tmp_path)
    (path / "README.md").write_text(f"---\n{front}\n---\n")
    metadata = open_checkpoint(path).metadata
    assert "README.md" in metadata["warnings"][0] and "card" not in metadata


def test_no_code_of_a_card_runs(tmp_path):
    path = SAMPLES["huggingface"](tmp_path)
    (path / "README.md").write_text("---\na: !!python/object/apply:os.system ['exit 1']\n---\n")
    assert open_checkpoint(path).metadata["card"] == {"a": ["exit 1"]}
    for text in ("no front matter", "", "---\nnot closed"):
        (path / "README.md").write_text(text)
        assert open_checkpoint(path).metadata["card"] == {}


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)


@pytest.fixture
def hub(tmp_path):
    with serving({"me/tiny": SAMPLES["huggingface"](tmp_path)}) as address:
        yield address


def from_hub(uri, cache, endpoint, **variables):
    """Opens a model in another process: huggingface_hub reads its settings when it is imported."""
    code = f"""
from wsrl.checkpoint import CheckpointError
from wsrl.readers import open_checkpoint
try:
    checkpoint = open_checkpoint({uri!r})
    print(checkpoint.path, checkpoint.metadata["revision"], checkpoint.metadata["weights"], *sorted(checkpoint.tensors))
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(endpoint, cache, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_of_the_hub_and_its_cache(hub, tmp_path):
    told = f"hf://me/tiny {commit(Hub.models['me/tiny'])} model.safetensors {' '.join(sorted(arrays()))}"
    assert from_hub("hf://me/tiny", tmp_path / "cache", hub) == told
    fetched = {path.rpartition("/")[2] for path in Hub.requested if "/resolve/" in path}
    assert fetched == {"config.json", "README.md", "model.safetensors"}
    assert from_hub("hf://me/tiny", tmp_path / "cache", "http://127.0.0.1:9") == told  # nobody answers there
    assert from_hub("hf://me/tiny", tmp_path / "cache", hub, HF_HUB_OFFLINE="1") == told


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://me/missing", "is not on the hub, or private; check the name"),
        ("hf://me/gated", "is gated; ask for access"),
        ("hf://me/tiny@nothing", "has no revision 'nothing'; check"),
    ],
)
def test_refusals_of_the_hub(hub, tmp_path, uri, message):
    assert f"{uri}: {message}" in from_hub(uri, tmp_path / "cache", hub)


def test_no_way_to_the_hub(tmp_path):
    told = from_hub("hf://me/tiny", tmp_path, "http://127.0.0.1:9")
    assert told.startswith("hf://me/tiny: is not cached and cannot be downloaded") and "\n" not in told
    assert "HF_HUB_OFFLINE" in from_hub("hf://me/tiny", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "uri", ["hf://", "hf://a/b/c", "hf:///b", "hf://../b", "hf://a/..", "hf://a/b@", "hf://a/b@../../c"]
)
def test_addresses_that_are_none(uri):
    with pytest.raises(CheckpointError, match="is no address"):
        open_checkpoint(uri)


def test_files_to_download():
    def wanted(*names):
        return set(huggingface.wanted("hf://a/b", names)) - set(huggingface.BESIDE)

    assert "model-*-of-*.safetensors" in wanted("model.safetensors.index.json", "model-00001-of-00002.safetensors")
    assert "a-*-of-*.gguf" in wanted("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")
    assert "model.onnx[._]data*" in wanted("model.onnx", "model.onnx_data")
    assert wanted("_METADATA", "d/1", "manifest.ocdbt") == {"*"}
    with pytest.raises(CheckpointError, match="no file of weights"):
        wanted("README.md", "onnx/model.onnx")

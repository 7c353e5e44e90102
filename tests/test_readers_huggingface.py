import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy

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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: what a model is, its files, and their bytes."""

    folder = None
    requested: list[str]

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        path = self.path.partition("?")[0]
        self.requested.append(path)
        names = sorted(os.listdir(self.folder))
        model, _, rest = path.removeprefix("/api/models/").removeprefix("/").partition("/resolve/")
        if "gated" in path:
            self.send(401, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        elif not model.startswith("me/tiny"):
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif "nothing" in path:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        elif "/tree/" in path:
            entries = [self.entry(name) for name in names]
            self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, with_body)
        elif path.startswith("/api/"):
            files = [{"rfilename": name} for name in names]
            body = json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": files}).encode()
            self.send(200, body, {"Content-Type": "application/json"}, with_body)
        else:
            name = rest.partition("/")[2]
            body = (self.folder / name).read_bytes()
            headers = {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": COMMIT}
            self.send(200, body, headers, with_body)

    def entry(self, name):
        content = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send(self, status, body, headers, with_body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.folder, Hub.requested = SAMPLES["huggingface"](tmp_path), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


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
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_of_the_hub_and_its_cache(hub, tmp_path):
    told = f"hf://me/tiny {COMMIT} model.safetensors {' '.join(sorted(arrays()))}"
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
        return set(huggingface._wanted("hf://a/b", names)) - set(huggingface.BESIDE)

    assert "model-*-of-*.safetensors" in wanted("model.safetensors.index.json", "model-00001-of-00002.safetensors")
    assert "a-*-of-*.gguf" in wanted("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")
    assert "model.onnx[._]data*" in wanted("model.onnx", "model.onnx_data")
    assert wanted("_METADATA", "d/1", "manifest.ocdbt") == {"*"}
    with pytest.raises(CheckpointError, match="no file of weights"):
        wanted("README.md", "onnx/model.onnx")

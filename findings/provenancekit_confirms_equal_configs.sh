#!/usr/bin/env bash
# cisco-ai-provenance-kit 1.0.0: models with the same config.json are a "Confirmed Match" whatever their weights are.
#
# `provenancekit compare A B` reads the weights and computes a score of them, but where the architecture fields of both
# config.json agree it takes the score of these fields, 1.0, and its verdict is "Confirmed Match". So two networks of one
# architecture that were trained from scratch on other data count as derived from each other, and the score of the
# weights, which the JSON shows as `identity_score`, changes nothing. The README says so ("MFI Tier 1-2"), the verdict
# does not. Whoever asks where weights come from has to read that score alone for models of one architecture.
# Here both models are drawn at random from different seeds: they share no weight.
#
# Output seen on Linux x86-64 with Python 3.12:
#   provenancekit 1.0.0
#   two random models, same config.json: Confirmed Match, pipeline 1.0, weights 0.554
#   the second with another number of layers: Not Matched, pipeline 0.470, weights 0.470
#
# Exits 0 if this still is so, 1 if it is not. PYTHON names a Python of 3.12 or newer (python3 by default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cisco-ai-provenance-kit==1.0.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>"$folder/log" <<'END' || { cat "$folder/log"; exit 1; }
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, HIDDEN, WORDS = 64, 128, 96


def write(folder, seed, layers):
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (WORDS, WIDTH), "lm_head.weight": (WORDS, WIDTH)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkvo"}
        shapes |= {f"model.layers.{i}.mlp.{part}_proj.weight": (HIDDEN, WIDTH) for part in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (WIDTH, HIDDEN)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()}
    for i in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{norm}.weight"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    tensors["model.norm.weight"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "vocab_size": WORDS,
        "intermediate_size": HIDDEN, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 64,
    }
    vocabulary = {f"w{i}": i for i in range(WORDS)}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
    }
    folder = Path(folder)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def compared(a, b):
    program = Path(sys.executable).with_name("provenancekit")
    told = subprocess.run([program, "compare", a, b, "--json", "--no-cache"], stdout=subprocess.PIPE, check=True)
    scores = json.loads(told.stdout)["scores"]
    return scores["provenance_decision"], scores["pipeline_score"], scores["identity_score"]


write("a", 0, 3)
write("b", 1, 3)
write("c", 1, 5)
print(f"provenancekit {version('cisco-ai-provenance-kit')}")
same, other = compared("a", "b"), compared("a", "c")
print("two random models, same config.json: {}, pipeline {}, weights {:.3f}".format(*same))
print("the second with another number of layers: {}, pipeline {:.3f}, weights {:.3f}".format(*other))
holds = same[:2] == ("Confirmed Match", 1.0) and same[2] < 0.65 and other[0] == "Not Matched"
print("the behavior is as described" if holds else "THE BEHAVIOR HAS CHANGED")
sys.exit(not holds)
END

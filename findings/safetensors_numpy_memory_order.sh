#!/usr/bin/env bash
# safetensors 0.8.0 (NumPy 2.4.6): safetensors.numpy writes an array that does not lie row by row in other order.
#
# `save` and `save_file` write the memory of an array as it lies, and its shape beside it. Of a transposed array, or of
# one that NumPy made of transposed ones (np.concatenate keeps their order), the file holds other values at nearly every
# place. No warning, no error; the PyTorch side of the package refuses such tensors. np.ascontiguousarray before saving
# avoids it.
#
# Output seen on Linux x86-64 with Python 3.11:
#   safetensors 0.8.0
#   saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], read [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   concatenated transposes come back: False
#
# Exits 0 if this still is so, 1 if it is not. PYTHON names a Python of 3.11 or later (python3 by default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'END'
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load, save

given = np.arange(6, dtype=np.float32).reshape(2, 3).T
found = load(save({"a": given}))["a"]
joined = np.concatenate([given, given])
same = np.array_equal(load(save({"a": joined}))["a"], joined)
print("safetensors", version("safetensors"))
print(f"saved {given.tolist()}, read {found.tolist()}")
print(f"concatenated transposes come back: {same}")
changed = same or np.array_equal(found, given)
print("THE BEHAVIOR HAS CHANGED" if changed else "the behavior is as described")
sys.exit(changed)
END

#!/usr/bin/env bash
# ScaNN 1.4.2 (NumPy 2.4.6): search_batched fills hits that it does not have with index 0 and distance NaN.
#
# 16 vectors, a tree of 8 leaves of which 2 are searched, 10 neighbors asked for. `search` returns as many as lie in
# the searched leaves, fewer than 10. `search_batched` returns a rectangular array: the rest of a row is index 0,
# which is a vector of the data set like any other, and only its NaN distance tells. No warning, no error. Whoever
# uses the indices alone counts vector 0 as a neighbor of everything. The same happens where more neighbors are asked
# for than are reordered.
#
# Output seen on Linux x86-64 with Python 3.11 (counts differ a little between runs, since trees do):
#   scann 1.4.2
#   queries with fewer than 10 hits, by search: 16 of 16
#   rows of search_batched with index 0 more than once: 13 of 16
#   fillers: 39 entries, indices {0}, all NaN
#
# Exits 0 if this still is so, 1 if it is not. PYTHON names a Python of 3.9 to 3.13 (python3 by default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scann==1.4.2 numpy==2.4.6
"$folder/venv/bin/python" - 2>"$folder/log" <<'END' || { cat "$folder/log"; exit 1; }
import sys
from importlib.metadata import version

import numpy as np
from scann import scann_ops_pybind

vectors = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
builder = scann_ops_pybind.builder(vectors, 10, "dot_product")
searcher = builder.tree(num_leaves=8, num_leaves_to_search=2, training_sample_size=16).score_brute_force().build()
single = [len(searcher.search(query)[0]) for query in vectors]
indices, distances = searcher.search_batched(vectors)
fillers = np.isnan(distances)
repeated = (indices == 0).sum(1) > 1
print("scann", version("scann"))
print(f"queries with fewer than 10 hits, by search: {sum(count < 10 for count in single)} of {len(single)}")
print(f"rows of search_batched with index 0 more than once: {repeated.sum()} of {len(indices)}")
print(f"fillers: {fillers.sum()} entries, indices {set(indices[fillers].tolist())}, all NaN")
same = min(single) < 10 and repeated.any() and fillers.any() and set(indices[fillers].tolist()) == {0}
print("the behavior is as described" if same else "THE BEHAVIOR HAS CHANGED")
sys.exit(not same)
END

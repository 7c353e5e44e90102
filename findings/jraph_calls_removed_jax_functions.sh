#!/usr/bin/env bash
# jraph 0.0.6.dev0 (the latest) with JAX 0.10.2: two of its public functions call functions that JAX no longer has.
#
# jraph asks for any jax >= 0.1.55, so pip installs both without complaint and `import jraph` works; most functions do
# (here: pad_with_graphs, get_node_padding_mask, segment_softmax). zero_out_padding and get_fully_connected_graph raise
# AttributeError for every input, since jax.tree_map and jax.tree_leaves were removed in JAX 0.6.
# jax.tree_util.tree_map, or multiplying with jraph's padding masks, does what zero_out_padding is for.
#
# Output seen on Linux x86-64 with Python 3.11:
#   jraph 0.0.6.dev0, jax 0.10.2
#   pad_with_graphs, get_node_padding_mask, segment_softmax: work
#   zero_out_padding: AttributeError: module 'jax' has no attribute 'tree_map'
#   get_fully_connected_graph: AttributeError: module 'jax' has no attribute 'tree_leaves'
#
# Exits 0 if this still is so, 1 if it is not. PYTHON names a Python of 3.11 to 3.13 (python3 by default).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jraph==0.0.6.dev0 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'END'
import sys
from importlib.metadata import version

import jax.numpy as jnp
import jraph
import numpy as np

graph = jraph.GraphsTuple(
    nodes=np.ones((3, 2), np.float32), edges=np.ones((2, 1), np.float32), globals=np.ones((1, 1), np.float32),
    senders=np.array([0, 1]), receivers=np.array([1, 2]), n_node=np.array([3]), n_edge=np.array([2]),
)
print(f"jraph {version('jraph')}, jax {version('jax')}")
padded = jraph.pad_with_graphs(graph, 8, 8)
assert jraph.get_node_padding_mask(padded).sum() == 3
assert np.allclose(jraph.segment_softmax(jnp.zeros(4), jnp.array([0, 0, 1, 1]), 2), 0.5)
print("pad_with_graphs, get_node_padding_mask, segment_softmax: work")
calls = {
    "zero_out_padding": (lambda: jraph.zero_out_padding(padded), "tree_map"),
    "get_fully_connected_graph": (lambda: jraph.get_fully_connected_graph(3, 2, jnp.ones((6, 2))), "tree_leaves"),
}
same = True
for name, (call, missing) in calls.items():
    try:
        call()
        outcome = "works"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"{name}: {outcome}")
    same &= outcome == f"AttributeError: module 'jax' has no attribute '{missing}'"
print("the behavior is as described" if same else "THE BEHAVIOR HAS CHANGED")
sys.exit(not same)
END

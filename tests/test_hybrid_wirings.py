"""Linear attention, state spaces, gated convolutions, gates and experts: permuting what is claimed changes nothing."""

import numpy as np
import pytest
from hybrid_networks import NETWORKS, WORDS

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.wiring.permute import permuted

STREAM = "lm_head.weight"


def network(name, bare):
    shapes, config, outputs = NETWORKS[name]
    rng = np.random.default_rng(1)
    tensors = {
        n: (rng.standard_normal(s) / np.sqrt(s[-1] if len(s) > 1 else 1)).astype(np.float32) for n, s in shapes.items()
    }
    return Checkpoint("f", tensors, {} if bare else {"config": config}), outputs


@pytest.mark.parametrize("bare", [False, True], ids=["config", "bare"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_permutation_leaves_the_outputs_as_they_are(name, bare):
    checkpoint, outputs = network(name, bare)
    wiring = infer_wiring(checkpoint)
    words = np.random.default_rng(2).integers(WORDS, size=7)
    before, after = (outputs(t, words) for t in (checkpoint.tensors, permuted(checkpoint.tensors, wiring, 3)))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)
    (stream,) = wiring.axes[STREAM][1]
    assert wiring.groups[stream.group].permutable


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "unlike-attention"])
def test_every_matrix_is_claimed_on_both_sides(name):
    wiring = infer_wiring(network(name, bare=False)[0])
    for tensor, axes in wiring.axes.items():
        if tensor.endswith(("_proj.weight", ".kernel")) or "experts." in tensor:
            assert all(axis and all(s.group for s in axis) for axis in axes), tensor


def test_what_is_not_understood_is_left_in_order_and_named():
    wiring = infer_wiring(network("unlike-attention", bare=False)[0])
    assert any("model.layers.0.self_attn" in warning and "left in order" in warning for warning in wiring.warnings)
    rows = wiring.axes["model.layers.0.self_attn.q_proj.weight"]
    assert rows[0] is None and rows[1] is not None


def test_the_groups_of_a_state_space():
    def along(name, bare, tensor, axis=0):
        wiring = infer_wiring(network(name, bare)[0])
        return [(s.outer, s.size, s.inner) for s in wiring.axes[f"model.layers.0.mixer.{tensor}"][axis]]

    assert along("mamba2", False, "in_proj.weight") == [(1, 8, 6), (1, 8, 6), (1, 4, 1), (1, 4, 1), (1, 8, 1)]
    assert along("mamba2-groups", False, "in_proj.weight") == [(2, 4, 6), (2, 4, 6), (2, 4, 1), (2, 4, 1), (2, 4, 1)]
    assert along("mamba2-groups", True, "out_proj.weight", 1) == [(8, 6, 1)]  # how many groups, nothing tells


def wiring_of(shapes, **metadata):
    return infer_wiring(Checkpoint("f", {n: np.ones(s, np.float32) for n, s in shapes.items()}, metadata))


def test_gates_of_a_cell_that_is_written_out_are_left_in_order():
    shapes = {f"{gate}_gate.weight": (12, 7 + 12) for gate in ("input", "forget", "output")} | {"head.weight": (3, 12)}
    assert not any(group.permutable for group in wiring_of(shapes).groups.values())


def test_a_norm_that_meets_no_value_fixes_all_of_its_size():
    """As one of inputs for each layer, which a gate of that width multiplies (Gemma 3n)."""
    shapes, config, _ = NETWORKS["short-convolution"]
    gate = "model.layers.0.mlp.gate_proj.weight"
    assert wiring_of(shapes, config=config).axes[gate][0] is not None
    assert wiring_of(shapes | {"model.projection_norm.weight": (40,)}, config=config).axes[gate][0] is None


def test_queries_under_the_names_of_gpt2_may_be_turned_in_dense_layers():
    """GPT-2 stores [in, out]; networks of one's own under its names may have rotary embeddings beside the table."""
    shapes = {"transformer.wte.weight": (40, 16), "transformer.wpe.weight": (20, 16), "lm_head.weight": (40, 16)}
    shapes |= {"transformer.h.0.attn.c_attn.weight": (48, 16), "transformer.h.0.attn.c_proj.weight": (16, 16)}
    shapes |= {f"transformer.{n}.{f}": (16,) for n in ("h.0.ln_1", "ln_f") for f in ("weight", "bias")}
    assert wiring_of(shapes).axes["transformer.h.0.attn.c_attn.weight"][0] is None

"""Nothing is claimed that names and shapes do not prove: networks that look like others and compute something else."""

import numpy as np
import pytest

from wsrl.checkpoint import Checkpoint
from wsrl.wiring.infer_wiring import infer_wiring


def claim_of(shapes, **metadata):
    return infer_wiring(Checkpoint("f", {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, metadata))


def linear(path, out, into, bias=True):
    return {f"{path}.weight": (out, into)} | ({f"{path}.bias": (out,)} if bias else {})


def conv(path, out, into, taps=3):
    return {f"{path}.weight": (out, into, taps, taps), f"{path}.bias": (out,)}


def norm(path, size, bias=True):
    return {f"{path}.weight": (size,)} | ({f"{path}.bias": (size,)} if bias else {})


def moves(claim, tensor, axis):
    """Whether units along an axis are claimed to be interchangeable."""
    return any(s.group and claim.groups[s.group].permutable for s in claim.axes[tensor][axis] or ())


def groups(claim, tensor, axis):
    return {s.group for s in claim.axes[tensor][axis] or () if s.group}


def transformer(prefix="blocks", width=32, inner=48, bias=True, fused="attn.qkv"):
    shapes = {}
    for i in range(2):
        path = f"{prefix}.{i}"
        shapes |= norm(f"{path}.norm1", width, bias) | norm(f"{path}.norm2", width, bias)
        if fused:
            shapes |= linear(f"{path}.{fused}", 3 * width, width)
        else:
            for role in "qkv":
                shapes |= linear(f"{path}.attn.{role}_proj", width, width)
        shapes |= linear(f"{path}.attn.proj", width, width)
        shapes |= linear(f"{path}.mlp.fc1", inner, width) | linear(f"{path}.mlp.fc2", width, inner)
    return shapes


def vit(**more):
    shapes = {"cls_token": (1, 1, 32), "pos_embed": (1, 17, 32)} | conv("patch_embed.proj", 32, 3, 8)
    return shapes | transformer(**more) | norm("norm", 32) | linear("head", 10, 32)


QUERY = ("blocks.0.attn.q_proj.weight", 0)


def test_a_table_of_positions_is_no_proof_that_queries_and_keys_are_not_turned():
    claim = claim_of(vit(fused=None))
    assert not moves(claim, *QUERY)
    assert moves(claim, "blocks.0.attn.v_proj.weight", 0)
    assert moves(claim, "blocks.0.mlp.fc1.weight", 0)


def test_the_first_vit_turns_nothing_but_later_ones_of_its_names_may():
    def queries(more):
        return claim_of(vit() | more).axes["blocks.0.attn.qkv.weight"][0][0].group

    assert queries({}) is not None
    for later in ({"attn_pool.latent": (1, 1, 32)}, norm("norm_pre", 32), {"blocks.0.gamma_1": (32,)}):
        assert queries(later) is None


def decoder(bias, keys=32):
    shapes = {"embed_tokens.weight": (40, 32)} | norm("final_norm", 32, bias) | linear("lm_head", 40, 32, bias=False)
    for i in range(2):
        path = f"layers.{i}"
        for role, units in (("q", 32), ("k", keys), ("v", keys), ("o", 32)):
            shapes |= linear(f"{path}.self_attn.{role}_proj", units, 32, bias=False)
        shapes |= linear(f"{path}.mlp.up_proj", 48, 32, bias=False) | linear(
            f"{path}.mlp.down_proj", 32, 48, bias=False
        )
        shapes |= norm(f"{path}.norm1", 32, bias) | norm(f"{path}.norm2", 32, bias)
    return shapes


@pytest.mark.parametrize("bias, keys, free", [(True, 32, False), (True, 16, True), (False, 32, True)])
def test_fixed_position_codes_went_out_before_shared_keys_and_norms_without_shifts_came_in(bias, keys, free):
    claim = claim_of(decoder(bias, keys))
    assert moves(claim, "embed_tokens.weight", 1) == free
    assert not moves(claim, "layers.0.self_attn.q_proj.weight", 0)


@pytest.mark.parametrize("name", ["query_key_value", "qkv_proj"])
def test_fused_rows_of_unknown_order_are_left_alone_on_both_sides(name):
    shapes = {"embed.weight": (40, 32)} | linear("head", 40, 32)
    for i in range(2):
        shapes |= linear(f"h.{i}.attn.{name}", 96, 32) | linear(f"h.{i}.attn.dense", 32, 32)
        shapes |= linear(f"h.{i}.mlp.up", 48, 32) | linear(f"h.{i}.mlp.down", 32, 48)
    claim = claim_of(shapes)
    assert not moves(claim, f"h.0.attn.{name}.weight", 0)
    assert not moves(claim, "h.0.attn.dense.weight", 1)


def test_rows_by_head_of_a_type_whose_names_do_not_say_so():
    shapes = {"wte.weight": (40, 32), "wpe.weight": (20, 32)} | linear("lm_head", 40, 32)
    for i in range(2):
        shapes |= linear(f"h.{i}.attn.c_attn", 96, 32) | linear(f"h.{i}.attn.c_proj", 32, 32)
    (rows,) = claim_of(shapes, config={"model_type": "gpt_bigcode", "n_head": 4}).axes["h.0.attn.c_attn.weight"][0]
    assert (rows.size, rows.outer, rows.inner) == (4, 1, 24)


def test_a_table_of_offsets_in_the_first_layer_serves_all_also_without_a_config():
    shapes = {"shared.weight": (40, 32), "encoder.final_layer_norm.weight": (32,)}
    for i in range(2):
        path = f"encoder.block.{i}.layer"
        shapes |= {f"{path}.0.SelfAttention.{n}.weight": (32, 32) for n in "qkvo"}
        shapes |= linear(f"{path}.1.DenseReluDense.wi", 48, 32, False)
        shapes |= linear(f"{path}.1.DenseReluDense.wo", 32, 48, False)
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    claim = claim_of(shapes | {table: (32, 4)})
    heads = [groups(claim, f"encoder.block.{i}.layer.0.SelfAttention.{n}.weight", 0) for i in (0, 1) for n in "qkv"]
    assert all(found == groups(claim, table, 1) != set() for found in heads)


def masked(head):
    shapes = {"embeddings.word_embeddings.weight": (50, 16), "embeddings.position_embeddings.weight": (20, 16)}
    shapes |= linear("project", 32, 16) | transformer("layer", fused=None) | linear("predictions.dense", 16, 32)
    return shapes | norm("predictions.LayerNorm", 16) | head


def test_a_bias_for_every_word_tells_of_a_head_that_shares_the_weights_of_the_embedding():
    claim = claim_of(masked({"predictions.bias": (50,)}))
    words = groups(claim, "embeddings.word_embeddings.weight", 1)
    assert words == groups(claim, "predictions.dense.weight", 0)
    assert moves(claim, "predictions.dense.weight", 0)
    assert not moves(claim_of(masked({})), "embeddings.word_embeddings.weight", 1)  # it may be read once more


def test_streams_that_attend_jointly_share_their_heads():
    shapes = linear("img_in", 32, 12) | linear("txt_in", 32, 20)
    for stream in ("img", "txt"):
        path = f"double_blocks.0.{stream}"
        shapes |= linear(f"{path}_attn.qkv", 96, 32) | linear(f"{path}_attn.proj", 32, 32)
        shapes |= linear(f"{path}_mlp.0", 48, 32) | linear(f"{path}_mlp.2", 32, 48)
    claim = claim_of(shapes | linear("final", 12, 32))
    values = [groups(claim, f"double_blocks.0.{s}_attn.proj.weight", 1) for s in ("img", "txt")]
    assert values[0] == values[1] != set()


def test_learned_queries_without_a_projection_leave_keys_in_order():
    shapes = vit() | {"pool.cls_token": (1, 1, 32)}
    shapes |= linear("pool.k_proj", 32, 32) | linear("pool.v_proj", 32, 32) | linear("pool.out_proj", 32, 32)
    assert not moves(claim_of(shapes), "pool.k_proj.weight", 0)


def test_mean_and_variance_of_a_latent_are_returned():
    shapes = linear("fc1", 24, 30) | linear("fc21", 6, 24) | linear("fc22", 6, 24)
    claim = claim_of(shapes | linear("fc3", 24, 6) | linear("fc4", 30, 24))
    assert not moves(claim, "fc21.weight", 0)
    assert moves(claim, "fc1.weight", 0)


def test_couplings_of_halves_are_no_branches():
    shapes = linear("inp", 16, 16) | linear("out", 4, 16)
    for i in range(3):
        shapes |= linear(f"flows.{i}.0", 24, 8) | linear(f"flows.{i}.2", 16, 24)
    claim = claim_of(shapes)
    assert not moves(claim, "inp.weight", 0)
    assert not moves(claim, "flows.0.2.weight", 0)


def test_a_stream_of_inputs_minus_backcasts_stays_in_order():
    shapes = {}
    for i in range(3):
        shapes |= linear(f"stacks.{i}.fc.0", 32, 20) | linear(f"stacks.{i}.fc.2", 32, 32)
        shapes |= linear(f"stacks.{i}.backcast", 20, 32) | linear(f"stacks.{i}.forecast", 5, 32)
    claim = claim_of(shapes)
    assert not any(moves(claim, f"stacks.{i}.backcast.weight", 0) for i in range(3))


@pytest.mark.parametrize("places", [5, 14, 21])
def test_maps_of_several_sizes_are_not_places_of_one(places):
    claim = claim_of(
        conv("conv1", 16, 3) | conv("conv2", 24, 16) | linear("fc1", 32, 24 * places) | linear("fc2", 9, 32)
    )
    assert not moves(claim, "conv2.weight", 0)
    assert moves(claim, "conv1.weight", 0)


def test_branches_side_by_side_are_not_places():
    shapes = conv("stem", 24, 3) | conv("b1", 8, 24, 1) | conv("b3_1", 8, 24, 1) | conv("b3_2", 16, 8)
    claim = claim_of(shapes | conv("pool", 12, 24, 1) | linear("fc", 10, 36))
    assert not moves(claim, "pool.weight", 0)


def test_depthwise_convolutions_do_not_read_an_image_of_one_channel():
    shapes = conv("conv0", 24, 3)
    for branch in ("left", "right"):
        shapes |= {f"cell.{branch}.depthwise.weight": (24, 1, 3, 3), f"cell.{branch}.pointwise.weight": (16, 24, 1, 1)}
    claim = claim_of(shapes | linear("last_linear", 10, 16))
    left, right, stem = (
        groups(claim, f"{n}.weight", 0) for n in ("cell.left.depthwise", "cell.right.depthwise", "conv0")
    )
    assert left == right == stem


def test_a_wide_group_is_not_a_whole_value():
    shapes = {"blocks.0.conv_dw.weight": (32, 16, 3, 3), "blocks.0.conv_pw.weight": (16, 32, 1, 1)}
    claim = claim_of(conv("stem", 32, 3) | shapes | linear("head", 10, 16))
    assert groups(claim, "blocks.0.conv_dw.weight", 1) != groups(claim, "blocks.0.conv_pw.weight", 0)


def test_a_norm_after_a_convolution_in_a_list_may_be_one_of_groups():
    shapes = (
        conv("net.0", 64, 3) | norm("net.1", 64) | conv("net.3", 24, 64) | norm("net.4", 24) | linear("net.8", 9, 24)
    )
    claim = claim_of(shapes)
    (within,) = claim.axes["net.0.weight"][0]
    assert within.size < 64  # of 32 groups or fewer
    assert not moves(claim, "net.3.weight", 0)  # groups of 24 units are not known


def test_which_half_of_a_layer_gates_the_other_is_known_in_blocks_alone():
    assert not moves(claim_of(linear("fc1", 64, 16) | linear("fc2", 5, 32)), "fc2.weight", 1)
    shapes = linear("embed", 16, 9)
    for i in range(2):
        shapes |= norm(f"blocks.{i}.norm", 16) | linear(f"blocks.{i}.mlp.fc1", 64, 16)
        shapes |= linear(f"blocks.{i}.mlp.fc2", 16, 32)
    assert moves(claim_of(shapes | linear("head", 3, 16)), "blocks.0.mlp.fc2.weight", 1)


def test_a_group_needs_what_writes_it_and_what_reads_it():
    shapes = linear("embed", 16, 9) | linear("blocks.0.fc1", 24, 16) | linear("blocks.0.side", 40, 24)
    claim = claim_of(shapes | linear("blocks.0.fc2", 16, 24) | linear("head", 3, 16))
    found = [s.group for axes in claim.axes.values() if len(axes) > 1 for axis in axes for s in axis or ()]
    assert all(found.count(name) > 1 for name, group in claim.groups.items() if group.permutable)


def test_tables_in_a_list_are_embeddings_and_not_layers():
    shapes = (
        linear("bot_l.0", 32, 13) | linear("bot_l.2", 16, 32) | linear("top_l.0", 48, 22) | linear("top_l.2", 1, 48)
    )
    shapes |= {f"emb_l.{i}.weight": (30, 16) for i in range(3)}
    claim = claim_of(shapes)
    assert not moves(claim, "bot_l.2.weight", 0)
    assert not any(moves(claim, f"emb_l.{i}.weight", 1) for i in range(3))

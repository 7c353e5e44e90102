"""Modules that look like others but treat some units apart; known by their names."""

import re

from wsrl.wiring.blockwise import run_blockwise
from wsrl.wiring.flow import Flow
from wsrl.wiring.rim import run_rim
from wsrl.wiring.tree import Node
from wsrl.wiring.unknown import run_unknown
from wsrl.wiring.values import Env

CROSS_STAGE = re.compile(r".*?")
# NesT's output projection reads heads' entries before heads, and nothing tells how many heads there are
HEADS_LAST = re.compile(r"levels\.\d+\.transformer_encoder\.\d+\.attn")

UNUSUAL = (
    # ReXNet adds a narrow input to the first units of a wider output
    (re.compile(r"features\.\d+"), {"conv_dw", "conv_pwl"}),
    # GC ViT computes queries for all windows from convolutions outside attention
    (re.compile(r".*global_block"), set()),
    # PiT widens maps by convolutions whose groups are its inputs
    (re.compile(r"transformers\.\d+\.pool"), {"conv", "fc"}),
    # HRNet sums branches of all widths at once
    (re.compile(r".*"), {"branches", "fuse_layers"}),
    (re.compile(r"incre_modules|downsamp_modules"), set()),
    # CoaT convolves values head by head
    (re.compile(r".*factoratt\w*"), {"qkv"}),
    # MixNet convolves parts of its input by kernels of several sizes
    (re.compile(r".*conv_(pw|dw|pwl)"), {"0", "1"}),
    # ResNeSt and SKNet add parts of what convolutions return, weighted by attention
    (re.compile(r".*"), {"conv", "bn0", "fc1", "fc2"}),
    (re.compile(r".*"), {"paths", "attn"}),
    # CSPNet's stages run blocks on half of the maps
    (CROSS_STAGE, {"conv_exp", "conv_transition"}),
    # Inception joins branches of several widths
    (re.compile(r"Mixed_\w+"), set()),
    (re.compile(r".*"), {"branch0", "branch1"}),
    # NASNet and PNASNet join what the two cells before return
    (re.compile(r".*"), {"comb_iter_0_left"}),
    # CrossViT exchanges tokens between two streams
    (re.compile(r".*"), {"blocks", "fusion", "projs", "revert_projs"}),
    # vector quantization looks up the nearest code
    (re.compile(r"(.*[._])?(quantizer|codebook|vq\w*)"), set()),
    # bilinear attention multiplies maps of rows and of columns
    (re.compile(r".*"), {"conv_p", "conv_q"}),
    # AltUp mixes copies of the stream by matrices that layers return (Baykal et al., 2023)
    (re.compile(r".*"), {"modality_router", "prediction_coefs"}),
    # ZAYA's routers hand their states on to those of the next block
    (re.compile(r".*"), {"down_proj", "router_mlp"}),
)


def run_unusual(flow: Flow, node: Node, env: Env) -> bool | None:
    """Fixes what such a module reads, or what lies within it; None for any other module."""
    if HEADS_LAST.fullmatch(node.dotted) and {"qkv", "proj"} <= node.children.keys():
        return run_rim(flow, node, env)
    for pattern, children in UNUSUAL:
        if node.kind == "container" and pattern.fullmatch(node.dotted) and children <= node.children.keys():
            return (pattern is CROSS_STAGE and run_blockwise(flow, node, env)) or run_unknown(flow, node, env)
    return None

"""Blocks of which names and sizes tell how they compute."""

from wsrl.wiring.attention_forms import KINDS as ATTENTION_FORMS
from wsrl.wiring.branches import KINDS as BRANCHES
from wsrl.wiring.course import fits, kind, run_known
from wsrl.wiring.cut_attention import KINDS as CUT_ATTENTION
from wsrl.wiring.cut_channels import KINDS as CUT_CHANNELS
from wsrl.wiring.dual_path import KINDS as DUAL_PATH
from wsrl.wiring.flow import Flow
from wsrl.wiring.gathering import reassemble
from wsrl.wiring.resolutions import KINDS as RESOLUTIONS
from wsrl.wiring.selected_kernels import KINDS as SELECTED_KERNELS
from wsrl.wiring.token_blocks import KINDS as TOKEN_BLOCKS
from wsrl.wiring.token_networks import BLOCKS as TOKEN_STAGES
from wsrl.wiring.token_networks import KINDS as TOKEN_NETWORKS
from wsrl.wiring.tree import Node
from wsrl.wiring.values import Env

REASSEMBLE = kind("layers readout_projects", "layers.0.projection", reassemble)
KINDS = (
    *CUT_CHANNELS,
    *CUT_ATTENTION,
    *BRANCHES,
    *DUAL_PATH,
    *SELECTED_KERNELS,
    *ATTENTION_FORMS,
    *TOKEN_BLOCKS,
    *TOKEN_STAGES,
    REASSEMBLE,
)
NETWORKS = (*RESOLUTIONS, *TOKEN_NETWORKS)


def run_known_block(flow: Flow, node: Node, env: Env) -> bool | None:
    """Runs such a block; None for any other module."""
    return run_known(NETWORKS if node is flow.root else KINDS, flow, node, env)


def is_known_network(root: Node) -> bool:
    """Whether a network as a whole is of such a kind."""
    return any(fits(network, root) for network in NETWORKS)

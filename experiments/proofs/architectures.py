"""Real architectures in PyTorch, small ones: hand-written networks, models of timm and of transformers.

Whoever imports this module needs the extra `permcheck`; timm and transformers are imported when a model of theirs is
built.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from wsrl.errors import InputError
from wsrl.extras import require

Inputs = tuple[Tensor, ...] | dict[str, Tensor]  # by position or by name

BATCH = 3
VOCABULARY = 97
LENGTH = 12
TIMM = "timm/"  # prefix of the names of all other models of timm


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and what to feed it.

    Attributes:
      build: makes the model; its weights are drawn anew afterwards.
      feed: draws inputs, from torch's global generator.
    """

    build: Callable[[], nn.Module]
    feed: Callable[[], Inputs]


class VGG(nn.Module):
    """Convolutions with batch norms whose maps are flattened into a classifier (Simonyan and Zisserman, 2015)."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (12, 20, 28):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = perceptron(channels * 16, 72, 40, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits of images of 32 pixels."""
        return self.classifier(self.features(images).flatten(1))


class Recurrent(nn.Module):
    """Embedding, two LSTM layers and a linear one that reads the last step."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 24)
        self.lstm = nn.LSTM(24, 40, num_layers=2, batch_first=True)
        self.fc = nn.Linear(40, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits of sequences."""
        return self.fc(self.lstm(self.embedding(tokens))[0][:, -1])


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def images(pixels: int) -> Callable[[], Inputs]:
    """Square color images of normal noise."""
    return lambda: (torch.randn(BATCH, 3, pixels, pixels),)


def tokens(*names: str) -> Callable[[], Inputs]:
    """Sequences of random tokens, none of them special, for the arguments of these names."""
    return lambda: {name: torch.randint(5, VOCABULARY, (BATCH, LENGTH)) for name in names}


def timm_model(name: str, pixels: int, **options: object) -> Architecture:
    """A model of timm, built with these options, on images of so many pixels."""
    return Architecture(lambda: _timm().create_model(name, **options), images(pixels))


def any_of_timm(name: str) -> Architecture:
    """A model of timm as it is, on images of its usual size.

    Raises:
      InputError: timm has none of that name.
    """
    if not _timm().is_model(name):
        raise InputError(f"{TIMM}{name}", "timm has no such model", "see timm.list_models()")
    return timm_model(name, _timm().get_pretrained_cfg_value(name, "input_size")[-1])


def transformers_model(name: str, *arguments: str, **config: object) -> Architecture:
    """A model class of transformers with this configuration; `arguments` of it are tokens."""

    def build() -> nn.Module:
        declare_torchvision_operators()  # transformers imports torchvision where there is one
        transformers = require("transformers", "permcheck")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        model = getattr(transformers, name)
        return model(model.config_class(**config))

    return Architecture(build, tokens(*(arguments or ("input_ids",))))


def _timm() -> ModuleType:
    declare_torchvision_operators()
    return require("timm", "permcheck")


def declare_torchvision_operators() -> None:
    """Lets torchvision be imported where its compiled operators do not load: only its Python code is needed.

    That registers shape functions for two operators, which therefore must be known.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        torch.ops.load_library(next(Path(spec.origin).parent.glob("_C*")))
    except OSError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")


TEXT = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 104, "max_position_embeddings": 40, "pad_token_id": 0}

ARCHITECTURES = {
    "mlp": Architecture(lambda: perceptron(20, 64, 48, 32, 6), lambda: (torch.randn(BATCH, 20),)),
    "vgg": Architecture(VGG, images(32)),
    "resnet18": timm_model("resnet18", 64),
    "mobilenetv2": timm_model("mobilenetv2_035", 64),
    "convnext": timm_model("convnext_atto", 64),
    "vit": timm_model("vit_tiny_patch16_224", 64, img_size=64, depth=3),
    "swin": timm_model("swin_tiny_patch4_window7_224", 56, img_size=56, embed_dim=48, depths=(2, 2), num_heads=(2, 4)),
    "bert": transformers_model("BertForMaskedLM", **TEXT),
    "gpt2": transformers_model(
        "GPT2LMHeadModel", vocab_size=VOCABULARY, n_positions=40, n_embd=64, n_layer=2, n_head=4
    ),
    "llama": transformers_model("LlamaForCausalLM", num_key_value_heads=2, **TEXT),
    "mixtral": transformers_model(
        "MixtralForCausalLM",
        num_key_value_heads=2,
        num_local_experts=4,
        **TEXT,
    ),
    "t5": transformers_model(
        "T5ForConditionalGeneration",
        "input_ids",
        "decoder_input_ids",
        **{"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 104, "num_layers": 2, "num_heads": 4},
    ),
    "lstm": Architecture(Recurrent, lambda: (torch.randint(VOCABULARY, (BATCH, LENGTH)),)),
}

"""Image classifiers of torchvision, timm and transformers, as they are, for the proof that they can be run.

Whoever imports this module needs the extra `permcheck`, and torchvision for its models.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from experiments.proofs.architectures import declare_torchvision_operators
from wsrl.extras import require

TORCHVISION = (
    *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg11", "vgg16_bn", "alexnet"),
    *("squeezenet1_0", "squeezenet1_1", "densenet121", "googlenet", "inception_v3", "mobilenet_v2"),
    *("mobilenet_v3_large", "mobilenet_v3_small", "mnasnet0_5", "mnasnet1_0", "efficientnet_b0", "efficientnet_b5"),
    *("efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    *("convnext_tiny", "vit_b_16", "vit_b_32", "swin_t", "swin_v2_t"),
)
TIMM = (
    *("resnet10t", "resnet18", "resnet26d", "resnet50_gn", "resnext50_32x4d", "seresnet50", "ecaresnet26t"),
    *("legacy_seresnet18", "legacy_seresnet50", "legacy_seresnext26_32x4d", "vgg11", "vgg11_bn", "densenet121"),
    *("inception_v3", "efficientnet_b0", "efficientnet_lite0", "efficientnet_es", "tf_efficientnet_b0"),
    *("tf_efficientnetv2_b0", "mixnet_s", "tinynet_e", "mobilenetv1_100", "mobilenetv2_035", "semnasnet_050"),
    *("mnasnet_100", "spnasnet_100", "fbnetc_100", "fbnetv3_b", "hardcorenas_b", "lcnet_050", "mobilenetv3_small_050"),
    *("mobilenetv3_large_100", "mobilenetv3_rw", "regnetx_002", "regnety_002", "convnext_atto", "convnextv2_atto"),
    *("convnext_zepto_rms", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "mixer_s16_224", "gmixer_12_224", "resmlp_12_224"),
    *("convmixer_768_32", "repvgg_a0", "mobileone_s1", "resnetv2_18", "resnetv2_50x1_bit", "poolformer_s12"),
    *("inception_next_atto", "cait_xxs24_224", "starnet_s050", "rexnetr_100", "legacy_xception", "res2next50"),
    *("ghostnet_050", "repghostnet_050", "hrnet_w18_small", "cspresnext50", "cspdarknet53", "dpn48b", "dpn68"),
    *("rdnet_tiny", "caformer_s18", "convformer_s18", "pvt_v2_b0", "twins_pcpvt_small", "pit_ti_224"),
    *("pit_s_distilled_224", "visformer_tiny", "xcit_nano_12_p8_224", "xcit_tiny_12_p16_224", "efficientformer_l1"),
    *("efficientvit_m0", "shvit_s1", "mobilevitv2_050", "vit_tiny_r_s16_p8_224"),
)
SMALL: dict[str, object] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 200,
}
SMALL |= {"image_size": 64, "patch_size": 8, "num_labels": 10}
SWIN: dict[str, object] = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
LEVIT: dict[str, object] = {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4]}
LEVIT |= {"depths": [1, 1, 1], "key_dim": [8, 8, 8]}
PVT: dict[str, object] = {"image_size": 64, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
PVT |= {"num_attention_heads": [1, 2, 2, 4], "mlp_ratios": [2, 2, 2, 2]}
TRANSFORMERS: dict[str, tuple[str, dict[str, object]]] = {
    "resnet": ("ResNet", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2]}),
    "resnet-basic": (
        "ResNet",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"},
    ),
    "regnet": ("RegNet", {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "groups_width": 16}),
    "convnext": ("ConvNext", {"hidden_sizes": [24, 48], "depths": [1, 2], "num_stages": 2}),
    "convnextv2": ("ConvNextV2", {"hidden_sizes": [24, 48], "depths": [1, 2], "num_stages": 2}),
    "efficientnet": ("EfficientNet", {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}),
    "mobilenet-v1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "mobilenet-v2": ("MobileNetV2", {"depth_multiplier": 0.35}),
    "vit": ("ViT", SMALL),
    "deit": ("DeiT", SMALL),
    "dinov2": ("Dinov2", SMALL),
    "beit": ("Beit", SMALL | {"use_relative_position_bias": True}),
    "data2vec-vision": ("Data2VecVision", SMALL | {"use_shared_relative_position_bias": True}),
    "swin": ("Swin", SWIN),
    "swinv2": ("Swinv2", SWIN),
    "levit": ("Levit", LEVIT),
    "pvt-v2": ("PvtV2", PVT),
    "mobilevitv2": ("MobileViTV2", {"width_multiplier": 0.5, "image_size": 64}),
}
NAMES = (
    *(f"torchvision/{name}" for name in TORCHVISION),
    *(f"timm/{name}" for name in TIMM),
    *(f"transformers/{name}" for name in TRANSFORMERS),
)


def build(name: str) -> nn.Module:
    """Makes the model of a name of `NAMES`, or of any other model of torchvision or timm."""
    library, _, own = name.partition("/")
    declare_torchvision_operators()
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        more = {"init_weights": False} if own in ("googlenet", "inception_v3") else {}
        return models.get_model(own, **more)
    if library == "timm":
        return require("timm", "permcheck").create_model(own)
    transformers = require("transformers", "permcheck")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind, config = TRANSFORMERS[own]
    model = getattr(transformers, f"{kind}ForImageClassification")
    return model(model.config_class(**config))


def save(model: nn.Module, folder: Path) -> Path:
    """Writes a model as its library does, with `config.json` where the library has one; returns the path of weights."""
    path = folder / "model.safetensors"
    found: Callable | None = getattr(model, "save_pretrained", None)
    if found is not None:
        found(folder)
    elif hasattr(model, "pretrained_cfg"):
        importlib.import_module("timm.models").save_for_hf(model, folder, safe_serialization=True)
    else:
        save_file({key: t.contiguous() for key, t in model.state_dict().items()}, path)
    return path

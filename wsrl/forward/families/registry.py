"""All families of image models."""

from wsrl.forward.families import (
    cait,
    convnext,
    cross_stage,
    densenet,
    ghost,
    hrnet,
    inception,
    levit,
    metaformer,
    mixer,
    mobile,
    mobilevit,
    pyramid,
    regnet,
    reparametrized,
    resnet,
    resnetv2,
    separable,
    sequential,
    shufflenet,
    small_attention,
    swin,
    vit,
    xcit,
)
from wsrl.forward.families.family import Family

MODULES = (
    *(resnet, resnetv2, sequential, densenet, inception, mobile, shufflenet, regnet, reparametrized, separable),
    *(ghost, hrnet, cross_stage),
    *(convnext, metaformer, vit, cait, swin, mixer),
    *(pyramid, levit, xcit, small_attention, mobilevit),
)
FAMILIES: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)

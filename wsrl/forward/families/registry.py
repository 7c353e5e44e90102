"""All families of image models."""

from wsrl.forward.families import (
    cait,
    convnext,
    densenet,
    inception,
    metaformer,
    mixer,
    mobile,
    regnet,
    reparametrized,
    resnet,
    resnetv2,
    separable,
    sequential,
    shufflenet,
    swin,
    vit,
)
from wsrl.forward.families.family import Family

MODULES = (
    *(resnet, resnetv2, sequential, densenet, inception, mobile, shufflenet, regnet, reparametrized, separable),
    *(convnext, metaformer, vit, cait, swin, mixer),
)
FAMILIES: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)

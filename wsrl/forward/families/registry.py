"""All families of image models."""

from wsrl.forward.families import (
    convnext,
    densenet,
    inception,
    mixer,
    mobile,
    regnet,
    resnet,
    sequential,
    shufflenet,
    swin,
    vit,
)
from wsrl.forward.families.family import Family

MODULES = (resnet, sequential, densenet, inception, mobile, shufflenet, regnet, convnext, vit, swin, mixer)
FAMILIES: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)

"""All families of image models."""

from wsrl.forward.families import convnext, densenet, inception, mobile, regnet, resnet, sequential, vit
from wsrl.forward.families.family import Family

MODULES = (resnet, sequential, densenet, inception, mobile, regnet, convnext, vit)
FAMILIES: tuple[Family, ...] = tuple(family for module in MODULES for family in module.FAMILIES)

"""All families of image models."""

from wsrl.forward.families import densenet, inception, mobile, resnet, sequential
from wsrl.forward.families.family import Family

FAMILIES: tuple[Family, ...] = tuple(
    family for module in (resnet, sequential, densenet, inception, mobile) for family in module.FAMILIES
)

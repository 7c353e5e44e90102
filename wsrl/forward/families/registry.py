"""All families of image models."""

from wsrl.forward.families import densenet, inception, resnet, sequential
from wsrl.forward.families.family import Family

FAMILIES: tuple[Family, ...] = tuple(
    family for module in (resnet, sequential, densenet, inception) for family in module.FAMILIES
)

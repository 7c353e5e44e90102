"""All families of image models."""

from wsrl.forward.families import resnet
from wsrl.forward.families.family import Family

FAMILIES: tuple[Family, ...] = (*resnet.FAMILIES,)

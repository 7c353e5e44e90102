"""Names for types whose own annotations say too little for a type checker."""

from typing import Any

Config = Any  # ml_collections.ConfigDict: its fields have no types
Leaf = Any  # an array, or what stands for it while JAX maps over a tree

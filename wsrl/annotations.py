"""Names for types whose own annotations say too little for a type checker."""

from typing import Any

Config = Any  # ml_collections.ConfigDict: its fields have no types
Graph = Any  # jraph.GraphsTuple, whose nodes and edges here are dictionaries of arrays

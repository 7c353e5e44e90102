"""Which axis of which tensor is which neuron group, and how the layers are connected."""

from wsrl.wiring.infer import infer_wiring
from wsrl.wiring.layers import Layer, Link, Norm, View, Wiring

__all__ = ["Layer", "Link", "Norm", "View", "Wiring", "infer_wiring"]

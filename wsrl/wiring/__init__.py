"""Which axis of which tensor is which neuron group, and how the layers are connected."""

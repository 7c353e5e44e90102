"""The equivariant encoder: sweeps over tile graphs, read-out, losses and training."""

"""Search: the index of a folder of checkpoints, nearest neighbors, query expansion."""

"""Networks as jraph graphs of padded weight tiles, and their batches in bucketed shapes."""

"""Comparison of checkpoints: whether one comes from the other or both from a third, and what was done to it.

checkpoints -> pieces (tensors by neuron groups) -> pairs of pieces -> units matched, agreement tested -> differences of
aligned pieces -> verdict
"""

"""The `weights` vector: who a network is, from the matrices of its file, whatever their layout, order and names.

tensors, products -> binormalized (scale-free) -> descriptors -> kernel mean embeddings at two bandwidths
lengths of their axes                                         -> kernel mean embedding
tensors with a fixed axis (inputs, outputs, words)            -> sketch of their Gram matrix along it
"""

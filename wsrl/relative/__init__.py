"""Search inside a model tree: children of one base are compared by what they change of it."""

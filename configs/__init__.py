"""Configurations; the docstring of each holds its command and its cost."""

"""Draws the layer graph of a wiring."""

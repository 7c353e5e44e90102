"""Programs: networks that can be run, compiled from their wirings."""

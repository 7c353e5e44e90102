"""A zoo of small trained image classifiers: tasks, architectures, recipes, training and manifest."""

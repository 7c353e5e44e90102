"""The main job and the benchmark."""

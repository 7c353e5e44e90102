"""Commands that measure speed and memory, as ratios to references measured in the same run."""

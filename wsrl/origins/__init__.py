"""Where models come from: fingerprints, duplicates, lineage, and what an unknown file holds."""

"""A model tree: a base that is trained here, and children of many tasks, fully fine-tuned or as adapters."""

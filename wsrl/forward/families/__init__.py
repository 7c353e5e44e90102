"""Image models of torchvision, timm and transformers, written down as operators from what their files tell."""

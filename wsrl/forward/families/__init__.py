"""Image models of torchvision, timm and transformers, written down as operators from names, shapes and configuration."""

"""First weights for a network: ImageNet files, timm's files and repositories, other checkpoints."""

"""Pre-training on the built-in world."""

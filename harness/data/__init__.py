"""Data sets: the built-in world, annotation formats, and images as tensors."""

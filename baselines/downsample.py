"""Downsample: the same weights on a smaller image, position embeddings resized. The control for any reduction.

Benchmarks of 2025-26 found it ahead of many published methods. The image is resized (bicubic, antialiased) to a whole
number of patches each way, and the tower interpolates its position table as its own program does. Its ratio is its
patches over those of the full image.
"""

from harness.reduction import SmallerImages


class Downsample(SmallerImages):
    """The tower opens a smaller image; nothing else changes."""

"""Resize: train on smaller images, evaluate at full size (CLIPA, NeurIPS 2023). A control for reduction in training.

Rests on the paper (arXiv 2305.07017): images are resized as a whole, position embeddings with them. The paper ends with
a short training at full size, which here is a run of its own with `dense` that starts from these weights.
"""

from harness.reduction import Ratio, SmallerImages, SmallerImagesConfig


class ResizeConfig(SmallerImagesConfig):
    """keep: patches of the images trained on over those of full size (.25: 112 of 224 pixels)."""

    keep: Ratio = 0.25


class Resize(SmallerImages):
    """In training the tower opens a smaller image; in evaluation the full one."""

    Config = ResizeConfig
    only_in_training = True

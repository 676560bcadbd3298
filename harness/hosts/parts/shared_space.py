"""The space that images and texts share, offered to methods inside the tower, as a guide's `shared`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

Projection = Callable[[Tensor], Tensor]


def shared_space(norm: nn.LayerNorm, image: nn.Linear, text: nn.Linear) -> tuple[Projection, Projection]:
    """What takes image states between blocks, through the tower's last `norm`, and text states to their features
    (…, P), by weights that get no gradient.

    Cosines of the two are those of the host's contrast. It was trained on the class tokens alone: of patches and words
    they say as much as these have in common with them.
    """

    def of_image(states: Tensor) -> Tensor:
        weight, bias = norm.weight.detach(), norm.bias.detach()
        return _projected(image, F.layer_norm(states, norm.normalized_shape, weight, bias, norm.eps))

    def of_text(states: Tensor) -> Tensor:
        return _projected(text, states)

    return of_image, of_text


def clip_space(
    image_norm: nn.LayerNorm, image_PD: Tensor, text_norm: nn.LayerNorm, text_PT: Tensor
) -> tuple[Projection, Projection]:
    """The same of a CLIP: an image's states between blocks through the tower's first norm, a text's through its last
    (sdc17/CrossGET, CLIP/clip/model.py), by the weights of their projections, (P, D) and (P, T).
    """

    def through(norm: nn.LayerNorm, weight: Tensor, states: Tensor) -> Tensor:
        normed = F.layer_norm(states, norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
        return F.linear(normed, weight.detach())

    return partial(through, image_norm, image_PD), partial(through, text_norm, text_PT)


def _projected(projection: nn.Linear, states: Tensor) -> Tensor:
    bias = None if projection.bias is None else projection.bias.detach()
    return F.linear(states, projection.weight.detach(), bias)

"""Every image of the global batch against every text of it, with the scale that a host has for it (CLIP's loss).

Source: Radford et al. 2021, arXiv 2103.00020, section 2.3. Shapes: B pairs of this process, P shared space.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.host import HostModel
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Objective

LARGEST_SCALE = 100.0


class ContrastObjective(Objective[HostModel]):
    """Base class of objectives that contrast pairs in any host that has a scale for it; named by their file."""

    NEEDS = frozenset({"contrast"})
    LEAST_PAIRS = 2
    LEAVES_UNUSED = True

    @classmethod
    def check_host(cls, host: HostModel) -> None:
        check_contrast(cls.__module__.rpartition(".")[2], host)


def check_contrast(name: str, host: HostModel) -> None:
    """HarnessError, one line, for a host without a space that images and texts share, or without a scale for it."""
    if "contrast" not in host.abilities or not (hasattr(host, "scale") or hasattr(host, "temperature")):
        raise HarnessError(
            f"objective {name}: {type(host).__name__} has no contrast of images and texts; take a host that has one "
            f"(albef, blip, clip), or another objective"
        )


def pair_scale(host: Any) -> Tensor:
    """What cosines are multiplied by, a scalar: a host's own scale, or one over its temperature."""
    scale: Tensor = host.scale() if hasattr(host, "scale") else 1 / host.temperature
    return scale


@torch.no_grad()
def clamp_scale(host: Any) -> None:
    """Keep that factor between 1 and 100, as CLIP's training does after every step."""
    if hasattr(host, "clamp_scale"):
        host.clamp_scale()
    else:
        host.temperature.clamp_(1 / LARGEST_SCALE, 1.0)


def pair_contrast(images_BP: Tensor, texts_BP: Tensor, scale: Tensor) -> Tensor:
    """The mean of both directions' cross-entropies, of unit features; those of all processes count, with gradients."""
    own = distributed.own_rows(len(images_BP), images_BP.device)
    by_image = scale * images_BP @ distributed.gather_with_gradient(texts_BP).T
    by_text = scale * texts_BP @ distributed.gather_with_gradient(images_BP).T
    return (F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own)) / 2

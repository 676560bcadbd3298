"""A frozen host as the teacher of single image tokens, in the space that its images and texts share.

Each token is read as the host reads its class token: UTA's targets are CLIP's tokens in the joint space. Shapes: B
images, n0 patches, P the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.hosts.host import HostConfig, HostModel
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.find import find_weights
from harness.hosts.weights.load import load_model
from harness.hosts.weights.own import file_metadata
from harness.hosts.weights.released_files import is_released
from harness.kit.errors import HarnessError
from harness.kit.registry import models
from harness.objectives.parts.alignment import opened
from harness.reduction import PLAIN, Tokens


class FrozenTeacher(nn.Module):
    """A host without gradient, always in evaluation.

    `source`: a host whose weights ship, or the folder or file that `pretrain` left. HarnessError for anything else, and
    for a host without a space that images and texts share.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, source: str, reads: HostConfig) -> None:
        """`reads`: of the host that is taught, for whose images the teacher is."""
        super().__init__()
        loaded = _loaded(source)
        self.host = loaded.requires_grad_(False).eval()
        own = self.host.config
        if "contrast" not in self.host.abilities:
            raise HarnessError(f"teacher {source}: has no space that images and texts share; name another host")
        if (own.image_size, own.patch_size) != (reads.image_size, reads.patch_size):
            raise HarnessError(
                f"teacher {source}: reads {own.image_size} pixels in patches of {own.patch_size}, the host "
                f"{reads.image_size} in patches of {reads.patch_size}; name a teacher of the same grid"
            )
        self.tower = open_tower(self.host.vision)
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (own.mean, own.std))
        mean_read, std_read = (torch.tensor(part).view(3, 1, 1) for part in (reads.mean, reads.std))
        self.register_buffer("factor", std_read / std)
        self.register_buffer("shift", (mean_read - mean) / std)

    @property
    def width(self) -> int:
        """P."""
        return int(self.host.config.projection)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Its tokens are targets: nothing drops out."""
        return super().train(False)

    @torch.no_grad()
    def look(self, pixels: Tensor, blocks: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Unit tokens (B, 1 + n0, P) as they leave each of some blocks, and the class attention (B, n0) of the last."""
        stack, found = self.tower, list[Tensor]()
        state = opened(stack, PLAIN, pixels * self.factor + self.shift)
        last = stack.shape.depth - 1
        for block in range(last + 1):
            if block == last:
                attention = stack.observe(block, state, frozenset({"cls_attention"})).cls_attention
            state = stack.step(block, state, PLAIN, None, None)
            if block in blocks:
                found.append(self.shared(stack.close(state)))
        assert attention is not None
        return found, attention

    def shared(self, tokens: Tokens) -> Tensor:
        """Every token in the shared space, unit length, as the host reads its class token."""
        each = Tokens(tokens.states.flatten(0, 1).unsqueeze(1))
        return self.host.embed_image(each).unflatten(0, tokens.states.shape[:2])


def _loaded(source: str) -> HostModel:
    if source in models.entries():
        return load_model(source).model
    path = find_weights(source)
    if not Path(path).is_file() or is_released(path):
        raise HarnessError(f"teacher {source}: no host whose weights ship and no folder that pretrain left; name one")
    about = file_metadata(path)
    return load_model(f"{about.get('architecture')}-{about.get('preset')}", path).model

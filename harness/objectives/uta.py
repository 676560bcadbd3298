"""UTA: the tokens of the patches that are seen are aligned with a frozen teacher's tokens of the same patches.

Source: jihaonew/UTA (TMLR 2024), which released inference only. What two summaries say of its loss is here: masked
patches are left out at the input, the loss is minus the mean cosine over visible tokens and the class token, the mask
is block-wise and reversed. This project's own: ratio and shape of the mask, the decoder (that of the twin, Unmasked
Teacher, whose own loss, mask and positions are settings here and which its golden files hold), the teacher (a host's
tokens read as its class token). With a method, what it leaves of the visible patches is aligned: a merged token with
the mean of its patches' teacher tokens, brought back to unit length; patches that are gone have no loss.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.objectives.parts.alignment import (
    Distance,
    Sources,
    TokenDecoder,
    alignment_loss,
    opened,
    output_blocks,
    outputs_of,
    visible_by_importance,
)
from harness.objectives.parts.objective import Losses, Moment, Objective, ObjectiveConfig, Pairs
from harness.objectives.parts.patch_masks import attention_order, block_order
from harness.objectives.parts.teacher import FrozenTeacher
from harness.objectives.parts.visible import for_visible
from harness.reduction import PLAIN, BlockHooks, TokenReducer, Tokens


class UtaConfig(ObjectiveConfig):
    """teacher: a host whose weights ship, or a folder that pretrain left. mask_ratio: of patches left out, 0: none.

    mask: `blocks` stay, or patches drawn by the teacher's class `attention` (Unmasked Teacher). distance: `cosine`
    (UTA), `l2` or `mse` (Unmasked Teacher), times `weight`. outputs: of how many blocks, the last and each `interval`
    before it. positions: added before the decoder (Unmasked Teacher). reduce_visible: whether a method reduces the
    visible patches as well.
    """

    FILES = ("teacher",)
    teacher: str = "albef-tiny"
    mask_ratio: float = Field(default=0.5, ge=0, lt=1)
    mask: Literal["blocks", "attention"] = "blocks"
    distance: Distance = "cosine"
    weight: float = Field(default=1.0, gt=0)
    outputs: PositiveInt = 1
    interval: PositiveInt = 1
    positions: bool = False
    reduce_visible: bool = True


class UtaObjective(Objective[HostModel]):
    """Alignment with the teacher, the mean over the tokens that are left."""

    Config = UtaConfig
    LEAVES_UNUSED = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        config, tower = self.config, open_tower(self.host.vision)
        self.teacher = FrozenTeacher(config.teacher, self.host.config)
        depths = tower.shape.depth, self.teacher.tower.shape.depth
        self.blocks, self.taught_by = (output_blocks(depth, config.outputs, config.interval) for depth in depths)
        if min(self.blocks[0], self.taught_by[0]) < 0:
            raise HarnessError(
                f"objective uta: {config.outputs} outputs every {config.interval} blocks: more than student and "
                f"teacher have ({depths[0]} and {depths[1]} blocks); lower uta.outputs or uta.interval"
            )
        sizes = tower.shape.width, self.teacher.width, tower.shape.patches
        self.decoders = nn.ModuleList(TokenDecoder(*sizes, positions=config.positions) for _ in self.blocks)

    def prepare(self) -> None:
        _ = self.visible_reducer  # refused now rather than at the first step

    @cached_property
    def visible_reducer(self) -> BlockHooks:
        """The method as it works on the patches that are seen; HarnessError for one that cannot."""
        if "vision" not in self.reducer.stacks or not self.config.reduce_visible:
            return PLAIN
        if self.config.mask_ratio == 0:
            return self.reducer
        patches = open_tower(self.host.vision).shape.patches
        return for_visible(self.reducer, patches - int(patches * self.config.mask_ratio), "uta")

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        taught, attention = self.teacher.look(pairs.pixels, self.taught_by)
        left = self.student(pairs, self.seen(pairs, attention, moment))
        found = []
        for tokens, decoder, teacher in zip(left, self.decoders, taught, strict=True):
            sources = Sources.of(tokens)
            normed = tokens.with_states(open_tower(self.host.vision).normed(tokens))
            target = F.normalize(sources.mean(teacher[:, 1:]), dim=-1)
            counted = F.pad(sources.count > 0, (1, 0), value=True)
            whole = torch.cat([teacher[:, :1], target], dim=1)
            found.append(alignment_loss(decoder(normed, sources), whole, counted, self.config.distance))
        return {"alignment": self.config.weight * torch.stack(found).mean()}

    def seen(self, pairs: Pairs, attention_BN: Tensor, moment: Moment) -> Tensor | None:
        """The patches (B, M) that the student sees, ascending; None where it sees all."""
        config, grid = self.config, open_tower(self.host.vision).shape.grid
        if config.mask_ratio == 0:
            return None
        if config.mask == "attention":
            order = attention_order(attention_BN, pairs.sample_ids, moment)
        else:
            assert grid is not None
            order = block_order(pairs.sample_ids, grid, moment)
        return visible_by_importance(order, config.mask_ratio, len(order))

    def student(self, pairs: Pairs, seen_BM: Tensor | None) -> list[Tokens]:
        """What leaves the blocks that are aligned, each image reduced for its own text."""
        tower, reducer = open_tower(self.host.vision), self.visible_reducer
        guide = None
        if isinstance(reducer, TokenReducer) and reducer.needs_text:
            guide = self.host.guide(self.host.text_batch(pairs.ids, pairs.mask))
        left = outputs_of(tower, opened(tower, reducer, pairs.pixels, seen_BM), reducer, self.blocks, guide)
        if reducer is self.reducer:
            self._encoded.append((pairs.pixels, left[-1]))
        return left

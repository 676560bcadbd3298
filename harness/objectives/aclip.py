"""A-CLIP: contrast of two masked views with one caption, and both views made to agree with a following tower.

Source: Yang et al. 2023, arXiv 2212.08653; microsoft/A-CLIP, models.py, losses.py, main.py. A follower of the tower
sees a wider crop whole; what its class token attends to says which blocks of patches of two views the student sees.
Losses: half of CLIP's for each view, SimCLR's between the views and BYOL's towards the follower, the class token being
the image. The release's slips are settings, on by default: `same_view_simclr`, `crop_slips`. Its text follower takes no
part in any loss and is left out; blocks of equal attention are taken in raster order, which the release leaves open.

The recipe's `crop` is that of the views (.5 to 1 in the release), `randaugment` stands for the release's colours, and
nothing is mirrored; where the recipe crops nothing, as on scenes, both views are the whole image. Under a reduction,
fitted to the patches that a view shows, the student's tokens are reduced; the follower's never are. Shapes: B images,
2B views (all first ones, then all second ones), L patches, P the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from harness.data.crops import covered_views
from harness.data.pair_batch import PairBatch
from harness.hosts.host import TextBatch
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.parts.towers import open_tower
from harness.objectives.parts.attention_mask import ClassAttention, in_view
from harness.objectives.parts.batches import Asked, Batches, pair_batches
from harness.objectives.parts.contrast import ContrastObjective, clamp_scale, pair_contrast, pair_scale
from harness.objectives.parts.momentum import Twin, rising
from harness.objectives.parts.objective import Batch, Losses, Moment, ObjectiveConfig
from harness.objectives.parts.views import byol_head, byol_loss, simclr_head, simclr_loss
from harness.objectives.parts.visible import encode_visible, for_visible
from harness.reduction import (
    PATCHES_OF_A_BLOCK,
    Guide,
    Tokens,
    check_even_grid,
    encode,
    kept_blocks,
    kept_patches,
    removed_patches,
)


class AclipConfig(ObjectiveConfig):
    """keep: share of the blocks that stay, one more is added. mask: off, views are seen whole.

    momentum: the follower's, rising to 1 along half a cosine. hidden, out: of the heads. freeze_patches: what makes
    tokens of patches keeps its random start. same_view_simclr: SimCLR gets the first view twice. crop_slips: see
    harness.data.crops.wider_box.
    """

    keep: float = Field(default=0.5, gt=0, lt=1)
    mask: bool = True
    momentum: float = Field(default=0.996, ge=0, le=1)
    hidden: PositiveInt = 4096
    out: PositiveInt = 256
    temperature: float = Field(default=0.1, gt=0)
    simclr_weight: NonNegativeFloat = 1.0
    byol_weight: NonNegativeFloat = 2.0
    freeze_patches: bool = True
    same_view_simclr: bool = True
    crop_slips: bool = True


@dataclass(frozen=True)
class Cropped(Batch):
    """Views 1, 2 and the wider crop (B, 3, 3, H, W), their boxes (B, 3, 4), and a caption each as in Pairs."""

    pixels: Tensor
    boxes: Tensor
    ids: Tensor
    mask: Tensor
    sample_ids: Tensor


@dataclass(frozen=True)
class Followed:
    """What the follower gives: its attention and what of it falls on either view, (B, L) each, the patches that the
    student does not see (2B, L) and those that it sees (2B, K), and BYOL's target (B, out).
    """

    attention: Tensor
    in_views: tuple[Tensor, Tensor]
    removed: Tensor
    kept: Tensor
    target: Tensor


@dataclass(frozen=True)
class Seen:
    """What the student gives: its last tokens of 2B views, and the heads' outputs (2B, out)."""

    tokens: Tokens
    simclr: Tensor
    predicted: Tensor


class AclipObjective(ContrastObjective):
    """Contrast of each view, SimCLR's and BYOL's loss; follower, heads and their norms are in the checkpoint."""

    Config = AclipConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        config, shape = self.config, self.host.shape
        self.grid = check_even_grid(shape, "objective aclip")
        self.count = PATCHES_OF_A_BLOCK * kept_blocks(self.grid, config.keep) if config.mask else shape.patches
        self.follower: Twin[nn.Module] = Twin(self.host.vision)
        self.simclr = simclr_head(shape.width, config.hidden, config.out)
        self.projector = byol_head(shape.width, config.hidden, config.out)
        self.predictor = byol_head(config.out, config.hidden, config.out)
        self.projector_follower = Follower(self.projector)
        self._fitted = for_visible(self.reducer, self.count, "aclip")

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        return pair_batches(asked, crops=partial(covered_views, slips=config.crop_slips))

    def prepare(self) -> None:
        if self.config.freeze_patches:
            open_tower(self.host.vision).patch_projection.requires_grad_(False)

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Any:
        assert batch.boxes is not None
        ids, mask = tokenizer(batch.captions)
        return Cropped(batch.pixels, batch.boxes, ids, mask, batch.sample_ids)

    def losses(self, pairs: Cropped, moment: Moment) -> Losses:
        texts = self.host.text_batch(pairs.ids, pairs.mask)
        follower = self.follow(pairs.pixels[:, 2], pairs.boxes, rising(self.config.momentum, moment.done))
        views = torch.cat([pairs.pixels[:, 0], pairs.pixels[:, 1]])
        return self.compared(self.see(views, follower.kept, texts), follower, texts)

    def after_step(self) -> None:
        clamp_scale(self.host)

    @torch.no_grad()
    def follow(self, wide: Tensor, boxes: Tensor, momentum: float) -> Followed:
        """Draw the follower on and show it the wider crop."""
        self.follower.follow(self.host.vision, momentum)
        self.projector_follower.follow(self.projector, momentum)
        tower = open_tower(self.follower.model)
        tokens = encode(tower, ClassAttention(tower.shape), wide)
        attention = tokens.notes["attention"]
        falls = tuple(in_view(attention, boxes[:, view], boxes[:, 2], self.grid) for view in (0, 1))
        removed = torch.cat([removed_patches(each, self.grid, self.config.keep) for each in falls])
        if not self.config.mask:
            removed = torch.zeros_like(removed)
        target = self.projector_follower.model(tower.normed(tokens)[:, 0])
        return Followed(attention, (falls[0], falls[1]), removed, kept_patches(removed, self.count), target)

    def see(self, views: Tensor, kept: Tensor, texts: TextBatch | None = None) -> Seen:
        """The views' patches that are kept through the tower, and its class token through the heads."""
        guide: Guide | None = None
        if texts is not None and self.reducer.needs_text:
            guide = self.host.guide(texts.select(torch.arange(len(views), device=views.device) % len(texts.ids)))
        tower = open_tower(self.host.vision)
        tokens = encode_visible(tower, self._fitted.train(self.training), views, kept, guide).tokens
        whole = tower.normed(tokens)[:, 0]
        return Seen(tokens, self.simclr(whole), self.predictor(self.projector(whole)))

    def compared(self, seen: Seen, follower: Followed, texts: TextBatch) -> Losses:
        """The losses, each with its weight."""
        config, host, count = self.config, self.host, len(follower.target)
        texts_BP, scale = host.embed_text(texts), pair_scale(host)
        rows = torch.arange(2 * count, device=texts_BP.device).chunk(2)
        contrasts = [pair_contrast(host.embed_image(seen.tokens.rows(own)), texts_BP, scale) for own in rows]
        views = seen.simclr.chunk(2)
        simclr = simclr_loss(views[0], views[0 if config.same_view_simclr else 1], config.temperature)
        byol = byol_loss(seen.predicted, follower.target.repeat(2, 1))
        return {
            "contrast_1": contrasts[0] / 2,
            "contrast_2": contrasts[1] / 2,
            "simclr": config.simclr_weight * simclr,
            "byol": config.byol_weight * byol,
        }


class Follower(Twin[nn.Module]):
    """A twin of a head whose norms go by the batch, as in the release, not by what they saw before."""

    def train(self, mode: bool = True) -> Follower:
        nn.Module.train(self, mode)
        return self

"""MAE beside contrast: the pixels of masked patches from a quarter of them, and CLIP's loss on the whole image.

Source of the masked part: He et al. 2022, arXiv 2111.06377; facebookresearch/mae, models_mae.py. That both stand side
by side is Weers et al. 2023 (arXiv 2301.07836), of which no program was released: their weights (`pixel_weight`,
`contrast_weight`) and the host's own pooling for the contrast are this project's own. The encoder is the host's tower
with its own positions; MAE's fixed table stands in the decoder.

Under a reduction the contrast sees reduced tokens like any other. The patches that the masked pass sees are reduced at
the same ratio (`reduce_visible`): the decoder then reads, at each patch, the token that the patch was merged into, and
the mask token where the patch was pruned. The loss is that of the patches that were not seen, as without reduction.
Shapes: B images, n0 patches, D channels, V = 3 p p values of a patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.objectives.parts.contrast import check_contrast, clamp_scale, pair_contrast, pair_scale
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs
from harness.objectives.parts.token_decoder import DecoderConfig, TokenDecoder, draw_linear
from harness.objectives.parts.visible import encode_visible, held, patch_order, visible_reducer
from harness.reduction import Guide, Tokens


class MaeConfig(DecoderConfig):
    """mask_ratio: share of the patches that the encoder does not see. norm_pixels: targets are normalised patch by
    patch; the release's flag is off by default and on in its README's runs. reduce_visible: whether a reduction method
    works on the patches that are seen, too, not on the contrast alone.
    """

    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    norm_pixels: bool = True
    pixel_weight: NonNegativeFloat = 1.0
    contrast_weight: NonNegativeFloat = 1.0
    reduce_visible: bool = True


@dataclass(frozen=True)
class MaskedPixels:
    """A masked pass: the tower's last tokens, what was predicted and was to be (B, n0, V), what was hidden (B, n0)."""

    tokens: Tokens
    prediction: Tensor
    target: Tensor
    hidden: Tensor
    loss: Tensor


class MaeObjective(Objective[HostModel]):
    """Contrast and masked pixels; either weight may be 0, and that part is then not computed."""

    Config = MaeConfig
    LEAST_PAIRS = 2
    LEAVES_UNUSED = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        shape, sizes, config = self.host.shape, self.host.config, self.config
        if shape.grid is None or not shape.class_token:
            raise HarnessError(f"objective mae: {shape.name} has no grid of patches with a class token; take a ViT")
        self.seen = int(shape.patches * (1 - config.mask_ratio))
        if self.seen < 1:
            raise HarnessError(f"objective mae: mask_ratio {config.mask_ratio} leaves none of {shape.patches} patches")
        self.decoder = TokenDecoder(shape.width, shape.grid, config, sizes.mlp_ratio, sizes.vision_eps)
        self.pixels = nn.Linear(self.decoder.width, 3 * sizes.patch_size**2)
        draw_linear(self.pixels)
        self._fitted = visible_reducer(self.reducer, self.seen, "mae", config)

    def prepare(self) -> None:
        if self.config.contrast_weight:
            check_contrast("mae", self.host)

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        host, config = self.host, self.config
        wanted = config.contrast_weight or self.reducer.needs_text
        texts = host.text_batch(pairs.ids, pairs.mask) if wanted else None
        found: Losses = {}
        if config.contrast_weight and texts is not None:
            images_BP = host.embed_image(self.encode_images(pairs.pixels, texts))
            contrast = pair_contrast(images_BP, host.embed_text(texts), pair_scale(host))
            found["contrast"] = config.contrast_weight * contrast
        if config.pixel_weight:
            noise = patch_order(pairs.sample_ids, host.shape.patches, moment)
            found["pixels"] = config.pixel_weight * self.masked_pixels(pairs.pixels, noise, texts).loss
        return found

    def after_step(self) -> None:
        if self.config.contrast_weight:
            clamp_scale(self.host)

    def masked_pixels(self, pixels: Tensor, noise_BL: Tensor, texts: TextBatch | None = None) -> MaskedPixels:
        """Hide all but the patches of the smallest noise and predict the pixels of all; the hidden ones' errors count.

        The loss is one quotient over the batch; since every image hides as many, that of all processes is its mean.
        """
        seen_BK = noise_BL.argsort(dim=1)[:, : self.seen]
        guide: Guide | None = None if texts is None else self.host.guide(texts)
        tower, reducer = open_tower(self.host.vision), self._fitted.train(self.training)
        tokens = encode_visible(tower, reducer, pixels, seen_BK, guide).tokens
        states = tokens.with_states(tower.normed(tokens))
        every = torch.arange(noise_BL.shape[1], device=noise_BL.device).expand_as(noise_BL)
        spread = states.at_inputs()[:, states.prefix :]
        prediction = self.pixels(self.decoder(states.states[:, 0], spread, held(states), every))
        hidden = torch.ones_like(noise_BL).scatter(1, seen_BK, 0.0).to(prediction.dtype)
        target = patch_values(pixels, self.host.config.patch_size)
        wanted = normalised(target) if self.config.norm_pixels else target
        errors = (prediction - wanted).square().mean(dim=-1)
        return MaskedPixels(states, prediction, target, hidden, (errors * hidden).sum() / hidden.sum())


def patch_values(pixels: Tensor, side: int) -> Tensor:
    """Images (B, 3, H, W) as patches (B, n0, V): rows of a patch, in them columns, in these channels."""
    cut = pixels.unflatten(2, (-1, side)).unflatten(4, (-1, side))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def normalised(values: Tensor) -> Tensor:
    """Each patch less its mean, over its deviation (n - 1)."""
    mean, variance = values.mean(dim=-1, keepdim=True), values.var(dim=-1, keepdim=True)
    return (values - mean) / (variance + 1e-6).sqrt()

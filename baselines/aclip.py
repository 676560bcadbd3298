"""A-CLIP's mask: in training keep the blocks of patches that a momentum tower attends to (ICCV 2023).

Source: Yang et al. 2023, arXiv 2212.08653; microsoft/A-CLIP, models.py. Before block 0 the int(blocks * keep) + 1
blocks of 2 x 2 patches with the highest class attention of the momentum tower stay, its mean over all blocks and heads;
in evaluation all patches do. The mask is the golden's (aclip_mask), given its attention.

The momentum tower is the training objective's own: `albef` and `blip` run it on every image anyway and offer its
attention (`Guide.image_attention`); objectives without one refuse the method. It sees the image as the student does,
where the release shows it a wider crop: that, with SimCLR's and BYOL's losses, is `--objective aclip`.
"""

from harness.reduction import (
    PATCHES_OF_A_BLOCK,
    Guide,
    HarnessError,
    MethodConfig,
    Ratio,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    check_even_grid,
    kept_blocks,
    kept_patches,
    removed_patches,
)


class ACLIPConfig(MethodConfig):
    """keep: share of the blocks that stay, one more is added (.5 of 7 x 7 in the release: 25, so 100 patches)."""

    keep: Ratio = 0.5

    def bent(self, gamma: float) -> "ACLIPConfig":
        return self.model_copy(update={"keep": self.keep**gamma})


class ACLIP(TokenReducer[ACLIPConfig]):
    """Attentive masking in training, for contrast with `flip`, which draws its patches."""

    Config = ACLIPConfig
    only_in_training = True
    needs_momentum = True
    needs_class_token = True
    tolerance = 0.05  # a block of a small grid is a large share of it

    def __init__(self, config: ACLIPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.grid = check_even_grid(shape, "method aclip")
        self.count = PATCHES_OF_A_BLOCK * kept_blocks(self.grid, config.keep)

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block or not self.training or self.count >= state.patches:
            return state
        if guide is None or guide.image_attention is None:
            raise HarnessError(
                "method aclip selects by a momentum tower's class attention, and there is none here; train with an "
                "objective that has one (albef, blip), or give Guide.image_attention"
            )
        removed = removed_patches(guide.image_attention, self.grid, self.config.keep)
        return state.keep(kept_patches(removed, self.count))

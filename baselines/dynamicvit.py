"""DynamicViT: a predictor before some blocks says which tokens stay, trained with the host (arXiv 2106.02034).

Rests on the authors' program (raoyongming/DynamicViT), held by reference vectors in training and evaluation.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import PredictedConfig, PredictedStages, StackShape, Tokens


class DynamicViTConfig(PredictedConfig):
    """schedule: .7, .7^2 and .7^3 of the input's patches before blocks 3, 6 and 9. ratio_weight: 2 (5 for DeiT-B).

    distill_weight: of the distance of the patch tokens kept to the unreduced tower's: its mean square if mse_token
    (DeiT), otherwise the divergence of the softmax over channels (LV-ViT).
    """

    distill_weight: float = Field(default=0.5, ge=0)
    mse_token: bool = True


class DynamicViT(PredictedStages[DynamicViTConfig]):
    """Losses: ratio_weight mean_s (mean mask_s - keep_s)^2 and distill_weight times the token distance (losses.py).

    The program's divergence between class predictions is a loss of the task's, for hosts that classify.
    """

    Config = DynamicViTConfig

    def __init__(self, config: DynamicViTConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.needs_dense = config.distill_weight > 0

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        found = dict(super().losses(tokens, dense))
        if dense is not None and found:
            found["token"] = self.config.distill_weight * self.token_distance(tokens, dense)
        return found

    def token_distance(self, tokens: Tokens, dense: Tokens) -> Tensor:
        """Mean distance to the unreduced tower's, over all patch tokens that stand at the end; 0 if none does."""
        ours, theirs = tokens.states[:, tokens.prefix :], dense.states[:, dense.prefix :].detach()
        if self.config.mse_token:
            each = (ours - theirs).square().mean(dim=-1)
        else:
            logs = theirs.log_softmax(dim=-1)
            each = F.kl_div(ours.log_softmax(dim=-1), logs, log_target=True, reduction="none").sum(dim=-1)
        stands = tokens.standing[:, tokens.prefix :]
        return torch.where(stands, each, 0).sum() / stands.sum().clamp(min=1)

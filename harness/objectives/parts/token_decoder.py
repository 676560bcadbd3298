"""A small transformer that reads what left a tower and mask tokens for the rest, each with its position.

Source: facebookresearch/mae, models_mae.py (decoder), and valeoai/MOCA, models_moca.py, which has the same one. Shapes:
B images, n0 patches on a grid, M of them that the decoder reads, D channels of the tower, E of the decoder.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import PositiveInt
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import ObjectiveConfig

HEAD_WIDTH = 32


class DecoderConfig(ObjectiveConfig):
    """decoder_width: channels; left out, two thirds of the tower's, in whole heads (512 of ViT-B's 768, as released).

    decoder_heads: left out, of 32 channels each, as released. decoder_depth: blocks.
    """

    decoder_width: PositiveInt | None = None
    decoder_depth: PositiveInt = 8
    decoder_heads: PositiveInt | None = None


class TokenDecoder(nn.Module):
    """Embedding, mask token, fixed sin-cos positions, blocks and a last norm.

    HarnessError for a width that heads or the table of positions do not divide.
    """

    positions: Tensor

    def __init__(
        self, width: int, grid: tuple[int, int], config: DecoderConfig, mlp_ratio: float = 4, eps: float = 1e-6
    ) -> None:
        super().__init__()
        inner = config.decoder_width or max(1, round(2 * width / 3 / HEAD_WIDTH)) * HEAD_WIDTH
        heads = config.decoder_heads or max(1, inner // HEAD_WIDTH)
        if inner % heads or inner % 4:
            raise HarnessError(f"decoder_width {inner}: expected a multiple of 4 and of decoder_heads {heads}")
        norm = partial(nn.LayerNorm, eps=eps)
        self.width = inner
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.blocks = nn.ModuleList(
            Block(inner, heads, mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(config.decoder_depth)
        )
        self.norm = norm(inner)
        self.register_buffer("positions", sin_cos_table(inner, grid))
        self.apply(draw_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, whole_BD: Tensor, states_BMD: Tensor, here_BM: Tensor, places_BM: Tensor) -> Tensor:
        """What is decoded at patches places_BM, (B, M, E).

        whole_BD: what stands for the image. states_BMD: what is known of these patches where here_BM; elsewhere the
        mask token stands.
        """
        embedded = self.embed(torch.cat([whole_BD.unsqueeze(1), states_BMD], dim=1))
        patches = torch.where(here_BM.unsqueeze(-1), embedded[:, 1:], self.mask_token)
        tokens = torch.cat([embedded[:, :1], patches], dim=1) + torch.cat(
            [self.positions[:, :1].expand(len(places_BM), -1, -1), self.positions[0, 1:][places_BM]], dim=1
        )
        for block in self.blocks:
            tokens = block(tokens)
        decoded: Tensor = self.norm(tokens)[:, 1:]
        return decoded


def draw_linear(module: nn.Module) -> None:
    """Draw a Linear's weight as both programs do."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sin_cos_table(width: int, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + n0, width): zeros for what stands for the image, then each patch's column and row, half of it each.

    A half is sin, then cos, of the number over 10000^(i / (width / 4)).
    """
    rows, columns = grid
    rates = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (column, row)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([table.new_zeros(1, width), table]).float().unsqueeze(0)

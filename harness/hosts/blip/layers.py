"""What BLIP's text layers are beside BERT's: a decoder's that borrows from the encoder, an encoder's for two images.

Shapes: B texts, L tokens, N image tokens, M states that a decoder reads, D width.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from harness.reduction import Tokens


class OwnAttention(nn.Module):
    """What a decoder layer holds when it shares all else with an encoder layer: `attention`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = layer.attention


class PairOutput(nn.Module):
    """What two images gave to a text, brought into its states: averaged, or merged by a Linear (2 D -> D)."""

    def __init__(self, single: Any, merged: bool, std: float | None) -> None:
        super().__init__()
        self.dense0, self.dense1 = single.dense, deepcopy(single.dense)
        self.LayerNorm, self.dropout = single.LayerNorm, single.dropout
        self.merge_layer = None
        if merged:
            width = single.dense.out_features
            self.merge_layer = nn.Linear(2 * width, width)
            nn.init.normal_(self.merge_layer.weight, std=std or (2 * width) ** -0.5)
            nn.init.zeros_(self.merge_layer.bias)

    def forward(self, first_BLD: Tensor, second_BLD: Tensor, states_BLD: Tensor) -> Tensor:
        first_BLD, second_BLD = self.dense0(first_BLD), self.dense1(second_BLD)
        if self.merge_layer is None:
            read_BLD = (first_BLD + second_BLD) / 2
        else:
            read_BLD = self.merge_layer(torch.cat([first_BLD, second_BLD], dim=-1))
        output_BLD: Tensor = self.LayerNorm(self.dropout(read_BLD) + states_BLD)
        return output_BLD


class PairAttention(nn.Module):
    """Cross-attention to two images, each by its own queries, keys and values (released models/nlvr_encoder.py).

    Both start as the `single` one is, whose parts it takes. `std`: deviation of the merging weights, by default
    1 / sqrt(inputs).
    """

    def __init__(self, single: Any, merged: bool, std: float | None) -> None:
        super().__init__()
        self.self0, self.self1 = single.self, deepcopy(single.self)
        self.output = PairOutput(single.output, merged, std)

    def forward(self, states_BLD: Tensor, first: Tokens, second: Tokens) -> Tensor:
        """States (B, L, D) that have read both images; their numbers of tokens may differ."""
        read0_BLD, read1_BLD = _read(self.self0, states_BLD, first), _read(self.self1, states_BLD, second)
        output_BLD: Tensor = self.output(read0_BLD, read1_BLD, states_BLD)
        return output_BLD


def _read(attention: Any, states_BLD: Tensor, image: Tokens) -> Tensor:
    mask = None if image.mask is None else image.mask[:, None, None, :]
    read_BLD: Tensor = attention(states_BLD, image.states, mask)
    return read_BLD


def read_pairs(layers: nn.ModuleList, std: float | None) -> None:
    """Give encoder layers a cross-attention to two images in place of theirs.

    The first half of the layers averages what they give, the second half merges it (released models/nlvr_encoder.py:
    from layer 6 of 12).
    """
    for index, layer in enumerate(layers):
        layer.crossattention = PairAttention(layer.crossattention, merged=index >= len(layers) // 2, std=std)

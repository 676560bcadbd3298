"""GTP: tokens that go hand what they hold to their neighbours in a graph (GTP-ViT, WACV 2024, arXiv 2311.03035)."""

from dataclasses import replace
from math import isqrt
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    Guide,
    HarnessError,
    MethodConfig,
    Ratio,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    attention_map,
    per_block,
    phase,
    split_top,
    take,
)

Selection = Literal["CLSAttn", "IMGAttn", "DiagAttn", "MixedAttn", "SumAttn", "CosSim"]


class GTPConfig(MethodConfig):
    """num_prop: tokens that go in each block, fractions spread evenly; or num_prop_per_block.

    selection: of the class token's row, the column sums, the diagonal, the two multiplied or added, or minus the cosine
    to the other rows; heads: how heads are joined before that. propagation: `GraphProp` hands alpha times the tokens
    over the graph; `Mean` appends their mean; `None` drops them. graph: `Spatial` the 8 neighbours, `Semantic` the
    num_neighbours most similar embedded tokens, `Mixed` either. sparsity: the share of the attention map that is not
    set to 0. token_scale: what tokens received is handed on, too, and weighs their keys (GraphProp only).
    Defaults are the settings that the program's authors call best; they set alpha by a table, 0.1 is the program's.
    """

    num_prop: float = Field(default=8, ge=0)
    num_prop_per_block: tuple[NonNegativeInt, ...] | None = None
    selection: Selection = "MixedAttn"
    heads: Literal["Mean", "Max"] = "Max"
    propagation: Literal["GraphProp", "Mean", "None"] = "GraphProp"
    graph: Literal["Spatial", "Semantic", "Mixed"] = "Mixed"
    num_neighbours: PositiveInt = 8
    alpha: float = 0.1
    sparsity: Ratio = 1.0
    token_scale: bool = False

    def bent(self, gamma: float) -> "GTPConfig":
        if self.num_prop_per_block:
            raise HarnessError("num_prop_per_block sets the budget already: leave out num_prop_per_block or the ratio")
        return self.model_copy(update={"num_prop": float(gamma)})


class GTP(TokenReducer[GTPConfig]):
    """Between attention and MLP of every block; kept tokens stand by falling score, and the graph shrinks with them.

    Rests on Ackesnal/GTP-ViT, models_v3.py. The graph is normalised once, by the root of its rows' sums on both sides;
    the semantic one is not symmetric. Scales grow: what is handed on is not taken from anyone.
    """

    Config = GTPConfig
    needs_class_token = True
    sizes_count_patches = False  # scales grow by what is handed on (models_v3.py)

    def __init__(self, config: GTPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        removed = config.num_prop_per_block or per_block(config.num_prop, 0, shape.depth)
        self.removed = {block: count for block, count in enumerate(removed[: shape.depth]) if count}
        self.graphs = config.propagation == "GraphProp" and bool(self.removed)
        if config.token_scale and config.propagation != "GraphProp":
            raise HarnessError(f"token_scale with propagation={config.propagation}: only GraphProp hands scales on")
        if self.graphs and config.graph != "Semantic" and isqrt(shape.patches) ** 2 != shape.patches:
            raise HarnessError(f"gtp graph={config.graph}: {shape.patches} patches are no square; use graph=Semantic")

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if not self.graphs:
            return state
        if self.config.token_scale:
            state = replace(state, sizes=state.tokens.new_ones(state.tokens.shape[:2]))
        with torch.no_grad(), phase("matching"):
            return state.noted(graph=self.graph(state.patch_tokens))

    def graph(self, tokens: Tensor) -> Tensor:
        """The normalised graph (B, P, P) of the embedded tokens (B, P, D)."""
        patches, links = tokens.shape[1], torch.zeros(1, 1, dtype=torch.bool, device=tokens.device)
        if self.config.graph != "Semantic":
            place, side = torch.arange(patches, device=tokens.device), isqrt(patches)
            row, column = place // side, place % side
            links = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
        if self.config.graph != "Spatial":
            unit = F.normalize(tokens, dim=-1)
            cosines = unit @ unit.transpose(1, 2)
            lowest = cosines.kthvalue(max(1, patches - self.config.num_neighbours), dim=-1, keepdim=True).values
            links = links | (cosines >= lowest)
        links = links & ~torch.eye(patches, dtype=torch.bool, device=tokens.device)
        weights = links.expand(len(tokens), -1, -1).to(tokens.dtype)
        scale = weights.sum(dim=-1).rsqrt()
        return scale.unsqueeze(2) * weights * scale.unsqueeze(1)

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if block not in self.removed and (self.config.sparsity == 1 or not self.removed):
            return stack.softmax_attention(block, q, k, v, state, self.config.token_scale), state
        full = attention_map(q, k, stack.bias(state, self.config.token_scale))
        dropped = int(full.shape[2] * full.shape[3] * (1 - self.config.sparsity))
        if dropped:
            lowest = full.detach().flatten(2).kthvalue(dropped, dim=-1).values
            full = full.masked_fill(full < lowest[..., None, None], 0)
        with torch.no_grad(), phase("scoring"):
            scores = self.scores(full.detach(), state.prefix)
        return full @ v, state.noted(scores=scores)

    def scores(self, full: Tensor, prefix: int) -> Tensor:
        """The attention map (B, H, N, N) -> (B, P), what tokens are worth."""
        kind = self.config.selection

        def joined(each: Tensor) -> Tensor:
            return each.mean(dim=1) if self.config.heads == "Mean" else each.amax(dim=1)

        if kind == "CLSAttn":
            return joined(full[:, :, 0, prefix:])
        if kind == "CosSim":
            unit = F.normalize(joined(full[:, :, prefix:]), dim=-1)
            return -(unit @ unit.transpose(1, 2)).sum(dim=-1)
        own = joined(full.diagonal(dim1=-2, dim2=-1)[..., prefix:])
        received = joined(full[..., prefix:].sum(dim=-2))
        by_kind = {"IMGAttn": received, "DiagAttn": own, "MixedAttn": own * received, "SumAttn": own + received}
        return by_kind[kind]

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = min(self.removed.get(block, 0), state.patches - 1)
        if count <= 0:
            return state
        kept, gone = split_top(state.notes["scores"], state.patches - count)
        reduced = state.keep(kept)
        if self.config.propagation == "Mean":
            equal = state.patch_tokens.new_full(gone.shape, 1 / count)
            return reduced.append(state.pool(gone, equal))
        return self.propagated(state, reduced, kept, gone) if self.graphs else reduced

    def propagated(self, state: TokenState, reduced: TokenState, kept: Tensor, gone: Tensor) -> TokenState:
        """Hand the tokens that go, and their scales, to those that are kept."""
        rows = take(state.notes["graph"], kept)
        links = self.config.alpha * rows.gather(2, gone.unsqueeze(1).expand(-1, rows.shape[1], -1))
        graph = rows.gather(2, kept.unsqueeze(1).expand(-1, rows.shape[1], -1))
        sizes = reduced.sizes
        if sizes is not None:
            handed = (links @ state.patch_sizes.gather(1, gone).unsqueeze(-1)).squeeze(-1)
            sizes = sizes + torch.cat([torch.zeros_like(sizes[:, : state.prefix]), handed], dim=1)
        tokens = reduced.patch_tokens + links @ take(state.patch_tokens, gone)
        return replace(reduced.with_patch_tokens(tokens), sizes=sizes).noted(graph=graph)

"""ATS: sample tokens by inverse transform from the class token's attention; duplicates collapse (arXiv 2111.15667)."""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from harness.reduction import (
    Evidence,
    Guide,
    HarnessError,
    MethodConfig,
    Schedule,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    attention_map,
    geometric,
    phase,
    policy_map,
    take,
    validated,
)

MOST_SAMPLES = 32  # times n0: more of them tell no more tokens apart
# A bend below this would oversample beyond that everywhere: what is asked for above it is all tokens.
FINEST = 2.0**-12


class ATSConfig(MethodConfig):
    """program: `authors` (adaptivetokensampling/ATS) samples tokens sorted by score, evenly from the least to the most
    significant; `token_reduction` (models/ats.py of Haurum et al.) in the order of their positions.

    schedule: blocks and samples there, as shares of n0; left out, `authors` has n0 of them in every block from 3 on, as
    its program must, and `token_reduction` .7^s at 3, 6, 9. sample_counts: numbers instead of the shares.
    oversampling: a factor on the samples, which `--ratios` bends; 0 switches the method off.
    drop_tokens: cut to the longest image; else all lengths stay (`authors`).
    as_in_a_batch: padding as the programs have it, so that an image depends on those beside it: for `authors` it shares
    the eps 1e-6 of a masked softmax and is the least significant token; for `token_reduction` it is copies of the
    class token. The default is an image by itself, with a plain softmax.
    """

    program: Literal["authors", "token_reduction"] = "authors"
    schedule: Schedule | None = None
    sample_counts: tuple[NonNegativeInt, ...] | None = None
    oversampling: float = Field(default=1.0, ge=0)
    drop_tokens: bool = True
    as_in_a_batch: bool = False

    def bent(self, gamma: float) -> "ATSConfig":
        return self.model_copy(update={"oversampling": self.oversampling / gamma if gamma >= FINEST else 0.0})

    def samples(self, shape: StackShape) -> dict[int, int]:
        """How many are drawn, by block."""
        authors = self.program == "authors"
        last = shape.depth if authors else min(10, shape.depth)
        begin = range(3, max(last, 4), 1 if authors else 3)
        keep = (1.0,) * len(begin) if authors else geometric(0.7, len(begin))
        schedule = self.schedule or validated(Schedule, {"begin": tuple(begin), "keep": keep}, "ats schedule")
        schedule.check_depth(shape.depth)
        counts = self.sample_counts or schedule.counts(shape.patches)
        if len(counts) != len(schedule.begin):
            raise HarnessError(
                f"sample_counts has {len(counts)} entries: the schedule has {len(schedule.begin)} stages"
            )
        if self.oversampling == 0:
            return {}
        most = MOST_SAMPLES * shape.patches
        return {
            block: max(min(count, 1), int(min(count * self.oversampling, most)))
            for block, count in zip(schedule.begin, counts)
        }


class ATS(TokenReducer[ATSConfig]):
    """In a block's attention only the queries of the picked tokens run, and only they stay.

    A token counts by the class token's attention to it times the norm of its value (section 3). The most significant
    one always stays. If the authors' program picks only the two least significant it drops one; this one does not.
    """

    Config = ATSConfig
    adaptive = True
    needs_class_token = True

    def __init__(self, config: ATSConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.samples = config.samples(shape)
        self.authors = config.program == "authors"
        self.in_a_batch = config.as_in_a_batch and bool(self.samples)

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        return self.blank(state)

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        return self.blank(state)

    def blank(self, state: TokenState) -> TokenState:
        """Padding is zeros wherever a part of the authors' blocks begins."""
        if not (self.in_a_batch and self.authors) or state.standing is None:
            return state
        return replace(state, tokens=state.tokens * state.standing.unsqueeze(-1))

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        count = self.samples.get(block)
        if count and self.in_a_batch and self.authors and state.standing is not None:
            q, k, v = (part * state.standing[:, None, :, None] for part in (q, k, v))
        full = self.batch_map(q, k, state, stack) if self.in_a_batch else None
        if count is None:
            return (super().attention(block, q, k, v, state, stack)[0] if full is None else full @ v), state
        with torch.no_grad(), phase("scoring"):
            row = attention_map(q[:, :, :1], k, stack.bias(state, False)) if full is None else full[:, :, :1]
            scores = self.significance(row[:, :, 0, state.prefix :], v[:, :, state.prefix :])
            picked, stays = self.pick(scores, count, state.patch_standing)
        left, rows = state.keep_where(picked, stays), picked + state.prefix
        if self.in_a_batch and not self.authors:
            rows = rows.masked_fill(~stays, 0)
            left = left.with_patch_tokens(take(state.tokens, rows))
        rows = torch.cat([torch.arange(state.prefix, device=rows.device).expand(len(rows), -1), rows], dim=1)
        if full is None:
            return stack.softmax_attention(block, _rows(q, rows), k, v, state), left
        return _rows(full, rows) @ v, self.blank(left)

    def batch_map(self, q: Tensor, k: Tensor, state: TokenState, stack: Stack) -> Tensor:
        """The attention map (B, H, N, N) as the programs have it where some tokens are padding."""
        standing = torch.ones_like(state.tokens[..., 0], dtype=torch.bool) if state.standing is None else state.standing
        if self.authors:
            return policy_map(q, k, standing.to(q.dtype))
        found = attention_map(q, k, stack.bias(state, False))
        return found.masked_fill(~standing[:, None, :, None], 1 / found.shape[-1])

    def significance(self, row: Tensor, values: Tensor) -> Tensor:
        """Class attention (B, H, P) and values (B, H, P, d) -> scores (B, P), which sum to 1."""
        if self.authors:
            scores = row.sum(dim=1) * values.transpose(1, 2).flatten(2).norm(dim=-1)
            return scores / scores.sum(dim=1, keepdim=True)
        scores = (row * values.norm(dim=-1)).sum(dim=1)
        return scores / (scores.sum(dim=1, keepdim=True) + 1e-6)

    def pick(self, scores: Tensor, count: int, standing: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct tokens (B, K) nearest to the samples on the cumulative scores (B, P), and which K stand."""
        if self.authors:
            time = torch.arange(count, device=scores.device, dtype=scores.dtype)
            order = torch.sort(scores.masked_fill(~standing, -1), dim=1, stable=True).indices
            sums = scores.masked_fill(~standing, 0).gather(1, order).cumsum(dim=1)
            first = torch.zeros_like(order[:, :1]) if self.in_a_batch else (~standing).sum(dim=1, keepdim=True)
            lowest = sums.gather(1, first)
            line = (sums - lowest) / (sums[:, -1:] - lowest).clamp(min=torch.finfo(sums.dtype).tiny)
            start = line.masked_fill(line <= 0, 1).amin(dim=1, keepdim=True)
            wanted = start + time * (1 - start) / max(count - 1, 1)
        else:
            order = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
            line = scores.cumsum(dim=1) + 0.1 * ~standing
            # Of about a fifth of all counts the range rounds to one sample more, at its end, as the program's does.
            whole = 2 * (count + 1)
            samples = torch.arange(1 / whole, (whole - 1) / whole, 2 / whole, device=scores.device, dtype=scores.dtype)
            wanted = samples.expand(len(scores), -1)
        chosen = torch.zeros_like(standing).scatter(1, _nearest(line, wanted), True) & standing.gather(1, order)
        if self.authors:
            chosen = torch.cat([chosen[:, :-1], torch.ones_like(chosen[:, -1:])], dim=1)
        longest = int(chosen.sum(dim=1).max()) if self.config.drop_tokens else chosen.shape[1]
        place = torch.sort((~chosen).to(torch.int8), dim=1, stable=True).indices[:, :longest]
        return order.gather(1, place), chosen.gather(1, place)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, M) of values (B, H, N, X)."""
    return values.gather(2, rows[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def _nearest(line: Tensor, wanted: Tensor) -> Tensor:
    """The entry of a rising line (B, P) that is nearest to each number wanted (B, K); the first one of equals."""
    line = line.contiguous()
    above = torch.searchsorted(line, wanted.contiguous()).clamp(max=line.shape[1] - 1)
    below = (above - 1).clamp(min=0)
    near = torch.where(wanted - line.gather(1, below) <= line.gather(1, above) - wanted, below, above)
    return torch.searchsorted(line, line.gather(1, near)).clamp(max=line.shape[1] - 1)  # of NaN it is the number beyond

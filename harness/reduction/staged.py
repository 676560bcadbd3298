"""Methods that reduce at a few blocks to fixed counts: their settings, and those that learn to mix tokens there."""

from __future__ import annotations

from abc import abstractmethod
from math import ceil
from typing import Self, TypeVar

from pydantic import PositiveInt
from torch import nn

from harness.kit.errors import HarnessError
from harness.kit.settings import validated
from harness.reduction.guide import Guide
from harness.reduction.method import MethodConfig, TokenReducer
from harness.reduction.schedule import Ratio, Schedule, geometric
from harness.reduction.stack import Stack, StackShape
from harness.reduction.state import TokenState


class StagedConfig(MethodConfig):
    """schedule: the blocks, and the share of the input's patches that each leaves; int(n0 keep) of them.

    The default is the comparison's of Haurum et al. (ICCVW 2023, JoakimHaurum/TokenReduction): 0.7^s at blocks 3, 6, 9.
    keep_tokens: K per stage, instead of the schedule's `keep`.
    """

    schedule: Schedule = Schedule(begin=(3, 6, 9), keep=geometric(0.7, 3))
    keep_tokens: tuple[PositiveInt, ...] | None = None

    def bent(self, gamma: float) -> Self:
        if self.keep_tokens:
            raise HarnessError("keep_tokens sets the budget already: leave out keep_tokens or the ratio")
        return self.model_copy(update={"schedule": self.schedule.bend(gamma)})

    def counts(self, shape: StackShape, total: int | None = None) -> tuple[int, ...]:
        """K of each stage, at most n0; `keep` is of `total`, n0 if left out.

        Raises HarnessError for stages that are not in the stack, and for keep_tokens that do not fit them, rise, or
        are more than there are.
        """
        self.schedule.check_depth(shape.depth)
        given, stages = self.keep_tokens, len(self.schedule.begin)
        if given is None:
            return tuple(min(count, shape.patches) for count in self.schedule.counts(total or shape.patches))
        if len(given) != stages:
            raise HarnessError(f"keep_tokens has {len(given)} entries: the schedule has {stages} stages")
        if given[0] > shape.patches:
            raise HarnessError(f"keep_tokens {given[0]}: more tokens kept than the {shape.patches} there are")
        if list(given) != sorted(given, reverse=True):
            raise HarnessError(f"keep_tokens {list(given)}: expected counts that do not rise")
        return given

    def stages(self, shape: StackShape) -> dict[int, tuple[int, int]]:
        """By block, (s, K) of the stages, s counting from 0; none where all leave the n0 tokens that there are.

        A stage that leaves as many as there were works as the others do, as in the programs: it orders or mixes them.
        """
        counts = self.counts(shape)
        if min(counts) >= shape.patches:
            return {}
        return {block: (stage, count) for stage, (block, count) in enumerate(zip(self.schedule.begin, counts))}


TINY = 1e-9  # a keep ratio that leaves one token, and is no zero


class RatedConfig(MethodConfig):
    """keep_rate counts ceil of the current tokens, at `blocks` (from 0); a schedule, if given, int of the input's."""

    keep_rate: Ratio = 0.7
    blocks: tuple[int, ...]
    schedule: Schedule | None = None

    def bent(self, gamma: float) -> Self:
        if self.schedule is not None:
            return self.model_copy(update={"schedule": self.schedule.bend(gamma)})
        return self.model_copy(update={"keep_rate": max(self.keep_rate**gamma, TINY)})

    def counts(self, method: str, shape: StackShape, pooled: bool) -> dict[int, int]:
        """By block, K of the stages that leave fewer tokens than there were before.

        `pooled`: what a stage drops stands on as one token more. HarnessError, which names the method, for blocks that
        do not rise or are not in the stack.
        """
        rates = {
            "begin": self.blocks,
            "keep": [max(rate, TINY) for rate in geometric(self.keep_rate, len(self.blocks))],
        }
        schedule = self.schedule or validated(Schedule, rates, f"{method} blocks")
        schedule.check_depth(shape.depth)
        found, current = dict[int, int](), shape.patches
        for block, absolute in zip(schedule.begin, schedule.counts(shape.patches)):
            count = absolute if self.schedule else ceil(self.keep_rate * current)
            if count < current:
                found[block] = count
                current = count + pooled
        return found


S = TypeVar("S", bound=StagedConfig)


class MixedStages(TokenReducer[S]):
    """Before each stage's block, a learned layer mixes the tokens behind the prefix into K.

    A layer takes tokens (B, P, D) and gives the mixed (B, K, D) and the weights (B, K, P); an input is traced to the
    one that weighs it most. Layers have the released names.
    """

    def __init__(self, config: S, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)
        self.cluster_layers = nn.ModuleDict({str(stage): self.layer(count) for stage, count in self.stages.values()})

    @abstractmethod
    def layer(self, count: int) -> nn.Module:
        """A stage's layer, of K = `count`."""

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block not in self.stages:
            return state
        stage, _ = self.stages[block]
        mixed, weights = self.cluster_layers[str(stage)](state.patch_tokens)
        into = weights.argmax(dim=1)
        return state.regroup(mixed, into).noted(**{f"assignment_{block}": into})

"""The settings of methods that reduce at a few blocks to fixed counts: a schedule, or the counts themselves."""

from __future__ import annotations

from typing import Self

from pydantic import PositiveInt

from harness.kit.errors import HarnessError
from harness.reduction.method import MethodConfig
from harness.reduction.schedule import Schedule, geometric
from harness.reduction.stack import StackShape


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
        """By block, (s, K) of the stages that leave fewer tokens than there were before; s counts all from 0."""
        found, current = {}, shape.patches
        for stage, (block, count) in enumerate(zip(self.schedule.begin, self.counts(shape))):
            if count < current:
                found[block] = (stage, count)
                current = count
        return found

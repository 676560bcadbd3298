"""Several objectives that share a host and its batches, minimised as a weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from harness.data.pair_batch import PairBatch
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.objectives.parts.batches import Batches
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs


class WeightedSum(Objective[HostModel]):
    """Each loss is called OBJECTIVE.LOSS and multiplied by its objective's weight; steps and rates are the first's."""

    def __init__(self, members: Sequence[Objective[Any]], weights: Mapping[str, float]) -> None:
        first = members[0]
        super().__init__(first.host, first.reducer, first.specials, first.recipe)
        self.members, self.weights = nn.ModuleList(members), dict(weights)

    @property
    def each(self) -> list[Objective[Any]]:
        """The objectives in their order."""
        return [member for member in self.members if isinstance(member, Objective)]

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Pairs:
        return self.each[0].read(batch, tokenizer)

    def losses(self, pairs: Any, moment: Moment) -> Losses:
        losses: Losses = {}
        for (name, weight), member in zip(self.weights.items(), self.each, strict=True):
            member._encoded = self._encoded  # the method's own losses are added once, for all
            losses |= {f"{name}.{part}": weight * loss for part, loss in member.losses(pairs, moment).items()}
        return losses

    def prepare(self) -> None:
        for member in self.each:
            member.prepare()

    def begin(self, batches: Batches) -> None:
        for member in self.each:
            member.begin(batches)

    def before_epoch(self, epoch: int, batches: Batches, tokenizer: Tokenizer) -> None:
        for member in self.each:
            member.before_epoch(epoch, batches, tokenizer)

    def default_steps(self, steps_per_epoch: int) -> int:
        return self.each[0].default_steps(steps_per_epoch)

    def phase(self, step: int) -> str:
        return "+".join(member.phase(step) for member in self.each).strip("+")

    def enter(self, phase: str) -> None:
        for member in self.each:
            member.enter(phase)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.each[0].rate(step, steps, steps_per_epoch)

    def decays(self, parameter: nn.Parameter) -> bool:
        return self.each[0].decays(parameter)

    def after_step(self) -> None:
        for member in self.each:
            member.after_step()

    def config_entries(self) -> dict[str, Any]:
        return {name: value for member in self.each for name, value in member.config_entries().items()}

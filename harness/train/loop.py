"""The training loop: batches to optimizer steps, with logging, checkpoints and exact resumption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit import distributed, recompute
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.objectives.parts.batches import Batches
from harness.objectives.parts.objective import Batch, Moment, Objective
from harness.objectives.parts.recipe import Recipe
from harness.train.checkpoint import CHECKPOINTS, load_newest, save_checkpoint
from harness.train.log import TrainLog
from harness.train.optim import freeze, make_optimizer, set_rate

MOST_NAMED = 3


@dataclass
class Position:
    """Where a run stands: optimizer steps done, epoch, micro-batches done in it and in all, seconds spent."""

    step: int = 0
    epoch: int = 0
    in_epoch: int = 0
    batches: int = 0
    bad_samples: int = 0
    truncated: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """Everything one training run needs; `train` takes it from where it stands to the end.

    `facts` must agree between a checkpoint and the run that resumes from it.
    """

    objective: Objective[Any]
    batches: Batches
    tokenizer: Tokenizer
    recipe: Recipe
    accelerator: Accelerator
    folder: Path
    facts: dict[str, Any]
    seed: int
    steps: int
    dtype: torch.dtype
    log: TrainLog
    save_every: int = 1000
    log_every: int = 10
    recompute: bool = False
    position: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        self._prepared = False
        self._enter(self.objective.phase(0))
        self.checkpoints = self.folder / CHECKPOINTS
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._saved = -1
        self._bad = self._truncated = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(1, self.batches.steps_per_epoch // self.recipe.accumulate)

    def _enter(self, phase: str) -> None:
        """Begin a phase of training with an optimizer of its own, over what the phase trains."""
        self.phase = phase
        self.objective.enter(phase)
        freeze(self.objective, self.recipe)
        optimizer = make_optimizer(self.objective, self.recipe, self.objective.decays)
        if self._prepared and distributed.world() == 1:
            self.accelerator.free_memory()  # of the optimizer before
            self.optimizer = self.accelerator.prepare(optimizer)
        else:  # what several processes exchange depends on what asks for gradients
            self.model, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        self._prepared = True

    def resume(self) -> bool:
        """Take up the newest whole checkpoint, if there is one."""
        found = load_newest(self.checkpoints, self.facts, warn_on_stderr if distributed.rank() == 0 else _say_nothing)
        step, state = found or (0, {})
        if len(set(distributed.gather(torch.tensor([step], device=self.accelerator.device)).tolist())) > 1:
            raise HarnessError(f"{self.checkpoints}: not the same on all nodes; name an --out that they share")
        if found is None:
            return False
        # The state of the optimizer is that of the last step done.
        if self.phase != (phase := self.objective.phase(max(0, step - 1))):
            self._enter(phase)
        self.accelerator.unwrap_model(self.model).load_state_dict(state["objective"])
        self.objective.host.untrained = frozenset(state.get("untrained", ()))
        self.optimizer.load_state_dict(state["optimizer"])
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        self._saved = step
        _set_generators(state["generators"][distributed.rank()])
        return True

    def train(self) -> None:
        """Train to the last step; a run that is killed at any moment goes on with `resume`.

        Raises HarnessError for a loss that is not finite (the last good checkpoint stays), for too many bad samples
        and for a checkpoint that cannot be written.
        """
        if self.position.step >= self.steps:
            return
        self.model.train()
        self.objective.begin(self.batches)
        self.log.open(self.position.step)
        began, before = time.perf_counter(), self.position.seconds
        try:
            for pairs in self._batches():
                self._advance(pairs)
                self.position.seconds = before + time.perf_counter() - began
                if not self.accelerator.sync_gradients:
                    continue
                done = self.position.step == self.steps
                if done or self.position.step % self.log_every == 0:
                    self._report()
                if done or self.position.step % self.save_every == 0:
                    self._report()
                    self.save()
                if done:
                    return
        finally:
            self.log.close()

    def save(self) -> None:
        """Write a checkpoint of this very moment; HarnessError where a weight is not finite or it cannot be written."""
        position = self.position
        spoiled = self._first_spoiled_weight()
        if spoiled is not None:
            raise self._diverged(f"weight {spoiled}")
        generators = _gathered(_generators())
        if self.accelerator.is_main_process and position.step != self._saved:
            scaler = getattr(self.accelerator, "scaler", None)
            state = {
                "objective": self.accelerator.unwrap_model(self.model).state_dict(),
                "untrained": sorted(self.objective.host.untrained),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "position": vars(position),
                "generators": generators,
            }
            save_checkpoint(self.checkpoints, position.step, state, self.facts)
        self._saved = position.step
        self.accelerator.wait_for_everyone()

    def _batches(self) -> Iterator[Batch]:
        """Batches from the run's position on, epoch after epoch; the position counts a batch once it was trained on."""
        while True:
            if self.position.in_epoch == 0:
                self.objective.before_epoch(self.position.epoch, self.batches, self.tokenizer)
            for batch in self.batches.epoch(self.position.epoch, self.position.in_epoch):
                self._bad += batch.bad
                yield self._pairs(batch)
            self.position.epoch += 1
            self.position.in_epoch = 0

    def _pairs(self, batch: Any) -> Batch:
        before = self.tokenizer.truncated
        pairs = self.objective.read(batch, self.tokenizer)
        self._truncated += self.tokenizer.truncated - before
        return pairs.to(self.accelerator.device, self.dtype)

    def _advance(self, pairs: Batch) -> None:
        position, recipe = self.position, self.recipe
        if self.phase != (phase := self.objective.phase(position.step)):
            self._enter(phase)
        epochs_done = position.epoch + position.in_epoch / self.batches.steps_per_epoch
        alpha, done = recipe.alpha_at(epochs_done), position.step / self.steps
        moment = Moment(self.seed, position.epoch, position.batches, alpha, done)
        with self.accelerator.accumulate(self.model), recompute.recomputing(self.recompute):
            losses = self.model(pairs, moment)
            self.accelerator.backward(torch.stack([loss.view(()) for loss in losses.values()]).sum())
            self.objective.host.trained_now()
            if position.batches == 0:
                self._check_method()
            if self.accelerator.sync_gradients:
                set_rate(self.optimizer, self.objective.rate(position.step, self.steps, self.steps_per_epoch))
                if recipe.clip_norm is not None:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.accelerator.sync_gradients:
            self.objective.after_step()
        for name, loss in losses.items():
            held = self._sums.get(name)
            self._sums[name] = loss.detach() if held is None else held + loss.detach()
        self._summed += 1
        position.in_epoch += 1
        position.batches += 1
        position.step += int(self.accelerator.sync_gradients)

    def _check_method(self) -> None:
        """HarnessError where no parameter of a method that learns got a gradient in the first step; a warning about
        some of them.
        """
        reducer = self.objective.reducer
        asked = {name: one for name, one in reducer.named_parameters() if one.requires_grad}
        without = [name for name, parameter in asked.items() if parameter.grad is None]
        if not without:
            return
        which = ", ".join(without[:MOST_NAMED]) + (", …" if len(without) > MOST_NAMED else "")
        line = f"method {type(reducer).__name__}: no gradient reaches {which}"
        if len(without) == len(asked):
            raise HarnessError(f"{line}: it would learn nothing; let its tokens or its losses depend on them")
        if distributed.rank() == 0:
            warn_on_stderr(f"{line}: they stay as they are")

    def _report(self) -> None:
        """Log the mean losses since the last report and count its bad samples; HarnessError for a loss not finite."""
        if not self._summed:
            return
        names = list(self._sums)
        own = torch.stack([self._sums[name].view(()).double() for name in names])
        counts = own.new_tensor([self._bad, self._truncated]) * distributed.world()
        *means, bad, truncated = distributed.mean_over_ranks(torch.cat([own / self._summed, counts])).tolist()
        values = dict(zip(names, means))
        self.position.bad_samples += round(bad)
        self.position.truncated += round(truncated)
        self._sums, self._summed, self._bad, self._truncated = {}, 0, 0, 0
        step, batch = self.position.step, self.recipe.batch_size * distributed.world() * self.recipe.accumulate
        rate = self.objective.rate(step - 1, self.steps, self.steps_per_epoch)
        self.log.losses(step, self.position.epoch, values, rate, batch)
        spoiled = [name for name, value in values.items() if not abs(value) < float("inf")]
        if spoiled:
            raise self._diverged(f"loss {spoiled[0]}")

    def _first_spoiled_weight(self) -> str | None:
        """The first parameter that is not finite: one step may spoil it and leave that step's loss as it should be."""
        named = [(name, parameter.detach()) for name, parameter in self.objective.named_parameters()]
        finite = torch.stack([torch.isfinite(parameter).all() for _, parameter in named])
        return None if finite.all() else named[int(finite.int().argmin())][0]

    def _diverged(self, what: str) -> HarnessError:
        kept = f"the checkpoint of step {self._saved} is kept" if self._saved >= 0 else "no checkpoint was written"
        return HarnessError(
            f"{what} is not finite at step {self.position.step}: {kept}; lower learning_rate or set clip_norm "
            "(--recipe), or train with --precision bf16 or no"
        )


def _say_nothing(line: str) -> None:
    """What every process sees is said by the first one only."""


def _generators() -> dict[str, Tensor]:
    """The states of torch's generators in this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _gathered(own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """One entry per rank."""
    if distributed.world() == 1:
        return [own]
    found: list[Any] = [None] * distributed.world()
    torch.distributed.all_gather_object(found, own)
    return found

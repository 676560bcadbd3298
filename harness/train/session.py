"""What every training run begins and ends with: its processes, its loader, what it must agree with, what it leaves."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed

from harness.data.augment import Augmentation
from harness.data.pair_loader import PairLoader
from harness.data.pairs import PairRef
from harness.hosts.build import paper_settings, split_name
from harness.hosts.host import HostConfig, HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.ready import fill_method, pick_device, pick_dtype
from harness.hosts.weights.facts import CONFIG_FILE
from harness.hosts.weights.find import WEIGHTS_FILE
from harness.hosts.weights.own import LearnedMethod, save_weights
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.peak_memory import peak_mib, reset_peak
from harness.kit.progress import Progress
from harness.kit.provenance import provenance
from harness.kit.registry import methods
from harness.kit.settings import validated
from harness.objectives import Choice
from harness.objectives.parts.batches import Asked, Batches, pair_batches
from harness.objectives.parts.objective import Objective
from harness.objectives.parts.recipe import Recipe
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.train.checkpoint import difference
from harness.train.log import TrainLog
from harness.train.loop import Run
from harness.train.request import TrainRequest
from harness.train.source_digest import source_digest

DONE_FILE = "recipe.json"
WHOLE = (1.0, 1.0)
STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Options that change neither the result nor the order of samples; the recipe stands there with all its numbers.
_FREE = {"out", "workers", "save_every", "log_every", "quiet", "max_bad_share", "device", "recipe", "store", "download"}
# Options that name files. The key of a stage speaks of their content, so that it goes on wherever they are moved.
_PLACES = {"data", "root", "init", "init_vision", "init_text", "tokenizer", "answers"}


@dataclass(frozen=True)
class Prepared:
    """What a run begins with; `start` says what became of the weights that it starts from, a line a tensor."""

    choice: Choice
    objective: Objective[Any]
    batches: Batches
    tokenizer: Tokenizer
    start: Sequence[str] = ()
    gmacs_per_pair: float | None = None


@contextmanager
def ending_together() -> Iterator[None]:
    """A block in which an error of one of several processes ends it, with a line on stderr and status 2.

    The others wait for it in the middle of a step, where no message reaches them: what started them ends them too. In a
    single process the error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if distributed.world() == 1:
            raise
        if not isinstance(error, HarnessError):
            traceback.print_exc()
        line = f"error: process {distributed.rank()} of {distributed.world()}: {error or type(error).__name__}"
        print(line.splitlines()[0], file=sys.stderr, flush=True)
        raise SystemExit(2) from error


class Session:
    """One training run of a request, with a recipe; `facts` is what a checkpoint and the run that resumes must share.

    Raises HarnessError for a precision or device that is not there.
    """

    def __init__(self, request: TrainRequest, recipe: Recipe, *, unused_parameters: bool = False) -> None:
        """`unused_parameters`: whether the losses may leave parameters of the host without a gradient."""
        self.request, self.recipe = request, recipe
        # A method's own parameters may go without a gradient in a step, as where it keeps every token.
        self.accelerator = _accelerator(request, recipe, unused_parameters or request.method != "dense")
        self.facts = _facts(request, recipe)
        set_seed(request.seed)

    def finished(self) -> dict[str, Any] | None:
        """The record of a run that was finished here before; HarnessError where it was another one."""
        path = self.request.out / DONE_FILE
        if not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise HarnessError(f"{path}: not a JSON file; delete the folder or name another --out") from error
        if not isinstance(record, dict) or not isinstance(record.get("facts", {}), dict):
            raise HarnessError(f"{path}: not the record of a training; delete the folder or name another --out")
        different = difference(record.get("facts", {}), self.facts)
        if different:
            raise HarnessError(f"{self.request.out}: holds a finished run with {different}; name another --out")
        return record

    def batches(
        self, choice: Choice, config: HostConfig, sources: Sequence[str], more: Sequence[PairRef] = ()
    ) -> Batches:
        """Where the objectives' batches come from: of sources and the pairs `more`, this process's share of them."""
        return choice.batches(self._asked(config, sources, more))

    def pairs(self, config: HostConfig, sources: Sequence[str]) -> PairLoader:
        """The augmented pairs of sources, whatever is minimised."""
        return pair_batches(self._asked(config, sources))

    def _asked(self, config: HostConfig, sources: Sequence[str], more: Sequence[PairRef] = ()) -> Asked:
        request, recipe = self.request, self.recipe
        augmentation = Augmentation(
            size=recipe.image_size,
            crop=recipe.crop is not None,
            scale_low=(recipe.crop or WHOLE)[0],
            scale_high=(recipe.crop or WHOLE)[1],
            flip=recipe.flip,
            randaugment=recipe.randaugment,
            mean=config.mean,
            std=config.std,
        )
        return Asked(
            tuple(sources),
            request.root,
            augmentation,
            recipe.batch_size,
            request.seed,
            distributed.rank(),
            distributed.world(),
            request.workers,
            request.max_bad_share,
            Progress(request.quiet),
            more,
            request.split,
        )

    def reducer(self, host: HostModel, learned: LearnedMethod | None = None) -> TokenReducer[Any]:
        """The request's method for the host, going on from what it learned before where the weights hold that."""
        reducer = method_for(self.request, host)
        if learned is not None and learned.name == self.request.method and reducer.learns:
            fill_method(reducer, learned)
        return reducer

    @ending_together()
    def train(self, prepared: Prepared) -> dict[str, Any]:
        """Train to the end, from the last checkpoint where there is one.

        Returns what recipe.json holds, and nothing on other processes than the first. Of several processes, one that
        fails ends (see `ending_together`).
        """
        run = self.run(prepared)
        for line in prepared.start:
            run.log.say(f"start: {line}")
        if run.resume():
            run.log.say(f"resuming at step {run.position.step} of {run.steps}")
        reset_peak(self.accelerator.device)
        run.train()
        record = self._finish(run, prepared) if self.accelerator.is_main_process else {}
        self.accelerator.wait_for_everyone()  # what is left is there for all of them
        return record

    def run(self, prepared: Prepared) -> Run:
        """The run, before its first step."""
        request, recipe = self.request, self.recipe
        dtype = pick_dtype(request.dtype)
        # From here on only dropout draws, each process its own.
        torch.manual_seed(request.seed * 1000 + distributed.rank())
        per_epoch = max(1, prepared.batches.steps_per_epoch // recipe.accumulate)
        steps = request.steps or prepared.objective.default_steps(per_epoch)
        return Run(
            prepared.objective.to(dtype),
            prepared.batches,
            prepared.tokenizer,
            recipe,
            self.accelerator,
            request.out,
            self.facts,
            request.seed,
            steps,
            dtype,
            TrainLog(request.out, steps, quiet=request.quiet, active=self.accelerator.is_main_process),
            request.save_every,
            request.log_every,
            request.recompute,
        )

    def _finish(self, run: Run, prepared: Prepared) -> dict[str, Any]:
        """Write the weights, the tokenizer, config.json and recipe.json; returns what the last of them holds."""
        request, out, host = self.request, self.request.out, run.objective.host
        method = request.method, run.objective.reducer
        stored, leaves = STORED[request.store], run.objective.leaves
        digest = save_weights(host, out / WEIGHTS_FILE, request.model, stored, method, leaves)
        run.tokenizer.save(out)
        family, preset = split_name(request.model)
        config = {"architecture": family, "preset": preset, **host.config.model_dump(mode="json")}
        config |= run.objective.config_entries()
        write_atomically(out / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
        position, recipe = run.position, run.recipe
        pairs = position.step * recipe.batch_size * recipe.accumulate * distributed.world()
        record = provenance(request.seed, run.accelerator.device) | {
            "facts": run.facts,
            "places": request.model_dump(mode="json", include=_PLACES),
            "method": {"name": request.method, **run.objective.reducer.config.model_dump(mode="json")},
            "objective": {"name": prepared.choice.name, **prepared.choice.settings()},
            "recipe": recipe.model_dump(mode="json"),
            "steps": position.step,
            "epochs": position.epoch,
            "processes": distributed.world(),
            "samples": run.batches.samples,
            "bad_samples": position.bad_samples,
            "truncated_captions": position.truncated,
            "pairs": pairs,
            "train_gmacs": None if prepared.gmacs_per_pair is None else pairs * prepared.gmacs_per_pair,
            "peak_mib": peak_mib(run.accelerator.device),
            "seconds": round(position.seconds, 3),
            "weights_sha256": digest,
            "stored": request.store,
            "start": list(prepared.start),
        }
        write_atomically(out / DONE_FILE, (json.dumps(record, indent=2) + "\n").encode())
        return record


def method_for(request: TrainRequest, host: HostModel) -> TokenReducer[Any]:
    """The request's method for a host, as it begins to learn where it does."""
    shape, config = host.shape, request.config
    if config is None:
        settings, schedule = paper_settings(request.model, request.method, request.schedule, request.settings)
        with torch.random.fork_rng(devices=[]):  # however it is found, what learns is drawn alike
            found = make_reducer(request.method, shape, ratio=request.ratio, schedule=schedule, settings=settings)
        config = found.config.model_dump(mode="json")
    kind = methods.get(request.method)
    reducer: TokenReducer[Any] = kind(validated(kind.Config, config, f"method {request.method}"), shape)
    return reducer


def check_precision(precision: str, device: str) -> None:
    """HarnessError for an unknown device, and for a precision that it does not do."""
    where = pick_device(device)
    if precision == "fp16" and where.type == "cpu":
        raise HarnessError("--precision fp16 on a CPU: its products need a GPU; use --precision bf16 or no")


def _accelerator(request: TrainRequest, recipe: Recipe, unused_parameters: bool) -> Accelerator:
    check_precision(request.precision, request.device)
    pick_dtype(request.dtype)  # before any data are read
    device = pick_device(request.device)
    if request.dtype != "float32" and request.precision != "no":
        raise HarnessError(f"--dtype {request.dtype} with --precision {request.precision}: choose one of them")
    # Queues are the same on every rank already; torch 2.13 renamed the option that leaves them alone.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused_parameters)
    if device.type == "cuda" and device.index is not None and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)  # accelerate takes the current one
    AcceleratorState._reset_state()  # Otherwise it holds on to the precision of an earlier run of this process.
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=request.precision,
            gradient_accumulation_steps=recipe.accumulate,
            kwargs_handlers=[parallel],
        )
    except ValueError as error:
        raise HarnessError(f"--precision {request.precision}: {str(error).splitlines()[0]}") from error


def _facts(request: TrainRequest, recipe: Recipe) -> dict[str, Any]:
    left_out = _FREE if request.stage is None else _FREE | _PLACES
    asked = request.model_dump(mode="json", exclude=left_out)
    # The key of a stage covers the content of its data; of other runs a path may hold other data than when they began.
    held = {} if request.stage else {"data_digests": [source_digest(source) for source in request.data]}
    return {"processes": distributed.world(), **asked, **held, **recipe.model_dump(mode="json")}

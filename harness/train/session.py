"""What every training run begins and ends with: its processes, its loader, what it must agree with, what it leaves."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import pick_device, pick_dtype
from harness.hosts.weights.own import CONFIG_FILE, WEIGHTS_FILE, save_weights
from harness.kit import ranks
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.progress import Progress
from harness.kit.registry import methods
from harness.kit.settings import validated
from harness.objectives.objective import Objective
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.train.checkpoint import difference
from harness.train.log import TrainLog
from harness.train.loop import Run
from harness.train.optim import freeze
from harness.train.provenance import provenance
from harness.train.request import TrainRequest

DONE_FILE = "recipe.json"
WHOLE = (1.0, 1.0)
PRECISIONS = ("no", "bf16", "fp16")
STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Options that change neither the result nor the order of samples; the recipe stands there with all its numbers.
_FREE = {"out", "workers", "save_every", "log_every", "quiet", "max_bad_share", "device", "recipe", "store"}
# Options that name files. The key of a stage speaks of their content, so that it goes on wherever they are moved.
_PLACES = {"data", "root", "init", "init_vision", "init_text", "tokenizer", "answers"}


# What a run begins with: its objective, loader and tokenizer, what became of the weights it starts from, and what
# config.json tells beside the host's sizes.
Prepared = tuple[Objective[Any], PairLoader, Tokenizer, Sequence[str], Mapping[str, Any]]


@contextmanager
def ending_together() -> Iterator[None]:
    """A block in which an error of one of several processes ends it, with a line on stderr and status 2.

    The others wait for it in the middle of a step, where they cannot be told: what started them ends them too. In a
    single process the error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if ranks.world() == 1:
            raise
        if not isinstance(error, HarnessError):
            traceback.print_exc()
        line = f"error: process {ranks.rank()} of {ranks.world()}: {error or type(error).__name__}"
        print(line.splitlines()[0], file=sys.stderr, flush=True)
        raise SystemExit(2) from error


class Session:
    """One training run of a request, with a recipe; `facts` is what a checkpoint and the run that resumes must share.

    Raises HarnessError for a precision or device that is not there.
    """

    def __init__(self, request: TrainRequest, recipe: Recipe, *, unused_parameters: bool = False) -> None:
        """`unused_parameters`: whether the losses may leave parameters of the host without a gradient."""
        self.request, self.recipe = request, recipe
        self.accelerator = _accelerator(request, recipe, unused_parameters)
        self.facts = _facts(request, recipe)
        set_seed(request.seed)

    def finished(self) -> dict[str, Any] | None:
        """The record of a run that was finished here before; HarnessError where it was another one."""
        path = self.request.out / DONE_FILE
        if not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise HarnessError(f"{path}: not a JSON file; delete the folder or name another --out") from error
        different = difference(record.get("facts", {}), self.facts)
        if different:
            raise HarnessError(f"{self.request.out}: holds a finished run with {different}; name another --out")
        return record

    def loader(self, config: HostConfig, sources: Sequence[str], more: Sequence[PairRef] = ()) -> PairLoader:
        """The augmented pairs of sources and the pairs `more`, this process's share of them."""
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
        return PairLoader(
            sources,
            request.root,
            augmentation,
            recipe.batch_size,
            request.seed,
            ranks.rank(),
            ranks.world(),
            request.workers,
            request.max_bad_share,
            progress=Progress(request.quiet),
            more=more,
        )

    def reducer(self, host: HostModel) -> TokenReducer[Any]:
        """The request's method for the host's tower."""
        request, shape = self.request, open_tower(host.vision).shape
        if request.config is not None:
            kind = methods.get(request.method)
            return kind(validated(kind.Config, request.config, f"method {request.method}"), shape)
        settings, schedule = paper_settings(request.model, request.method, request.schedule, request.settings)
        return make_reducer(request.method, shape, ratio=request.ratio, schedule=schedule, settings=settings)

    @ending_together()
    def train(
        self,
        objective: Objective[Any],
        loader: PairLoader,
        tokenizer: Tokenizer,
        told: Sequence[str],
        extra: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Train to the end, from the last checkpoint where there is one; `told`: what became of the weights it starts
        from. Returns what recipe.json holds, and nothing on other processes than the first. `extra` goes into
        config.json. Of several processes, one that fails ends (see `ending_together`).
        """
        request, recipe = self.request, self.recipe
        dtype = pick_dtype(request.dtype)
        # From here on only dropout draws, each process its own.
        torch.manual_seed(request.seed * 1000 + ranks.rank())
        steps = request.steps or recipe.epochs * max(1, loader.steps_per_epoch // recipe.accumulate)
        log = TrainLog(request.out, steps, quiet=request.quiet, active=self.accelerator.is_main_process)
        freeze(objective, recipe)
        run = Run(
            objective.to(dtype),
            loader,
            tokenizer,
            recipe,
            self.accelerator,
            request.out,
            self.facts,
            request.seed,
            steps,
            dtype,
            log,
            request.save_every,
            request.log_every,
            request.recompute,
        )
        for line in told:
            log.say(f"start: {line}")
        if run.resume():
            log.say(f"resuming at step {run.position.step} of {steps}")
        run.train()
        record = self._finish(run, told, extra) if self.accelerator.is_main_process else {}
        self.accelerator.wait_for_everyone()  # what is left is there for all of them
        return record

    def _finish(self, run: Run, told: Sequence[str], extra: Mapping[str, Any]) -> dict[str, Any]:
        request, out, host = self.request, self.request.out, run.objective.host
        digest = save_weights(host, out / WEIGHTS_FILE, request.model, STORED[request.store])
        run.tokenizer.save(out)
        family, preset = split_name(request.model)
        config = {"architecture": family, "preset": preset, **host.config.model_dump(mode="json"), **extra}
        write_atomically(out / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
        position = run.position
        record = provenance(request.seed, run.accelerator.device) | {
            "facts": run.facts,
            "places": {name: value for name, value in _plain(asdict(request)).items() if name in _PLACES},
            "method": {"name": request.method, **run.objective.reducer.config.model_dump(mode="json")},
            "recipe": run.recipe.model_dump(mode="json"),
            "steps": position.step,
            "epochs": position.epoch,
            "processes": ranks.world(),
            "samples": run.loader.samples,
            "bad_samples": position.bad_samples,
            "truncated_captions": position.truncated,
            "seconds": round(position.seconds, 3),
            "weights_sha256": digest,
            "stored": request.store,
            "start": list(told),
        }
        write_atomically(out / DONE_FILE, (json.dumps(record, indent=2) + "\n").encode())
        return record


def check_precision(precision: str, device: str) -> None:
    """HarnessError for an unknown precision or device, and for one that the other does not do."""
    where = pick_device(device)
    if precision not in PRECISIONS:
        raise HarnessError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and where.type == "cpu":
        raise HarnessError("--precision fp16 on a CPU: its products need a GPU; use --precision bf16 or no")


def _accelerator(request: TrainRequest, recipe: Recipe, unused_parameters: bool) -> Accelerator:
    check_precision(request.precision, request.device)
    device = pick_device(request.device)
    if request.store not in STORED:
        raise HarnessError(f"--store {request.store}: expected one of {', '.join(STORED)}")
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
    asked = {name: value for name, value in asdict(request).items() if name not in left_out}
    return _plain({"processes": ranks.world(), **asked, **recipe.model_dump(mode="json")})


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """As they are read back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain

"""Pre-training of any host with any method, from image-caption pairs, on one process or many (accelerate)."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed

from harness.data.augment import Augmentation
from harness.data.pair_loader import PairLoader
from harness.data.scenes import scenes_folder
from harness.errors import HarnessError
from harness.files import write_atomically
from harness.hosts import pick_device, pick_dtype
from harness.methods import make_reducer
from harness.models.build import build_host, host_class, host_config, paper_settings, split_name
from harness.models.checkpoints import CONFIG_FILE, WEIGHTS_FILE, assets_of, find_weights, load_model, save_weights
from harness.models.host import HostModel
from harness.models.released import load_parts
from harness.models.released_files import read_released
from harness.models.tokenizer import VOCABULARY_FILE, HubTokenizer, TextTokenizer, Tokenizer, open_tokenizer
from harness.models.towers import open_tower
from harness.progress import Progress
from harness.train import ranks
from harness.train.checkpoint import difference
from harness.train.log import TrainLog
from harness.train.loop import Run
from harness.train.objectives import make_objective
from harness.train.provenance import provenance
from harness.train.recipe import Recipe, recipe_of
from harness.train.request import SCENES, PretrainRequest
from harness.train.vocabulary import build_vocabulary

DONE_FILE = "recipe.json"
TRAINING_SCENES = 30_000
WHOLE = (1.0, 1.0)
PRECISIONS = ("no", "bf16", "fp16")
VOCABULARY_CAPTIONS = 200_000
DEFAULT_VOCABULARY = 2000


def pretrain(request: PretrainRequest) -> dict[str, Any]:
    """Run a pre-training to its end, from its last checkpoint where there is one; returns what recipe.json holds.

    Writes model.safetensors (float32), the tokenizer, config.json, recipe.json, log.jsonl, tensorboard/ and
    checkpoints/ to the request's folder. Raises HarnessError for anything the run cannot go on with.
    """
    recipe = recipe_of(request.model, _for_data(request) | request.recipe)
    accelerator = _accelerator(request, recipe)
    facts = _facts(request, recipe)
    done = _finished(request.out, facts)
    if done is not None:
        return done
    set_seed(request.seed)
    loader = _loader(request, recipe, accelerator)
    host, tokenizer, told = _host(request, recipe, loader, accelerator)
    settings, schedule = paper_settings(request.model, request.method, request.schedule, request.settings)
    shape = open_tower(host.vision).shape
    reducer = make_reducer(request.method, shape, ratio=request.ratio, schedule=schedule, settings=settings)
    objective = make_objective(request.model, host, reducer, tokenizer.specials, recipe).to(pick_dtype(request.dtype))
    # From here on only dropout draws, each process its own.
    torch.manual_seed(request.seed * 1000 + ranks.rank())
    steps = request.steps or recipe.epochs * max(1, loader.steps_per_epoch // recipe.accumulate)
    log = TrainLog(request.out, steps, quiet=request.quiet, active=accelerator.is_main_process)
    run = Run(
        objective,
        loader,
        tokenizer,
        recipe,
        accelerator,
        request.out,
        facts,
        request.seed,
        steps,
        pick_dtype(request.dtype),
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
    return _finish(request, run, host, tokenizer, told) if accelerator.is_main_process else {}


def _for_data(request: PretrainRequest) -> dict[str, Any]:
    """The built-in world's captions speak of places and colours, which crops, flips and RandAugment make untrue."""
    return {"crop": None, "flip": False, "randaugment": False} if request.data == (SCENES,) else {}


def _accelerator(request: PretrainRequest, recipe: Recipe) -> Accelerator:
    device = pick_device(request.device)
    if request.precision not in PRECISIONS:
        raise HarnessError(f"--precision {request.precision}: expected one of {', '.join(PRECISIONS)}")
    if request.precision == "fp16" and device.type == "cpu":
        raise HarnessError("--precision fp16 on a CPU: its products need a GPU; use --precision bf16 or no")
    if request.dtype != "float32" and request.precision != "no":
        raise HarnessError(f"--dtype {request.dtype} with --precision {request.precision}: choose one of them")
    # Queues are the same on every rank already; torch 2.13 renamed the option that leaves them alone.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=request.precision,
            gradient_accumulation_steps=recipe.accumulate,
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except ValueError as error:
        raise HarnessError(f"--precision {request.precision}: {str(error).splitlines()[0]}") from error


def _loader(request: PretrainRequest, recipe: Recipe, accelerator: Accelerator) -> PairLoader:
    config = host_config(request.model, **request.sizes | {"image_size": recipe.image_size})
    sources = request.data
    if SCENES in sources:
        with accelerator.main_process_first():
            folder = str(scenes_folder(TRAINING_SCENES, request.seed, "train", Progress(request.quiet)))
        sources = tuple(folder if source == SCENES else source for source in sources)
    augmentation = Augmentation(
        size=config.image_size,
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
    )


def _host(
    request: PretrainRequest, recipe: Recipe, loader: PairLoader, accelerator: Accelerator
) -> tuple[HostModel, Tokenizer, list[str]]:
    """The host to start from, its tokenizer, and what became of each tensor of the weights it starts from."""
    if request.init is not None:
        loaded = load_model(request.model, request.init, recipe.image_size, request.tokenizer)
        host, tokenizer = loaded.model, loaded.tokenizer
        told = [] if loaded.report is None else loaded.report.lines()
    else:
        changes: dict[str, Any] = request.sizes | {"image_size": recipe.image_size}
        if recipe.dropout is not None:
            changes["dropout"] = recipe.dropout
        tokenizer = _tokenizer(request, host_config(request.model, **changes).text_length, loader, accelerator)
        if isinstance(tokenizer, TextTokenizer):
            changes |= host_class(request.model).vocabulary_sizes(tokenizer.vocabulary)
        host, told = build_host(request.model, **changes), []
    for part, source in (("vision", request.init_vision), ("text", request.init_text)):
        if source is not None:
            path = find_weights(source)
            report = load_parts(host, read_released(path), str(path), part)
            told += [f"{part}: {line}" for line in report.lines()]
    return host.train(), tokenizer, told


def _tokenizer(request: PretrainRequest, length: int, loader: PairLoader, accelerator: Accelerator) -> Tokenizer:
    """The one named; else the host's own; else the built-in world's words, or on other data a vocabulary built anew."""
    config = host_config(request.model)
    shipped = assets_of("albef-tiny") / VOCABULARY_FILE
    builds = request.vocabulary is not None or (config.tokenizer is None and request.data != (SCENES,))
    extra = host_class(request.model).EXTRA_WORDS
    if request.tokenizer is not None:
        return open_tokenizer(None, shipped, length, request.tokenizer)
    if config.tokenizer is not None and not builds:
        return HubTokenizer(config.tokenizer, length)
    if builds:
        captions = [caption for pair in loader.pairs[:VOCABULARY_CAPTIONS] for caption in pair.captions]
        if not captions:
            raise HarnessError("no captions to build a vocabulary from before training; name one with --tokenizer")
        words = build_vocabulary(captions, request.vocabulary or DEFAULT_VOCABULARY, extra)
    else:
        words = [*shipped.read_text(encoding="utf-8").split(), *extra]
    path = request.out / VOCABULARY_FILE
    if ranks.rank() == 0:
        write_atomically(path, "".join(f"{word}\n" for word in words).encode())
    accelerator.wait_for_everyone()
    return TextTokenizer(path, length)


def _facts(request: PretrainRequest, recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint and the run that resumes from it must have in common."""
    asked = {name: value for name, value in asdict(request).items() if name not in _FREE}
    facts = {"processes": ranks.world(), **asked, **recipe.model_dump(mode="json")}
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


# Options that change neither the result nor the order of samples; the recipe stands there with all its numbers.
_FREE = {"out", "workers", "save_every", "log_every", "quiet", "max_bad_share", "device", "recipe"}


def _finished(out: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a run that was finished here before; HarnessError where it was another one."""
    path = out / DONE_FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HarnessError(f"{path}: not a JSON file; delete the folder or name another --out") from error
    different = difference(record.get("facts", {}), facts)
    if different:
        raise HarnessError(f"{out}: holds a finished run with {different}; name another --out")
    return record


def _finish(
    request: PretrainRequest, run: Run, host: HostModel, tokenizer: Tokenizer, told: list[str]
) -> dict[str, Any]:
    out = request.out
    digest = save_weights(host, out / WEIGHTS_FILE, request.model, torch.float32)
    tokenizer.save(out)
    family, preset = split_name(request.model)
    config = {"architecture": family, "preset": preset, **host.config.model_dump(mode="json")}
    write_atomically(out / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    position = run.position
    record = provenance(request.seed, run.accelerator.device) | {
        "facts": run.facts,
        "method": {"name": request.method, **run.objective.reducer.config.model_dump(mode="json")},
        "recipe": run.recipe.model_dump(mode="json"),
        "steps": position.step,
        "epochs": position.epoch,
        "processes": ranks.world(),
        "samples": run.loader.samples,
        "bad_samples": position.bad_samples,
        "truncated_captions": position.truncated,
        "seconds": round(position.seconds, 1),
        "weights_sha256": digest,
        "start": told,
    }
    write_atomically(out / DONE_FILE, (json.dumps(record, indent=2) + "\n").encode())
    return record

"""How far methods keep the same patches: each entry of a study against its first, stage by stage, on real images.

A patch is kept where it has a token of its own. The agreement of two sets is their intersection over their union
(Jaccard), the mean over images; a stage is a block in which the study's first entry removes tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from harness.cost.budget import tower_macs
from harness.cost.vits import build_vit
from harness.data.formats import load
from harness.evaluate.encoder import survival
from harness.evaluate.sample import sample_of
from harness.hosts.build import paper_settings
from harness.hosts.parts.towers import VisionTower, open_tower
from harness.hosts.ready import load_host
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.metrics.stats import summarise
from harness.reduction import StackShape, TokenReducer, Trace, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample, token_counts
from harness.run.choose import DEFAULT_HOST
from harness.run.grid import data_folder
from harness.run.request import RunRequest
from harness.run.study import StudyCells, read_study

AT_ONCE = 50
# The tower that the share of scoring is counted in: ELIP's own.
COSTED, PIXELS = "vit_base_patch16_224", 256


def lines(study: str, limit: int) -> Iterator[tuple[str, bool]]:
    """(line, True) for a heading, then for each entry of a study and each of its ratios.

    HarnessError for a study that is not there, and for adaptive or learned methods, which keep no fixed sets here.
    """
    read = read_study(study)
    model = str(read.run.get("model", DEFAULT_HOST))
    host = load_host(model, None, "cpu", "float32")
    data = str(read.run.get("data", RunRequest.model_fields["data"].default))
    sample = sample_of(host, load("captions", data_folder(data, limit), limit), limit)
    tower, costed = open_tower(host.model.vision), build_vit(COSTED, PIXELS)
    wide = max(len(entry.label or entry.methods) for entry in read.cells) + 2
    yield f"{model}, {data}, {len(sample.images)} images with a text each; scoring: {COSTED}, {PIXELS} px", True
    yield f"{'':<{wide}}{'ratio':<7}{'scoring':<9}agreement, by stage", True
    first: dict[float, tuple[list[int], list[Tensor]]] = {}
    for entry in read.cells:
        for method in methods.expand(entry.methods, without=("dense",)):
            for ratio in entry.ratios:
                reducer = made(model, method, entry, ratio, host.model.shape)
                stages = first[ratio][0] if ratio in first else stages_of(reducer)
                kept = kept_patches(tower, reducer, sample, stages)
                found = [summarise(jaccard(*pair)) for pair in zip(kept, first.setdefault(ratio, (stages, kept))[1])]
                share = scoring_share(costed, made(model, method, entry, ratio, open_tower(costed).shape))
                label = entry.label or method
                yield f"{label:<{wide}}{ratio:<7g}{f'{share:.2%}':<9}{'  '.join(map(shown, found))}", True


def made(model: str, method: str, entry: StudyCells, ratio: float, shape: StackShape) -> TokenReducer[Any]:
    """A study's method at a ratio in a tower."""
    settings, schedule = paper_settings(model, method, entry.schedule, entry.settings)
    reducer = make_reducer(method, shape, ratio=ratio, settings=settings, schedule=schedule)
    if reducer.learns:
        raise HarnessError(f"method {method} learns: without weights it keeps no set to compare; leave it out")
    return reducer.eval()


def stages_of(reducer: TokenReducer[Any]) -> list[int]:
    """The blocks whose MLP gets fewer tokens than the one before."""
    counts = token_counts(reducer).mlp
    whole = reducer.shape.prefix + reducer.shape.patches
    return [block for block, (before, count) in enumerate(zip([whole, *counts], counts)) if count < before]


@torch.no_grad()
def kept_patches(tower: VisionTower, reducer: TokenReducer[Any], sample: Sample, blocks: list[int]) -> list[Tensor]:
    """By block, which patches of each image have a token of their own after it: (I, n0) bool."""
    found: list[list[Tensor]] = [[] for _ in blocks]
    for start in range(0, len(sample.images), AT_ONCE):
        part, trace = sample.rows(slice(start, start + AT_ONCE)), Trace(origins_wanted=True)
        encode(tower, reducer, part.images, part.guide, trace)
        for block, rows in zip(blocks, found):
            rows.append(survival(trace.origins[block])[0])
    return [torch.cat(rows) for rows in found]


def jaccard(one: Tensor, other: Tensor) -> Any:
    """Intersection over union of sets (I, n0) bool, by image; 1 where both are empty."""
    union = (one | other).sum(dim=1)
    return torch.where(union == 0, 1.0, (one & other).sum(dim=1) / union.clamp(min=1)).double().numpy()


def scoring_share(model: nn.Module, reducer: TokenReducer[Any]) -> float:
    """MACs of scoring over those of the dense forward pass."""
    counted = tower_macs(model, reducer)
    dense = tower_macs(model, make_reducer("dense", reducer.shape))
    return counted.forward.get("scoring", 0) / sum(dense.forward.values())


def shown(found: dict[str, Any]) -> str:
    """A mean and its interval."""
    low, high = found["ci95"]
    return f"{found['value']:.3f} [{low:.3f}, {high:.3f}]"

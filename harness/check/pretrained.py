"""Whether what a pre-training on a built-in world left reaches that world's floors, on 1,000 held-out scenes.

They tell a host that has learnt to read images from one that has not, so that a comparison of methods after the same
pre-training measures them and not chance. FOLDER holds the pre-trained weights, FOLDER/vqa those fine-tuned from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.check.weights import Lines, Measured
from harness.data.scenes import oracle_recall
from harness.data.world import BUILT_IN_WORLD, FULL, SMALL_WORLD, world_of
from harness.evaluate.sample import first_texts
from harness.hosts.build import split_name
from harness.hosts.weights.sets import task_weights
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.objectives import choose
from harness.objectives.parts.objective import Moment, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer

# A host that scores every pair takes fewer images: pairs are their square.
MATCHED_IMAGES = 200
WORD_IMAGES, WORD_BATCH = 256, 64
# What the families' own losses call that of words read with an image.
WORD_LOSSES = {"masked_words", "caption"}


@dataclass(frozen=True)
class PretrainingFloors:
    """What must be reached in a world; None: not asked for.

    `contrast`: text-to-image R@1 by the contrast; `of_oracle`: its share of the oracle's. `reranked_above`: by how much
    re-ranking is above it. `over_chance`: R@1 of a host without contrast, over that of chance. `words`: whether words
    must be easier with their image than with a blank one. `vqa`: accuracy after fine-tuning, and its most when images
    are blank.
    """

    contrast: float | None = None
    of_oracle: float | None = None
    reranked_above: float | None = None
    over_chance: float | None = None
    words: bool = False
    vqa: tuple[float, float] | None = None


_FUSING = PretrainingFloors(of_oracle=0.60, reranked_above=0.04, words=True, vqa=(0.90, 0.35))
# By world and family of hosts.
PRETRAINING_FLOORS = {
    (SMALL_WORLD, "albef"): _FUSING,
    (SMALL_WORLD, "blip"): _FUSING,
    (SMALL_WORLD, "meter"): PretrainingFloors(over_chance=10, words=True, vqa=(0.90, 0.35)),
    (SMALL_WORLD, "clip"): PretrainingFloors(of_oracle=0.60),
    **{(BUILT_IN_WORLD, family): PretrainingFloors(contrast=0.45) for family in ("albef", "blip", "clip")},
}


def lines(model: str, weights: Path, world: str, limit: int | None = None) -> Lines:
    """(line, good) for each floor of the host's family in a world; HarnessError for one that has none."""
    family, progress = split_name(model)[0], Progress()
    floors = PRETRAINING_FLOORS.get((world, family))
    if floors is None:
        known = ", ".join(f"{name} of {one}" for one, name in PRETRAINING_FLOORS)
        raise HarnessError(f"no floors for {model} pre-trained on {world}; there are some for {known}")
    found = _retrieval(floors, model, weights, world, limit, progress)
    if floors.vqa is not None:
        measured = Measured(model, task_weights(model, weights, "vqa"), "vqa", world, limit, progress)
        seen, blind = measured.values()["vqa_accuracy"], measured.blank()["vqa_accuracy"]
        least, most = floors.vqa
        found += [
            (f"VQA accuracy after fine-tuning {seen:.1%} (floor {least:.0%})", seen >= least),
            (f"with blank images {blind:.1%} (at most {most:.0%})", blind <= most),
        ]
    return found


def _retrieval(
    floors: PretrainingFloors, model: str, weights: Path, world: str, limit: int | None, progress: Progress
) -> Lines:
    """The lines of retrieval, and of the words that the same captions hold."""
    images = min(limit or MATCHED_IMAGES, MATCHED_IMAGES) if floors.over_chance is not None else limit
    measured = Measured(model, task_weights(model, weights, "retrieval"), "retrieval", world, images, progress)
    seen, count, found = measured.values(), len(measured.data.images), Lines()
    recall = seen["t2i_r1"]
    if floors.contrast is not None:
        found.append((f"text-to-image R@1 {recall:.1%} (floor {floors.contrast:.0%})", recall >= floors.contrast))
    if floors.of_oracle is not None:
        share = recall / oracle_recall(count, world=world_of(world) or FULL)
        line = f"text-to-image R@1 {recall:.1%}, of the oracle's {share:.1%} (floor {floors.of_oracle:.0%})"
        found.append((line, share >= floors.of_oracle))
    if floors.reranked_above is not None:
        above = seen["t2i_r1_rerank"] - recall
        line = f"re-ranked {seen['t2i_r1_rerank']:.1%}, above it by {above:.1%} (floor {floors.reranked_above:.0%})"
        found.append((line, above >= floors.reranked_above))
    if floors.over_chance is not None:
        times = recall * count
        line = f"text-to-image R@1 by the head {recall:.1%} of {count} images, {times:.1f} times chance"
        found.append((f"{line} (floor {floors.over_chance:g})", times >= floors.over_chance))
    if floors.words:
        read, blind = word_losses(measured, model)
        found.append((f"loss of words {read:.3f} with the image, {blind:.3f} with a blank one", read < blind))
    return found


@torch.no_grad()
def word_losses(measured: Measured, model: str) -> tuple[float, float]:
    """The mean loss of words of captions, as the host's own pre-training hides them, with their images and blank."""
    host, images = measured.host, measured.data.annotations.images[:WORD_IMAGES]
    texts = first_texts(measured.data.annotations)
    reducer = make_reducer("dense", host.model.shape)
    objective = choose(model).make(host.model, reducer, host.tokenizer.specials, recipe_of(model, {})).eval()
    sums = []
    for store in (measured.data.images, measured.data.images.blank()):
        losses = []
        for start in range(0, len(images), WORD_BATCH):
            rows = torch.arange(start, min(start + WORD_BATCH, len(images)))
            ids, mask = host.tokenizer([texts[images[row]] for row in rows.tolist()])
            found = objective(Pairs(store[rows], ids, mask, rows), Moment())
            losses.append(_words(found) * len(rows))
        sums.append(float(torch.stack(losses).sum() / len(images)))
    return sums[0], sums[1]


def _words(losses: dict[str, Tensor]) -> Tensor:
    """The one of a host's losses that is of words."""
    (name,) = losses.keys() & WORD_LOSSES
    return losses[name]

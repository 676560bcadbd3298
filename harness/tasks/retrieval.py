"""Image-text retrieval: R@1/5/10 both ways, by the dual encoder, by the matching head, or by one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from harness.data.formats import ImageTextSet, load_captions
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.metrics.ranking import Shortlist, require_finite, shortlists
from harness.models.host import TextBatch
from harness.progress import Bar
from harness.task import Outcome, Task, TaskData, TaskOptions

CUTOFFS = (1, 5, 10)
# What bounds the memory of ranking: blocks of texts have about this many scores, whatever the batch size.
SCORES_PER_BLOCK = 2**22
IMAGES_PER_PROJECTION = 256
Samples = tuple[Sequence[str], Sequence[str]]


class RetrievalOptions(TaskOptions):
    """captions_per_image: how many of an image's captions are used; rerank_k: candidates the matching head re-ranks."""

    captions_per_image: PositiveInt = 1
    rerank_k: PositiveInt = 16


class Retrieval(Task):
    """As each host's paper has it: the dual encoder ranks everything, the matching head re-ranks each query's top k.

    A host without a matching head (CLIP) is not re-ranked and has no `_rerank` metrics; one without a dual encoder
    (METER) has the plain metrics only, from its scores of all pairs. A pair that both directions ask for is scored
    once. Text-guided methods encode the image anew for each scored pair; the dual encoder has no text, so they fall
    back there as the method says. A query's outcome is 1 when a right item is among its first 1, 5 or 10; ties go to
    the lower index. Candidates outside the top k are misses.
    """

    Options = RetrievalOptions
    NEEDS = frozenset({"contrast", "match"})
    READS = "captions"
    metrics = tuple(f"{way}_r{k}{stage}" for stage in ("", "_rerank") for way in ("t2i", "i2t") for k in CUTOFFS)

    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        return load_captions(folder, limit)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, RetrievalOptions)
        host, abilities = encoder.host, encoder.host.model.abilities
        if not abilities & {"contrast", "match"}:
            able = ", ".join(sorted(abilities)) or "nothing"
            raise HarnessError(f"retrieval: {host.name} can neither contrast nor match (it can {able}); name another")
        captions, owner = chosen_captions(data.annotations, options.captions_per_image)
        if not captions:
            raise HarnessError("retrieval: the data has no captions")
        cut_before = host.tokenizer.truncated
        texts = encode_texts(host, [caption.text for caption in captions], 4 * encoder.batch_size)
        cut = host.tokenizer.truncated - cut_before
        owners = torch.tensor(owner, device=host.device)

        contrasts = "contrast" in abilities
        blocks = similarities(encoder, texts) if contrasts else matching_scores(encoder, texts)
        of_texts, of_images = shortlists(blocks, max(*CUTOFFS, options.rerank_k))
        stages = {"": (of_texts, of_images)}
        diagnostics: dict[str, Any] = {"ranked_by": "contrast" if contrasts else "matching"}
        if contrasts and "match" in abilities:
            k = options.rerank_k
            found = reranked(encoder, texts, of_texts.best(k), of_images.best(k))
            stages["_rerank"], diagnostics["pairs_reranked"] = found
        if cut:
            diagnostics["truncated_texts"] = cut
        diagnostics |= encoder.mentioned(owners, texts, [caption.patches for caption in captions])
        names = data.names
        sample_t = ([str(caption.id) for caption in captions], [names[image] for image in owner])
        return Outcome("retrieval", recalls(stages, owners, sample_t, (names, names)), diagnostics)


def recalls(
    stages: Mapping[str, tuple[Shortlist, Shortlist]], owner_T: Tensor, texts: Samples, images: Samples
) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
    """Outcomes by metric from the shortlists of texts and of images at each stage.

    owner: (T,) image of each text. texts, images: the samples' names and clusters.
    """
    outcomes = {}
    for stage, (of_texts, of_images) in stages.items():
        own_I1 = torch.arange(len(of_images.index), device=owner_T.device)[:, None]
        for way, ranks, (samples, clusters) in (
            ("t2i", of_texts.ranks(of_texts.index == owner_T[:, None]), texts),
            ("i2t", of_images.ranks(owner_T[of_images.index] == own_I1), images),
        ):
            for cutoff in CUTOFFS:
                hits = (ranks < cutoff).cpu().numpy().astype(np.float64)
                outcomes[f"{way}_r{cutoff}{stage}"] = (samples, clusters, hits)
    return outcomes


def similarities(encoder: VisionEncoder, texts: TextBatch) -> Iterator[Tensor]:
    """Cosine similarities (t, I) of consecutive texts with all images, in float32 at least."""
    model, states_IND = encoder.host.model, encoder.image_states()
    parts = [model.embed_image(states_IND[part]) for part in batches(len(states_IND), IMAGES_PER_PROJECTION)]
    wide = torch.promote_types(encoder.host.dtype, torch.float32)
    images_IP, texts_TP = torch.cat(parts).to(wide), model.embed_text(texts).to(wide)
    for part in text_blocks(len(texts_TP), len(images_IP)):
        yield texts_TP[part] @ images_IP.T


def matching_scores(encoder: VisionEncoder, texts: TextBatch) -> Iterator[Tensor]:
    """The matching head's scores (t, I) of consecutive texts with all images."""
    total_T, total_I = len(texts.ids), len(encoder.images)
    with encoder.progress.bar("pairs", total_T * total_I) as bar:
        for part in text_blocks(total_T, total_I):
            pairs = torch.arange(part.start * total_I, part.stop * total_I, device=encoder.host.device)
            yield pair_scores(encoder, texts, pairs, bar).view(-1, total_I)


def text_blocks(texts: int, images: int) -> Iterator[slice]:
    """Slices that cover all texts, each with about SCORES_PER_BLOCK scores."""
    return batches(texts, max(1, SCORES_PER_BLOCK // images))


def reranked(
    encoder: VisionEncoder, texts: TextBatch, of_texts: Shortlist, of_images: Shortlist
) -> tuple[tuple[Shortlist, Shortlist], int]:
    """Both shortlists with the matching head's scores, and how many different pairs they have."""
    total_T, total_I = len(of_texts.index), len(of_images.index)
    device = of_texts.index.device
    pairs_TK = torch.arange(total_T, device=device)[:, None] * total_I + of_texts.index
    pairs_IK = torch.arange(total_I, device=device)[:, None] + of_images.index * total_I
    pairs_P = torch.cat([pairs_TK.flatten(), pairs_IK.flatten()]).unique()
    with encoder.progress.bar("pairs", len(pairs_P)) as bar:
        scores_P = pair_scores(encoder, texts, pairs_P, bar)
    require_finite(scores_P)
    text_side, image_side = (scores_P[torch.searchsorted(pairs_P, pairs)] for pairs in (pairs_TK, pairs_IK))
    return (Shortlist(of_texts.index, text_side), Shortlist(of_images.index, image_side)), len(pairs_P)


def pair_scores(encoder: VisionEncoder, texts: TextBatch, pairs_P: Tensor, bar: Bar) -> Tensor:
    """The matching head's scores (P,), in float32 at least, of pairs (P,) that are text * I + image."""
    images = len(encoder.images)
    wide = torch.promote_types(encoder.host.dtype, torch.float32)
    done = []
    for part in batches(len(pairs_P), encoder.batch_size):
        rows, columns = pairs_P[part] // images, pairs_P[part] % images
        asked = texts.rows(rows)
        done.append(encoder.host.model.rank(asked, encoder.pair_states(columns, asked)).to(wide))
        bar.advance(len(rows))
    return torch.cat(done)


def chosen_captions(annotations: ImageTextSet, per_image: int) -> tuple[list[Any], list[int]]:
    """The first captions of each image, and the index of the image each belongs to."""
    captions, owner, taken = [], [], [0] * len(annotations.images)
    place = {image: index for index, image in enumerate(annotations.images)}
    for caption in annotations.captions:
        index = place[caption.image]
        if taken[index] < per_image:
            taken[index] += 1
            captions.append(caption)
            owner.append(index)
    return captions, owner

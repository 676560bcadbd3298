"""Image-text retrieval: R@1/5/10 both ways, by the dual encoder, by the matching head, or by one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from harness.data.formats import ImageTextSet, load_captions
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import Outcome, Task, TaskData, TaskOptions
from harness.hosts.host import TextBatch
from harness.kit.distributed import batches
from harness.kit.errors import HarnessError
from harness.metrics.accuracy import mean_per_class
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import Shortlist, require_finite, shortlists
from harness.reduction import Tokens, join, reducing

CUTOFFS = (1, 5, 10)
# What bounds the memory of ranking: blocks of texts have about this many scores, whatever the batch size.
SCORES_PER_BLOCK = 2**22
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
    the lower index. `mean_recall` is the mean of the six recalls. Candidates outside the top k are misses.
    """

    Options = RetrievalOptions
    NEEDS = frozenset({"contrast", "match"})
    READS = "captions"
    quantities = (
        Quantity("t2i_r1", "t2i R@1", with_text=False),
        Quantity("t2i_r5", "t2i R@5", headline=False, with_text=False),
        Quantity("t2i_r10", "t2i R@10", headline=False, with_text=False),
        Quantity("i2t_r1", "i2t R@1", with_text=False),
        Quantity("i2t_r5", "i2t R@5", headline=False, with_text=False),
        Quantity("i2t_r10", "i2t R@10", headline=False, with_text=False),
        Quantity("t2i_r1_rerank", "t2i R@1, re-ranked"),
        Quantity("t2i_r5_rerank", "t2i R@5, re-ranked", headline=False),
        Quantity("t2i_r10_rerank", "t2i R@10, re-ranked", headline=False),
        Quantity("i2t_r1_rerank", "i2t R@1, re-ranked"),
        Quantity("i2t_r5_rerank", "i2t R@5, re-ranked", headline=False),
        Quantity("i2t_r10_rerank", "i2t R@10, re-ranked", headline=False),
        Quantity("mean_recall", "mean recall", headline=False, with_text=False),
        Quantity("mean_recall_rerank", "mean recall, re-ranked", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_captions(folder, limit, split)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, RetrievalOptions)
        host, abilities = encoder.host, encoder.host.model.abilities
        if not abilities & {"contrast", "match"}:
            offered = ", ".join(sorted(abilities)) or "nothing"
            line = f"retrieval: {host.name} can neither contrast nor match (it can {offered}); name another"
            raise HarnessError(line)
        captions, owner = chosen_captions(data.annotations, options.captions_per_image)
        if not captions:
            raise HarnessError("retrieval: the data has no captions")
        texts, cut = encoded(encoder, [caption.text for caption in captions])
        owners = torch.tensor(owner, device=host.device)

        contrasts = "contrast" in abilities
        reranks = contrasts and "match" in abilities
        if contrasts:
            blocks = similarities(encoder, texts, keep=reranks and not encoder.text_guided)
        else:
            blocks = matching_scores(encoder, texts)
        of_texts, of_images = shortlists(blocks, max(*CUTOFFS, options.rerank_k))
        stages = {"": (of_texts, of_images)}
        diagnostics: dict[str, Any] = {"ranked_by": "contrast" if contrasts else "matching"}
        if reranks:
            k = options.rerank_k
            found = reranked(encoder, texts, of_texts.best(k), of_images.best(k))
            stages["_rerank"], diagnostics["pairs_reranked"] = found
        if cut:
            diagnostics["truncated_texts"] = cut
        diagnostics |= encoder.mentioned(owners, texts, [caption.patches for caption in captions])
        names = data.names
        sample_t = ([str(caption.id) for caption in captions], [names[image] for image in owner])
        outcomes = recalls(stages, owners, sample_t, (names, names))
        throughput = encoder.throughput("queries", len(captions) + len(names))
        return Outcome("retrieval", outcomes, throughput, diagnostics)


def recalls(
    stages: Mapping[str, tuple[Shortlist, Shortlist]], owner_T: Tensor, texts: Samples, images: Samples
) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
    """Outcomes by metric from the shortlists of texts and of images at each stage: the recalls, and the mean of a
    stage's six, in which both directions count alike however many queries they have.

    owner: (T,) image of each text. texts, images: the samples' names and clusters.
    """
    outcomes = {}
    for stage, (of_texts, of_images) in stages.items():
        queries: list[str] = []
        owners: list[str] = []
        counts: list[np.ndarray] = []
        own_I1 = torch.arange(len(of_images.index), device=owner_T.device)[:, None]
        for way, ranks, (samples, clusters) in (
            ("t2i", of_texts.ranks(of_texts.index == owner_T[:, None]), texts),
            ("i2t", of_images.ranks(owner_T[of_images.index] == own_I1), images),
        ):
            hits_KQ = np.array([(ranks < cutoff).cpu().numpy() for cutoff in CUTOFFS], dtype=np.float64)
            for cutoff, hits in zip(CUTOFFS, hits_KQ, strict=True):
                outcomes[f"{way}_r{cutoff}{stage}"] = (samples, clusters, hits)
            queries += [f"{way} {sample}" for sample in samples]
            owners += clusters
            counts.append(hits_KQ.sum(0))
        ways = np.repeat(np.arange(len(counts)), [len(of_way) for of_way in counts])
        # Whole numbers until the end: their sums do not depend on the order of queries.
        mean_recall = mean_per_class(np.concatenate(counts), ways) / len(CUTOFFS)
        outcomes[f"mean_recall{stage}"] = (queries, owners, mean_recall)
    return outcomes


def encoded(encoder: VisionEncoder, texts: Sequence[str]) -> tuple[TextBatch, int]:
    """Texts with what the text encoder leaves of them, and how many were cut."""
    read, at_once = Texts(encoder.host, texts), 4 * encoder.batch_size
    if "text" in encoder.reducer.stacks:
        # Which tokens are left differs from text to text: every process encodes them all.
        with reducing(encoder.reducer):
            left = join([read.tokens(part) for part in batches(len(read), at_once)])
        return TextBatch(read.ids, read.mask, left), read.cut
    states_TLD = encoder.map_shared(len(read), lambda rows: read.tokens(rows).states, "texts", at_once=at_once)
    return TextBatch(read.ids, read.mask, Tokens(states_TLD, read.mask)), read.cut


def similarities(encoder: VisionEncoder, texts: TextBatch, *, keep: bool) -> Iterator[Tensor]:
    """Cosine similarities (t, I) of consecutive texts with all images, in float32 at least.

    keep: whether the images' tokens are wanted again.
    """
    model, total = encoder.host.model, len(encoder.images)
    wide = torch.promote_types(encoder.host.dtype, torch.float32)

    def embedded(rows: Tensor) -> Tensor:
        return model.embed_image(encoder.tokens(rows, keep=keep)).to(wide)

    images_IP = encoder.map_shared(total, embedded, "images", images=torch.arange(total))
    texts_TP = model.embed_text(texts).to(wide)
    for part in text_blocks(len(texts_TP), total):
        yield texts_TP[part] @ images_IP.T


def matching_scores(encoder: VisionEncoder, texts: TextBatch) -> Iterator[Tensor]:
    """The matching head's scores (t, I) of consecutive texts with all images."""
    total, length_T = len(encoder.images), texts.mask.sum(1)
    for part in text_blocks(len(texts.ids), total):
        order = length_T[part].argsort(stable=True)
        images = torch.arange(total, device=order.device).repeat_interleave(len(order))
        scores_IT = pair_scores(encoder, texts, (part.start + order).repeat(total), images).view(total, -1)
        yield scores_IT[:, order.argsort()].T


def text_blocks(texts: int, images: int) -> Iterator[slice]:
    """Slices that cover all texts, each with about SCORES_PER_BLOCK scores."""
    return batches(texts, max(1, SCORES_PER_BLOCK // images))


def reranked(
    encoder: VisionEncoder, texts: TextBatch, of_texts: Shortlist, of_images: Shortlist
) -> tuple[tuple[Shortlist, Shortlist], int]:
    """Both shortlists with the matching head's scores, and how many different pairs they have."""
    total_T, total_I = len(of_texts.index), len(of_images.index)
    device = of_texts.index.device
    # Pairs go by groups of images, so that each image's tokens are needed at one time only, and in a group by the
    # text's length, so that a batch has little padding. Where every pair is encoded, one image's pairs stand together.
    group = 1 if encoder.text_guided else encoder.batch_size
    by_length_T = texts.mask.sum(1).argsort(stable=True)
    place_T = by_length_T.argsort()

    def numbers(text: Tensor, image: Tensor) -> Tensor:
        return (image // group * total_T + place_T[text]) * group + image % group

    pairs_TK = numbers(torch.arange(total_T, device=device)[:, None], of_texts.index)
    pairs_IK = numbers(of_images.index, torch.arange(total_I, device=device)[:, None])
    pairs_P = torch.cat([pairs_TK.flatten(), pairs_IK.flatten()]).unique()
    groups_P, places_P = pairs_P // group // total_T, pairs_P // group % total_T
    scores_P = pair_scores(encoder, texts, by_length_T[places_P], groups_P * group + pairs_P % group)
    require_finite(scores_P)
    text_side, image_side = (scores_P[torch.searchsorted(pairs_P, pairs)] for pairs in (pairs_TK, pairs_IK))
    return (Shortlist(of_texts.index, text_side), Shortlist(of_images.index, image_side)), len(pairs_P)


def pair_scores(encoder: VisionEncoder, texts: TextBatch, text_P: Tensor, image_P: Tensor) -> Tensor:
    """The matching head's scores (P,), in float32 at least, of pairs of a text and an image, each an index (P,)."""
    wide = torch.promote_types(encoder.host.dtype, torch.float32)

    def scores(rows: Tensor) -> Tensor:
        asked = texts.rows(text_P[rows])
        return encoder.host.model.rank(asked, encoder.pair_tokens(image_P[rows], asked)).to(wide)

    return encoder.map_shared(len(text_P), scores, "pairs", images=image_P)


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

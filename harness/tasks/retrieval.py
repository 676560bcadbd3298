"""Image-text retrieval: R@1/5/10 both ways, by the dual encoder, then re-ranked by the matching head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from harness.data.formats import ImageTextSet, load_captions
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.models.host import TextBatch
from harness.task import Outcome, Task, TaskData, TaskOptions

CUTOFFS = (1, 5, 10)
NO_RANK = 2**31 - 1


class RetrievalOptions(TaskOptions):
    """captions_per_image: how many of an image's captions are used; rerank_k: candidates the matching head re-ranks."""

    captions_per_image: PositiveInt = 1
    rerank_k: PositiveInt = 16


class Retrieval(Task):
    """ALBEF's protocol: the dual encoder ranks everything, the matching head re-ranks each query's top k.

    A pair that both directions ask for is scored once. Text-guided methods encode the image anew for each such pair;
    the first stage has no text, so they fall back there as the method says. A query's outcome is 1 when a right item
    is among its first 1, 5 or 10; ties go to the lower index. Candidates outside the top k are misses.
    """

    Options = RetrievalOptions
    metrics = tuple(f"{way}_r{k}{stage}" for stage in ("", "_rerank") for way in ("t2i", "i2t") for k in CUTOFFS)

    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        return load_captions(folder, limit)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, RetrievalOptions)
        captions, owner = chosen_captions(data.annotations, options.captions_per_image)
        host = encoder.host
        texts = encode_texts(host, [caption.text for caption in captions], 4 * encoder.batch_size)
        owners = torch.tensor(owner, device=host.device)
        relevant_TI = owners[:, None] == torch.arange(len(data.images), device=host.device)
        projected = torch.cat(
            [host.model.embed_image(encoder.image_states()[part]) for part in batches(len(data.images), 256)]
        )
        similarity_TI = host.model.embed_text(texts) @ projected.T

        k = options.rerank_k
        text_picks, image_picks = top_mask(similarity_TI, k), top_mask(similarity_TI.T, k).T
        matched_TI = self.match(encoder, texts, text_picks | image_picks)
        outcomes: dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]] = {}
        sample_t = [str(caption.id) for caption in captions]
        names = data.names
        cluster_t = [names[i] for i in owner]
        for stage, t2i, i2t in (
            ("", similarity_TI, similarity_TI),
            ("_rerank", masked(matched_TI, text_picks), masked(matched_TI, image_picks)),
        ):
            for way, ranks, samples, clusters in (
                ("t2i", best_ranks(t2i, relevant_TI), sample_t, cluster_t),
                ("i2t", best_ranks(i2t.T, relevant_TI.T), names, names),
            ):
                for cutoff in CUTOFFS:
                    outcomes[f"{way}_r{cutoff}{stage}"] = (
                        samples,
                        clusters,
                        (ranks < cutoff).astype(np.float64),
                    )
        diagnostics = {
            "pairs_reranked": int((text_picks | image_picks).sum()),
            **encoder.mentioned(owners, texts, [caption.patches for caption in captions]),
        }
        return Outcome("retrieval", outcomes, diagnostics)

    def match(self, encoder: VisionEncoder, texts: TextBatch, wanted_TI: Tensor) -> Tensor:
        """Log-odds (T, I) that text and image belong together, for the wanted pairs; -inf elsewhere."""
        model = encoder.host.model
        text_index, image_index = wanted_TI.nonzero(as_tuple=True)
        scores_TI = torch.full_like(wanted_TI, -torch.inf, dtype=encoder.host.dtype)
        with encoder.progress.bar("pairs", len(text_index)) as bar:
            for part in batches(len(text_index), encoder.batch_size):
                rows, columns = text_index[part], image_index[part]
                asked = texts.rows(rows)
                logits = model.match(asked, encoder.pair_states(columns, asked))
                scores_TI[rows, columns] = logits[:, 1] - logits[:, 0]
                bar.advance(part.stop - part.start)
        return scores_TI


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


def top_mask(scores_QC: Tensor, k: int) -> Tensor:
    """Mask (Q, C) of each query's k best candidates, ties to the lower index."""
    order = torch.sort(scores_QC, dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(scores_QC, dtype=torch.bool).scatter_(1, order, True)


def masked(scores_TI: Tensor, allowed_TI: Tensor) -> Tensor:
    """Scores with -inf where a pair is no candidate."""
    return scores_TI.masked_fill(~allowed_TI, -torch.inf)


def best_ranks(scores_QC: Tensor, relevant_QC: Tensor) -> np.ndarray:
    """Rank (Q,), from 0, of each query's best relevant candidate; NO_RANK when its score is -inf.

    Ties go to the lower index, so the result depends on nothing but the scores.
    """
    order = torch.sort(scores_QC, dim=1, descending=True, stable=True).indices
    found = relevant_QC.gather(1, order) & scores_QC.gather(1, order).isfinite()
    ranks = torch.where(found.any(1), found.int().argmax(1), NO_RANK)
    return ranks.cpu().numpy()

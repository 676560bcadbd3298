"""Episodes of ProtoCLIP: features of what an episode will show, their clusters, and which sample lies in which.

Source: megvii-research/protoclip, src/training/clustering.py. k-means there is faiss's, 20 iterations, the best of 3
starts; here scipy's (`scipy.cluster.vq.kmeans2`, starting at samples), with the same numbers of both. Shapes: S
samples of an episode, K clusters, P features, Q a teacher's features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor, nn

from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.parts.prototypes import Lessons, Teaching, make_lessons

ITERATIONS, STARTS, TEACHER_WIDTH = 20, 3, 64
LESSONS = ("image_of_text", "text_of_image", "image_of_external", "text_of_external")
PARTS = ("labels", "teacher", "student")


def clusters(features_SP: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels (S,) and centroids (count, P) by k-means, found by the first process and given to all.

    HarnessError for fewer samples than clusters.
    """
    if len(features_SP) < count:
        raise HarnessError(f"{count} clusters of {len(features_SP)} samples: ask for fewer, or for a longer episode")

    def found() -> tuple[Tensor, Tensor]:
        points = features_SP.double().cpu().numpy()
        source, best = np.random.default_rng(seed), (np.inf, points, points)
        for _ in range(STARTS):
            with warnings.catch_warnings():
                # A cluster that lost its members keeps its centre and stands empty, as the loss allows.
                warnings.simplefilter("ignore", UserWarning)
                centres, _ = kmeans2(points, count, iter=ITERATIONS, minit="points", rng=source)
            labels, distances = vq(points, centres)
            best = min(best, (float(np.square(distances).sum()), labels, centres), key=lambda one: one[0])
        _, labels, centres = best
        return torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(centres).to(features_SP.dtype)

    labels, centres = distributed.on_main_process(found)
    return labels.to(features_SP.device), centres.to(features_SP.device)


def principal(features_SQ: Tensor, most: int = TEACHER_WIDTH) -> Tensor:
    """Features on their first principal axes, (S, at most `most`), without their mean."""
    centred = features_SQ.double() - features_SQ.double().mean(dim=0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    return (centred @ axes[:most].T).to(features_SQ.dtype)


class Episode(nn.Module):
    """What is learnt of the clusters of the episode that is shown: tensors that a checkpoint holds.

    A sample is found by its own number (int64), however often the episode shows it. Before the first clustering, and
    after `close`, there are no lessons.
    """

    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("samples", torch.empty(0, dtype=torch.int64))
        for lesson in LESSONS:
            for part in PARTS:
                kind = torch.int64 if part == "labels" else torch.get_default_dtype()
                self.register_buffer(f"{lesson}_{part}", torch.empty(0, dtype=kind))

    def open(
        self,
        samples_S: Tensor,
        features: Sequence[Tensor],
        count: int,
        seed: int,
        *,
        back_translation: bool,
        empty_external: bool,
    ) -> None:
        """Cluster features (S, P) of images, of texts and, if there is one, of the teacher (S, Q), of these samples.

        Features are kept as float32, what is not a number as 0.
        """
        kept = [part.float().nan_to_num(nan=0.0).to(part.dtype) for part in features]
        found = [clusters(part, count, seed + at) for at, part in enumerate(kept)]
        order = samples_S.sort(stable=True).indices
        labels, centroids = [part[0] for part in found], [part[1] for part in found]
        lessons = make_lessons(
            (kept[0], kept[1]), labels, centroids, back_translation=back_translation, empty_external=empty_external
        )
        self.samples = samples_S[order]
        for name in LESSONS:
            lesson = getattr(lessons, name)
            for part in PARTS:
                value = None if lesson is None else getattr(lesson, part)
                held = getattr(self, f"{name}_{part}")
                value = held.new_empty(0) if value is None else value[order] if part == "labels" else value
                setattr(self, f"{name}_{part}", value)

    def close(self) -> None:
        """Forget the clusters."""
        self.samples = self.samples.new_empty(0)

    @property
    def lessons(self) -> Lessons | None:
        """What the clusters teach; None where there are none."""
        if not len(self.samples):
            return None
        made = [Teaching(*(getattr(self, f"{name}_{part}") for part in PARTS)) for name in LESSONS]
        return Lessons(made[0], made[1], *(one if len(one.teacher) else None for one in made[2:]))

    def places(self, sample_ids_B: Tensor) -> Tensor:
        """Where samples stand among the lessons' labels, (B,)."""
        return torch.searchsorted(self.samples, sample_ids_B)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *given: Any) -> None:
        """Take the sizes of the episode that a checkpoint was written in."""
        for name, held in list(self.named_buffers()):
            if (stored := state_dict.get(prefix + name)) is not None:
                setattr(self, name, held.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *given)

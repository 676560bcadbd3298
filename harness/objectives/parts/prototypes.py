"""ProtoCLIP's loss: an image predicts the cluster that its text lies in, and a text the one that its image lies in.

Source: megvii-research/protoclip, src/training/loss.py and src/open_clip/model.py. Shapes: B pairs of this process, S
samples of an episode, K clusters, E the towers' features, P the heads' space, Q a teacher's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.parts.contrast import LARGEST_SCALE, pair_contrast

IMAGE, TEXT, EXTERNAL = range(3)


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation (B, C) by the statistics of all processes' rows, so that many processes equal one."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        own = distributed.own_rows(len(input), input.device)
        return super().forward(distributed.gather_with_gradient(input))[own]


class ProjectionHead(nn.Sequential):
    """Features (B, E) -> unit vectors (B, P): `layers` times linear, norm, ReLU, then a linear."""

    def __init__(self, features: int, hidden: int, out: int, layers: int = 1, eps: float = 1e-5) -> None:
        super().__init__(*_modules(features, hidden, out, layers, eps))

    def forward(self, input: Tensor) -> Tensor:
        return F.normalize(super().forward(input), dim=-1)


def _modules(features: int, hidden: int, out: int, layers: int, eps: float) -> Iterator[nn.Module]:
    for _ in range(layers):
        yield from (nn.Linear(features, hidden), GlobalBatchNorm(hidden, eps=eps), nn.ReLU())
        features = hidden
    yield nn.Linear(features, out)


def mean_of_clusters(features_SP: Tensor, labels_S: Tensor, count: int) -> Tensor:
    """(K, P): the plain mean of the features of each cluster, zeros for one without any; not of unit length."""
    summed = features_SP.new_zeros(count, features_SP.shape[1]).index_add(0, labels_S, features_SP)
    return summed / labels_S.bincount(minlength=count).clamp(min=1).unsqueeze(1).to(features_SP.dtype)


def cluster_targets(labels_B: Tensor, teacher_KQ: Tensor, temperature: float) -> Tensor:
    """(B, K): softmax over clusters of how alike the teacher's centroids are to that of each label.

    A temperature of 0 or below: the label alone.
    """
    if temperature <= 0:
        return F.one_hot(labels_B, len(teacher_KQ)).to(teacher_KQ.dtype)
    return (teacher_KQ[labels_B] @ teacher_KQ.T / temperature).softmax(dim=1)


@dataclass(frozen=True)
class Teaching:
    """What one side learns of another: an episode's labels (S,), the teacher's (K, Q) and student's centroids (K, P).

    With prototypical back translation the student's centroids are the means of its own features by the teacher's
    labels, without it they are the teacher's.
    """

    labels: Tensor
    teacher: Tensor
    student: Tensor

    def scores(self, projected_BP: Tensor, scale: Tensor) -> Tensor:
        """(B, K): logits of each cluster; an empty one, whose centroid is zero, stays with logit 0."""
        return scale * projected_BP @ self.student.T

    def loss(self, projected_BP: Tensor, scale: Tensor, places_B: Tensor, temperature: float) -> Tensor:
        """Mean cross-entropy for the samples at places_B of the episode."""
        targets_BK = cluster_targets(self.labels[places_B], self.teacher, temperature)
        return -(targets_BK * self.scores(projected_BP, scale).log_softmax(dim=1)).sum(dim=1).mean()

    def accuracy(self, projected_BP: Tensor, scale: Tensor, places_B: Tensor) -> Tensor:
        """Percent of these samples whose best score is that of their label, whatever the targets."""
        scores_BK = self.scores(projected_BP, scale)
        return 100 * (scores_BK.argmax(dim=1) == self.labels[places_B]).to(scores_BK.dtype).mean()


@dataclass(frozen=True)
class Lessons:
    """What images learn of texts and of an external teacher, and texts of images and of it; None without one."""

    image_of_text: Teaching
    text_of_image: Teaching
    image_of_external: Teaching | None = None
    text_of_external: Teaching | None = None


def make_lessons(
    features: tuple[Tensor, Tensor],
    labels: Sequence[Tensor],
    centroids: Sequence[Tensor],
    *,
    back_translation: bool = True,
    empty_external: bool = False,
) -> Lessons:
    """Lessons of an episode: the heads' features (S, P) of images and texts; labels (S,) and centroids of images, of
    texts and, if there is one, of the external teacher.

    `empty_external`: without back translation the external teacher's centroids lie in a space of their own; the
    released program then takes zeros for the student's and label 0 for every sample, so that its term is the constant
    ln K. HarnessError where neither holds.
    """
    count = len(centroids[0])

    def taught(student: int, teacher: int) -> Teaching:
        own = centroids[teacher]
        if back_translation:
            return Teaching(labels[teacher], own, mean_of_clusters(features[student], labels[teacher], count))
        if teacher == EXTERNAL:
            if not empty_external:
                raise HarnessError(
                    "protoclip: without back translation an external teacher's centroids are of another space; set "
                    "back_translation=true, or empty_external=true for what the released program does then"
                )
            zeros = features[student].new_zeros(count, features[student].shape[1])
            return Teaching(torch.zeros_like(labels[teacher]), own, zeros)
        return Teaching(labels[teacher], own, own)

    outside = [taught(side, EXTERNAL) for side in (IMAGE, TEXT)] if len(labels) > EXTERNAL else [None, None]
    return Lessons(taught(IMAGE, TEXT), taught(TEXT, IMAGE), *outside)


class PrototypeLoss(nn.Module):
    """Both heads, their scale, and the loss: w_clip * contrast + w_proto * mean of both directions, + w_external * the
    same of an external teacher.

    `temperature`, `external_temperature`: of the targets, see `cluster_targets`.
    """

    def __init__(
        self,
        image_head: ProjectionHead,
        text_head: ProjectionHead,
        weights: tuple[float, float, float],
        temperature: float,
        external_temperature: float = -1.0,
    ) -> None:
        super().__init__()
        self.image_head, self.text_head, self.weights = image_head, text_head, weights
        self.temperature, self.external_temperature = temperature, external_temperature
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def project(self, images_BE: Tensor, texts_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides' features, before any normalisation, through their heads: (B, P) each."""
        return self.image_head(images_BE), self.text_head(texts_BE)

    def terms(self, projected: tuple[Tensor, Tensor], lessons: Lessons, places_B: Tensor) -> dict[str, Tensor]:
        """Each direction's cross-entropy, by name, for the samples at places_B of the episode."""
        scale, (images, texts) = self.log_scale.exp(), projected
        found = {
            "image_to_text": lessons.image_of_text.loss(images, scale, places_B, self.temperature),
            "text_to_image": lessons.text_of_image.loss(texts, scale, places_B, self.temperature),
        }
        for name, side, lesson in (
            ("image_to_external", images, lessons.image_of_external),
            ("text_to_external", texts, lessons.text_of_external),
        ):
            if lesson is not None:
                found[name] = lesson.loss(side, scale, places_B, self.external_temperature)
        return found

    def forward(
        self, features: tuple[Tensor, Tensor], scale: Tensor, lessons: Lessons | None, places_B: Tensor | None
    ) -> dict[str, Tensor]:
        """Losses by name, weighted, of both sides' features (B, E) before any normalisation and the contrast's scale.

        Without lessons the contrast alone, at weight 1 whatever its own is, as in the released program.
        """
        images, texts = (F.normalize(side, dim=-1) for side in features)
        contrast = pair_contrast(images, texts, scale)
        if lessons is None or places_B is None:
            return {"contrast": contrast}
        w_clip, w_proto, w_external = self.weights
        terms = self.terms(self.project(*features), lessons, places_B)
        found = {
            "contrast": w_clip * contrast,
            "prototypes": w_proto * (terms["image_to_text"] + terms["text_to_image"]) / 2,
        }
        if lessons.image_of_external is not None:
            found["external"] = w_external * (terms["image_to_external"] + terms["text_to_external"]) / 2
        return found

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the heads' factor between 1 and 100, as training does after every step."""
        self.log_scale.clamp_(0, math.log(LARGEST_SCALE))

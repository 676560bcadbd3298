"""Image-text contrast with momentum distillation and queues, which ALBEF and BLIP share.

Source: Li et al. 2021, arXiv 2107.07651, sections 3.2 and 3.3. The momentum tower keeps all its image tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.objectives.parts.attention_mask import ClassAttention
from harness.objectives.parts.momentum import Queue, Twin
from harness.objectives.parts.objective import (
    WRONG_IMAGES,
    WRONG_TEXTS,
    Moment,
    Objective,
    Pairs,
    distilled_targets,
    hard_negatives,
    soft_contrast,
)
from harness.reduction import Tokens, encode

TEMPERATURE_LOW, TEMPERATURE_HIGH = 0.001, 0.5
H = TypeVar("H", bound=HostModel)


@dataclass(frozen=True)
class Aligned:
    """Texts, the student's and the twin's image states, the contrast, and the logits that negatives are drawn by."""

    texts: TextBatch
    images: Tokens
    images_m: Tokens
    contrast: Tensor
    logits: tuple[Tensor, Tensor]


class MomentumContrast(Objective[H]):
    """Student, momentum twin and the two queues of momentum features.

    `NEGATIVE_FLOOR` is added to the probabilities that wrong texts and images are drawn with.
    """

    NEGATIVE_FLOOR: ClassVar[float] = 0.0
    LEAST_PAIRS = 2
    MOMENTUM = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        host, recipe = self.host, self.recipe
        self.twin: Twin[H] = Twin(host)
        self.image_queue = Queue(host.config.projection, recipe.queue_size)
        self.text_queue = Queue(host.config.projection, recipe.queue_size)

    @property
    def temperature(self) -> nn.Parameter:
        """The host's own, by which similarities are divided."""
        return self.host.get_parameter("temperature")

    @torch.no_grad()
    def follow(self, pairs: Pairs) -> tuple[Tokens, tuple[Tensor, Tensor]]:
        """Draw the twin towards the student; its image states, and its features of images and texts.

        For a method that needs it, what the twin's class token attends to is noted with the states.
        """
        self.temperature.clamp_(TEMPERATURE_LOW, TEMPERATURE_HIGH)
        self.twin.follow(self.host, self.recipe.momentum)
        twin = self.twin.model
        if self.reducer.needs_momentum:
            tower = open_tower(twin.vision)
            images = encode(tower, ClassAttention(tower.shape), pairs.pixels)
        else:
            images = twin.encode_image(pairs.pixels)
        return images, (twin.embed_image(images), twin.embed_text(twin.text_batch(pairs.ids, pairs.mask)))

    def align(self, pairs: Pairs, moment: Moment) -> Aligned:
        """The contrast of a batch, and what the other losses go on with."""
        images_m, features_m = self.follow(pairs)
        texts = self.host.text_batch(pairs.ids, pairs.mask)
        attention = images_m.notes["attention"] if self.reducer.needs_momentum else None
        images = self.encode_images(pairs.pixels, texts, image_attention=attention)
        loss, logits = self.contrast((images, texts), features_m, moment.alpha, pairs)
        return Aligned(texts, images, images_m, loss, logits)

    def contrast(
        self, student: tuple[Tokens, TextBatch], momentum_features: tuple[Tensor, Tensor], alpha: float, pairs: Pairs
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mean of both directions, and the student's logits of its images and texts against the candidates.

        Columns are the batch's momentum features, then the queue's; afterwards the batch's are queued.
        """
        host = self.host
        images, texts = host.embed_image(student[0]), host.embed_text(student[1])
        with torch.no_grad():
            everyone = [distributed.gather(features) for features in momentum_features]
            current = everyone if self.everywhere else list(momentum_features)
            image_columns = torch.cat([current[0].T, self.image_queue.columns], dim=1)
            text_columns = torch.cat([current[1].T, self.text_queue.columns], dim=1)
            right = self.right_columns(pairs)
            targets = [
                distilled_targets(features @ columns / self.temperature, right, alpha)
                for features, columns in zip(momentum_features, (text_columns, image_columns))
            ]
        logits = images @ text_columns / self.temperature, texts @ image_columns / self.temperature
        loss = (soft_contrast(logits[0], targets[0]) + soft_contrast(logits[1], targets[1])) / 2
        self.enqueue(everyone, pairs)
        count = len(current[0])
        return loss, (logits[0][:, :count], logits[1][:, :count])

    def enqueue(self, features: list[Tensor], pairs: Pairs) -> None:
        """Queue the global batch's features of images and texts."""
        self.image_queue.enqueue(features[0])
        self.text_queue.enqueue(features[1])

    def right_candidates(self, pairs: Pairs) -> Tensor:
        """Which of the batch's candidates are right for each pair, (B, G): its own."""
        own = self.own(len(pairs.sample_ids), pairs.sample_ids.device)
        count = len(own) * (distributed.world() if self.everywhere else 1)
        return own[:, None] == torch.arange(count, device=own.device)

    def right_columns(self, pairs: Pairs) -> Tensor:
        """The same for the batch's candidates and the queue's columns, (B, G + Q): none of the queue's is right."""
        right = self.right_candidates(pairs)
        return F.pad(right, (0, self.image_queue.columns.shape[1]))

    def negatives(self, logits: tuple[Tensor, Tensor], pairs: Pairs, moment: Moment) -> tuple[Tensor, Tensor]:
        """Rows of a wrong text for each image and of a wrong image for each text, hard ones likelier, (B,) each."""
        right = self.right_candidates(pairs)
        texts, images = (
            hard_negatives(part, right, pairs.sample_ids, moment, purpose, self.NEGATIVE_FLOOR)
            for part, purpose in zip(logits, (WRONG_TEXTS, WRONG_IMAGES))
        )
        return texts, images

    def load_released_state(self, tensors: dict[str, Tensor]) -> None:
        """Twin and queues from a released checkpoint's own names; the student is loaded by `load_released`."""
        own = self.twin.model.state_dict()
        for name, tensor in tensors.items():
            plain = re.sub(r"^(visual_encoder|vision_proj|text_encoder|text_proj)_m\.", r"\1.", name)
            target = self.host.released(plain) if plain != name else None
            if isinstance(target, str):
                own[target].copy_(tensor)
        self.image_queue.columns.copy_(tensors["image_queue"])
        self.text_queue.columns.copy_(tensors["text_queue"])
        for queue in (self.image_queue, self.text_queue):
            queue.pointer.copy_(tensors["queue_ptr"])

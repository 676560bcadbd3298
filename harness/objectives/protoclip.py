"""ProtoCLIP: contrast, and clusters of one side's features predicted from the other side's, found anew every episode.

Source: megvii-research/protoclip (loss and weights: parts/prototypes.py; clustering: parts/episodes.py). An epoch is an
episode: pairs drawn with replacement, all of them run through the towers in evaluation without gradient, clustered,
then trained on once. The first episodes, and those with a locked image side, are the contrast alone.

This project's own: an episode and the number of clusters where the data are smaller than the released 200,000 and
20,000; k-means of scipy; batch statistics of the heads over all processes; the external teacher, here the text side as
training starts in place of RoBERTa-large. A locked image side runs without gradient where the release sets its
learning rate to 0. With a method: both passes, the features' and the training step's, reduce each image for its own
caption, so that clusters are of what is trained on; in the first, which is in evaluation, methods that reduce in
training only keep every token. The released slip of `local_loss` with several processes is left out: every contrast
here is over all processes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.pairs import draw
from harness.hosts.clip.model import Clip
from harness.hosts.host import TextBatch
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Asked, Batches, pair_batches
from harness.objectives.parts.episodes import Episode, principal
from harness.objectives.parts.objective import Losses, Moment, Objective, ObjectiveConfig, Pairs
from harness.objectives.parts.prototypes import ProjectionHead, PrototypeLoss

RELEASED_EPISODE, PAIRS_A_CLUSTER = 200_000, 10


class ProtoClipConfig(ObjectiveConfig):
    """episode: pairs drawn for one, left out 200,000 or as many as there are. clusters: left out a tenth of those.

    temperature: of the clusters' targets, 0 or below: the label alone (the program's default is -1, its released run's
    .01). warm_up_episodes: of the contrast alone. lock_from_episode: number of the first episode, counted from 1, that
    trains the text side alone (99 of 100 in the released one-GPU run); left out: none. external_teacher: whether the
    text side as it starts teaches both. empty_external: what the released program does with one without
    back_translation.
    """

    episode: PositiveInt | None = None
    clusters: int | None = Field(default=None, ge=2)
    hidden: PositiveInt = 2048
    projection: PositiveInt = 128
    layers: NonNegativeInt = 1
    temperature: float = 0.01
    back_translation: bool = True
    contrast_weight: float = Field(default=1.0, ge=0)
    prototype_weight: float = Field(default=1.0, ge=0)
    external_teacher: bool = False
    external_weight: float = Field(default=1.0, ge=0)
    external_temperature: float = -1.0
    empty_external: bool = False
    warm_up_episodes: NonNegativeInt = 1
    lock_from_episode: PositiveInt | None = None


class ProtoClipObjective(Objective[Clip]):
    """Contrast, prototypes and, with an external teacher, its prototypes; each weighted."""

    NEEDS = frozenset({"contrast"})
    PARTS = ("image_feature", "text_feature", "scale", "clamp_scale")
    Config = ProtoClipConfig
    LEAST_PAIRS = 2
    LEAVES_UNUSED = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        config, width = self.config, self.host.config.projection
        sizes = width, config.hidden, config.projection, config.layers
        weights = config.contrast_weight, config.prototype_weight, config.external_weight
        self.prototypes = PrototypeLoss(
            ProjectionHead(*sizes), ProjectionHead(*sizes), weights, config.temperature, config.external_temperature
        )
        self.clusters = Episode()
        self.external: nn.Module | None = None
        if config.external_teacher:
            if not (config.back_translation or config.empty_external):
                raise HarnessError(
                    "objective protoclip: without back_translation an external teacher's clusters are of another "
                    "space; set it, or empty_external=true for what the released program does then"
                )
            self.external = _Frozen(self.host)

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        batches = pair_batches(asked)
        batches.draw_with_replacement(config.episode or min(RELEASED_EPISODE, batches.samples))
        shown = batches.steps_per_epoch * asked.batch_size * asked.world
        if cls.cluster_count(config, shown) > shown:
            raise HarnessError(
                f"objective protoclip: {config.clusters} clusters of an episode of {shown} pairs; lower "
                "protoclip.clusters or raise protoclip.episode"
            )
        return batches

    @staticmethod
    def cluster_count(config: Any, shown: int) -> int:
        """K, of an episode that shows so many pairs."""
        return int(config.clusters or max(2, shown // PAIRS_A_CLUSTER))

    def before_epoch(self, epoch: int, batches: Batches, tokenizer: Tokenizer) -> None:
        if self.contrast_alone(epoch):
            self.clusters.close()
            return
        was = self.training
        self.eval()
        samples, features = self.look(epoch, batches, tokenizer)
        self.train(was)
        config = self.config
        self.clusters.open(
            samples,
            features,
            self.cluster_count(config, len(samples)),
            draw(epoch, "clusters") >> 1,
            back_translation=config.back_translation,
            empty_external=config.empty_external,
        )

    @torch.no_grad()
    def look(self, epoch: int, batches: Batches, tokenizer: Tokenizer) -> tuple[Tensor, list[Tensor]]:
        """Every sample of an episode, (S,), and the heads' features (S, P) of its image and text, and a teacher's."""
        own = next(self.host.parameters())
        rows: list[list[Tensor]] = []
        for batch in batches.epoch(epoch):
            pairs = self.read(batch, tokenizer).to(own.device, own.dtype)
            texts = self.host.text_batch(pairs.ids, pairs.mask)
            features = self.host.image_feature(self.encode_images(pairs.pixels, texts)), self.host.text_feature(texts)
            self._encoded = []  # the method's own losses are of training
            found = [pairs.sample_ids, *self.prototypes.project(*features)]
            if self.external is not None:
                found.append(self.external(pairs.ids, pairs.mask))
            rows.append([distributed.gather(part) for part in found])
        samples, *parts = (torch.cat(column) for column in zip(*rows, strict=True))
        return samples, [*parts[:2], *(principal(part) for part in parts[2:])]

    def locked(self, epoch: int) -> bool:
        """Whether an episode trains the text side alone."""
        first = self.config.lock_from_episode
        return first is not None and epoch >= first - 1

    def contrast_alone(self, epoch: int) -> bool:
        return epoch < self.config.warm_up_episodes or self.locked(epoch)

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        host = self.host
        texts = host.text_batch(pairs.ids, pairs.mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked(moment.epoch)):
            image = host.image_feature(self.encode_images(pairs.pixels, texts))
        lessons = None if self.contrast_alone(moment.epoch) else self.clusters.lessons
        places = None if lessons is None else self.clusters.places(pairs.sample_ids)
        losses: Losses = self.prototypes((image, host.text_feature(texts)), host.scale(), lessons, places)
        return losses

    def after_step(self) -> None:
        self.host.clamp_scale()
        self.prototypes.clamp()


class _Frozen(nn.Module):
    """A host's text side as it is now: the mean of a text's states, unit length."""

    def __init__(self, host: Clip) -> None:
        super().__init__()
        self.host = deepcopy(host).requires_grad_(False)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        texts: TextBatch = self.host.text_batch(ids_BL, mask_BL)
        return F.normalize(texts.tokens.mean(), dim=-1)

    def train(self, mode: bool = True) -> _Frozen:
        """Nothing drops out of a teacher."""
        return super().train(False)

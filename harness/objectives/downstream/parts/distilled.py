"""A task that is one loss of logits, with a momentum twin's logits as soft targets where the recipe has an alpha.

Source of the distillation: Li et al. 2021, arXiv 2107.07651, section 3.3, and the released model_vqa.py, model_ve.py
and model_nlvr.py: the twin sees all tokens of an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.hosts.host import HostModel, TextBatch
from harness.objectives.parts.momentum import Twin
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs
from harness.reduction import Tokens

Encode = Callable[[Tensor], Tokens]


class DistilledObjective(Objective[HostModel]):
    """Base class: `logits` of a host, whichever of the two, and the `loss` of the student's."""

    NAME: ClassVar[str]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.twin: Twin[HostModel] | None = Twin(self.host) if self.recipe.alpha else None

    @abstractmethod
    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Any) -> Tensor:
        """What the host says of a batch; `encode` turns pixels (B, 3, H, W) into its tokens."""

    @abstractmethod
    def loss(self, logits: Tensor, pairs: Any, soft: Tensor | None, alpha: float) -> Tensor:
        """The mean loss of a batch; `soft`: the twin's logits, which count `alpha`."""

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        texts = self.host.text_batch(pairs.ids, pairs.mask)
        logits = self.logits(self.host, texts, lambda pixels: self.encode_images(pixels, texts), pairs)
        return {self.NAME: self.loss(logits, pairs, self.soft(pairs), moment.alpha)}

    @torch.no_grad()
    def soft(self, pairs: Pairs) -> Tensor | None:
        """The twin's logits, after it was drawn towards the student; None without a twin."""
        if self.twin is None:
            return None
        self.twin.follow(self.host, self.recipe.momentum)
        twin = self.twin.model
        return self.logits(twin, twin.text_batch(pairs.ids, pairs.mask), twin.encode_image, pairs)

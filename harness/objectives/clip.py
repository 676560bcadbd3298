"""CLIP's pre-training: every image of the global batch against every text of it.

Source: Radford et al. 2021, arXiv 2103.00020, section 2.3. Features are gathered from all processes with their
gradients. ELIP reduces an image's tokens for its own caption (arXiv 2309.16738).
"""

from __future__ import annotations

from torch.nn import functional as F

from harness.hosts.clip.model import Clip
from harness.kit import distributed
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs


class ClipObjective(Objective[Clip]):
    """The mean of both directions' cross-entropies."""

    NEEDS = frozenset({"contrast"})
    PARTS = ("scale", "clamp_scale")
    LEAST_PAIRS = 2

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        host = self.host
        host.clamp_scale()
        texts = host.text_batch(pairs.ids, pairs.mask)
        images_BP = host.embed_image(self.encode_images(pairs.pixels, texts))
        texts_BP = host.embed_text(texts)
        own = distributed.own_rows(len(images_BP), images_BP.device)
        scale = host.scale()
        by_image = scale * images_BP @ distributed.gather_with_gradient(texts_BP).T
        by_text = scale * texts_BP @ distributed.gather_with_gradient(images_BP).T
        return {"contrast": (F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own)) / 2}

"""CLIP's pre-training: every image of the global batch against every text of it.

Source: Radford et al. 2021, arXiv 2103.00020, section 2.3. Features are gathered from all processes with their
gradients. ELIP reduces an image's tokens for its own caption (arXiv 2309.16738).
"""

from __future__ import annotations

from harness.hosts.clip.model import Clip
from harness.objectives.parts.contrast import pair_contrast
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
        return {"contrast": pair_contrast(images_BP, host.embed_text(texts), host.scale())}

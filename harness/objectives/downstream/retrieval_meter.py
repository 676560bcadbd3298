"""METER on retrieval: the right text among wrong ones (released `compute_irtr`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.pair_batch import PairBatch
from harness.hosts.host import TextBatch
from harness.hosts.meter.model import Meter
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit.draws import uniform
from harness.objectives.downstream.parts.captioned import Captioned, captioned
from harness.objectives.parts.objective import FALSE_TEXTS, Losses, Moment, Objective


class MeterRetrieval(Objective[Meter]):
    """Cross-entropy of the right text among the recipe's `false_texts` wrong ones of the batch, or fewer if there are.

    A text-guided method encodes the image anew for each of the texts; others once.
    """

    NEEDS = frozenset({"match"})
    PARTS = ("rank",)
    LEAST_PAIRS = 2

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
        return captioned(batch, tokenizer)

    def losses(self, pairs: Captioned, moment: Moment) -> Losses:
        host, count = self.host, len(pairs.pixels)
        chosen, right = self.texts_to_rank(pairs, moment)
        each = chosen.shape[1]
        own = host.text_batch(pairs.ids, pairs.mask)
        ids, mask = self.candidates(own.ids, self.specials.pad), self.candidates(own.mask, 0)
        every = TextBatch(ids, mask, self.candidate_tokens(own.tokens))
        texts = every.select(chosen.flatten())
        if self.reducer.needs_text:
            images = self.encode_images(pairs.pixels.repeat_interleave(each, 0), texts)
        else:
            images = self.encode_images(pairs.pixels, own).repeated(each)
        scores = host.rank(texts, images).view(count, each).masked_fill(right, -torch.inf)
        return {"ranking": F.cross_entropy(scores, torch.zeros(count, dtype=torch.long, device=scores.device))}

    def texts_to_rank(self, pairs: Captioned, moment: Moment) -> tuple[Tensor, Tensor]:
        """Candidates' rows (B, 1 + F): one's own, then others drawn without repetition, wrong ones before right ones.

        And which of the others are right all the same, (B, 1 + F): they are not to be ranked.
        """
        own = self.own(len(pairs.pixels), pairs.pixels.device)
        right = torch.eq(pairs.image_ids[:, None], self.candidates(pairs.image_ids))
        drawn = uniform(pairs.sample_ids, right.shape[1], moment.seed, FALSE_TEXTS, moment.step).masked_fill(right, -1)
        wrong = drawn.topk(min(self.recipe.false_texts, right.shape[1] - 1), dim=1).indices
        chosen = torch.cat([own[:, None], wrong], dim=1)
        return chosen, torch.cat([torch.zeros_like(own[:, None], dtype=torch.bool), right.gather(1, wrong)], dim=1)

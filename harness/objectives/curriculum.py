"""How albef-tiny's weights are made: the built-in world taught in three phases, from its patches to its texts.

Supervised warm-ups of the vision tower, then of the text encoder, then all losses together, each with an optimizer of
its own. What a patch shows comes before what surrounds it: patches that tell of their neighbours from the start leave
the fusion encoder near chance, since it cannot tell whose colour it reads. So the surroundings, and the harder masking
that needs them, join at `surroundings_from_step`, once words find their patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.data.scene_text import ANSWERS
from harness.data.transforms import normalise
from harness.data.world import BUILT_IN_WORLD
from harness.hosts.albef.model import Albef
from harness.hosts.parts.tokenizer import PAD, TextTokenizer, Tokenizer
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Asked, Batches
from harness.objectives.parts.objective import Batch, Losses, Moment, Objective
from harness.objectives.parts.scenes import losses
from harness.objectives.parts.scenes.corpus import OPEN, Corpus, build_corpus
from harness.objectives.parts.scenes.facts import SupervisedHeads, facts_loss, patch_loss, surroundings_loss
from harness.objectives.parts.scenes.steps import CurriculumConfig, SceneBatches, check_scenes, drawn_scenes
from harness.reduction import Tokens, join, take


@dataclass(frozen=True)
class Taught(Batch):
    """Scenes as the losses read them: pixels (B, 3, H, W); the rest are rows of a Corpus. `seed`: of further draws."""

    pixels: Tensor
    patch_types: Tensor
    image_facts: Tensor
    captions: Tensor
    foils: Tensor
    caption_facts: Tensor
    nouns: Tensor
    claimed: Tensor
    questions: Tensor
    mask_positions: Tensor
    answers: Tensor
    seed: int


class CurriculumObjective(Objective[Albef]):
    """What patches show, facts, contrast, matching, claims, masked words and answers, as the phase has them."""

    NEEDS = frozenset({"contrast", "match", "answer"})
    PARTS = (
        "embeddings",
        "text",
        "fuse",
        "match_logits",
        "mlm_logits",
        "image_projection",
        "text_projection",
        "temperature",
    )
    Config = CurriculumConfig
    LEAST_PAIRS = 2
    LEAVES_UNUSED = True
    FROM_RANDOM = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.heads = SupervisedHeads(self.host.config.width)
        self._corpus: Corpus | None = None

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        if asked.sources != (BUILT_IN_WORLD,) or asked.more:
            raise HarnessError(f"objective curriculum: teaches the built-in world; take --data {BUILT_IN_WORLD} alone")
        if asked.world > 1:
            raise HarnessError(f"objective curriculum: works in one process, not in {asked.world}; start one")
        return SceneBatches(config, asked.batch_size, asked.seed)

    def prepare(self) -> None:
        sizes = self.host.config
        check_scenes("objective curriculum", sizes.image_size, sizes.patch_size, self.recipe.accumulate)

    def default_steps(self, steps_per_epoch: int) -> int:
        return self.config.vision_steps + self.config.text_steps + self.config.joint_steps

    def phase(self, step: int) -> str:
        return self.config.place(step)[0]

    def enter(self, phase: str) -> None:
        host = self.host
        parts = {"vision": [host.vision, self.heads], "text": [host.embeddings, host.text], "joint": [host, self.heads]}
        self.requires_grad_(False)
        for part in parts[phase]:
            part.requires_grad_(True)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.config.rate(step, steps)

    def decays(self, parameter: nn.Parameter) -> bool:
        return True

    def config_entries(self) -> dict[str, Any]:
        return {"answers": list(ANSWERS)}

    def read(self, batch: Any, tokenizer: Tokenizer) -> Any:
        corpus, rows = self.corpus(tokenizer, batch.world), batch.scenes
        sizes = self.host.config
        return Taught(
            pixels=normalise(corpus.images_SHWC[rows.numpy()], sizes.mean, sizes.std),
            patch_types=corpus.patch_types_SN[rows],
            image_facts=corpus.image_facts_SK[rows],
            captions=corpus.captions_SCL[rows],
            foils=corpus.foils_SCL[rows],
            caption_facts=corpus.caption_facts_SCK[rows],
            nouns=corpus.nouns_S2C3[rows],
            claimed=corpus.claimed_S2C3[rows],
            questions=corpus.questions_SQL[rows],
            mask_positions=corpus.mask_positions_SQ[rows],
            answers=corpus.answers_SQ[rows],
            seed=batch.seed,
        )

    def corpus(self, tokenizer: Tokenizer, seed: int) -> Corpus:
        """All training scenes of a seed, drawn at the first step; HarnessError for other words than the world's."""
        if self._corpus is None:
            if not isinstance(tokenizer, TextTokenizer):
                raise HarnessError("objective curriculum: reads whole words; leave --tokenizer out")
            sizes = self.config.training_scenes, self.config.captions_per_scene, self.config.questions_per_scene
            self._corpus = build_corpus(tokenizer.vocabulary, *sizes, seed)
        return self._corpus

    def losses(self, pairs: Taught, moment: Moment) -> Losses:
        phase, step = self.config.place(moment.step)
        if phase == "vision":
            return self.supervised(pairs, self.every_patch(pairs), (1.0, 0.0, 1.0))
        if phase == "text":
            ids = pairs.captions.flatten(0, 1)
            texts = self.host.encode_text(ids, ids != PAD)
            return {"text_facts": self.text_facts(texts, pairs.caption_facts.flatten(0, 1))}
        return self.joint(pairs, step)

    def joint(self, pairs: Taught, step: int) -> Losses:
        """All losses on one encoding of the images, weighted; some start at a step of their own."""
        config, host, count = self.config, self.host, len(pairs.pixels)
        _, generator = drawn_scenes(pairs.seed, config.training_scenes, count)
        images = self.every_patch(pairs)
        late = step >= config.surroundings_from_step
        around = config.patch_weight if late else 0.0
        found = self.supervised(pairs, images, (config.patch_weight, around, config.facts_weight))
        own = torch.arange(count, device=pairs.pixels.device)
        chosen = torch.randint(pairs.captions.shape[1], (count,), generator=generator).to(own.device)
        ids = pairs.captions[own, chosen]
        texts = host.text_batch(ids, ids != PAD)
        found["text_facts"] = config.facts_weight * self.text_facts(texts.tokens, pairs.caption_facts[own, chosen])
        similarity = host.embed_image(images) @ host.embed_text(texts).T
        found["contrast"] = config.contrast_weight * losses.contrast_loss(similarity, host.temperature)
        if step >= config.matching_from_step:
            found |= self.matching(pairs, chosen, (images, texts.tokens), similarity, generator, step)
        some = slice(config.masked_word_scenes)
        weight = config.masked_word_weight if late else config.early_masked_word_weight
        rate = config.mask_rate if late else config.early_mask_rate
        found["masked_word"] = weight * losses.masked_word_loss(
            host, images.first(some.stop), ids[some], rate, generator
        )
        asked = self.asked(generator, step).to(own.device)
        asked_of = pairs.questions[:, asked], pairs.mask_positions[:, asked], pairs.answers[:, asked]
        found["answer"] = config.answer_weight * losses.answer_loss(host, images, *asked_of)
        return found

    def asked(self, generator: torch.Generator, step: int) -> Tensor:
        """Which of a scene's questions are asked: of the world's own mix, later of the harder one behind it."""
        each = self.config.questions_per_scene
        asked = torch.randperm(each, generator=generator)[: self.config.questions_per_step]
        return asked + each if step >= self.config.late_questions_from_step else asked

    def every_patch(self, pairs: Taught) -> Tokens:
        """Tokens of all patches; HarnessError where the method leaves some of them out."""
        whole = 1 + pairs.patch_types.shape[1]
        images = None if self.reducer.needs_text else self.encode_images(pairs.pixels, None)
        if images is None or images.states.shape[1] != whole:
            raise HarnessError("objective curriculum: teaches what every patch shows; take --method dense")
        return images

    def supervised(self, pairs: Taught, images: Tokens, weights: tuple[float, float, float]) -> Losses:
        """What patches show, what surrounds them, which facts hold, weighted; surroundings at weight 0 are left out."""
        states, (patches, around, facts) = images.states, weights
        found = {
            "patch": patches * patch_loss(self.heads, states, pairs.patch_types),
            "image_facts": facts * facts_loss(self.heads.facts, states[:, 0], pairs.image_facts),
        }
        if around:
            found["surroundings"] = around * surroundings_loss(self.heads, states, pairs.patch_types)
        return found

    def text_facts(self, texts: Tokens, stated_BK: Tensor) -> Tensor:
        """Which facts texts state, read by the head that images train."""
        return facts_loss(self.heads.facts, texts.states[:, 0], stated_BK.clamp(min=0), stated_BK != OPEN)

    def matching(
        self,
        pairs: Taught,
        chosen: Tensor,
        tokens: tuple[Tokens, Tokens],
        similarity: Tensor,
        generator: torch.Generator,
        step: int,
    ) -> Losses:
        """Matching over captions and foils, of whole texts and of their clauses; `tokens` are images' and captions'."""
        host, config = self.host, self.config
        own = torch.arange(len(chosen), device=chosen.device)
        foil_ids = pairs.foils[own, chosen]
        both = join([tokens[1], host.encode_text(foil_ids, foil_ids != PAD)])
        texts, images = losses.matching_pairs(similarity, host.temperature, generator)
        fused = host.fuse(both.rows(texts), tokens[0].rows(images))
        found = {"matching": config.matching_weight * losses.matching_loss(host, fused, texts, images)}
        if step >= config.claims_from_step:
            nouns, claimed = (
                part[own, :, chosen].transpose(0, 1).flatten(0, 1)[texts] for part in (pairs.nouns, pairs.claimed)
            )
            at_nouns = take(fused.at_inputs(), nouns)
            clauses = losses.claim_loss(self.heads.claim(at_nouns)[..., 0], claimed, pairs.image_facts[images])
            found["claims"] = config.claims_weight * clauses
        return found

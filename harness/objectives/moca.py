"""MOCA: a student that sees a part of an image predicts which words of an online codebook a teacher sees in it.

Source: Gidaris et al. 2024, arXiv 2307.09361; valeoai/MOCA, models_moca.py, util/misc.py. Two views of each image. The
teacher, a follower of the tower, assigns every patch to words. From the visible patches of a view the student predicts
the other view's bag of words (`image`), and, with a decoder from an earlier block, the words of its own view's patches
(`patches`); two rounds of masks. The text side takes no part in the release; contrast of the first view with its
caption (`contrast_weight`, 0 unless asked for) is this project's own, as is that all parameters follow one rate (the
release gives the networks that make weights of words a constant one).

Under a reduction, fitted to the patches that a round shows, the decoder reads at each visible patch the token that it
lives in, and the mask token where it was pruned; the target of a patch that was merged is the mean over the patches
merged with it. What is reduced from the decoder's block on touches `image` alone. Shapes: B images, 2B views (all
first views, then all second ones), L patches, D channels, K words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.kit.draws import uniform
from harness.kit.errors import HarnessError
from harness.objectives.parts.codebook import Codebook, WordWeights, bag_of_words, inner_places
from harness.objectives.parts.contrast import check_contrast, clamp_scale, pair_contrast, pair_scale
from harness.objectives.parts.momentum import Twin, rising
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs
from harness.objectives.parts.token_decoder import DecoderConfig, TokenDecoder, draw_linear
from harness.objectives.parts.visible import (
    WORD_IMAGES,
    WORD_TOKENS,
    WORD_VIEW,
    encode_visible,
    held,
    mean_of_sources,
    patch_order,
    visible_reducer,
)
from harness.reduction import PLAIN, Guide, Tokens, drive, take


class MocaConfig(DecoderConfig):
    """words: of the codebook; new_words: replaced at each step. border: patches at the sides that no bag counts.

    sharpness: of assignments. kappa: of predictions. early: blocks before the last one that the decoder reads from.
    mask_ratios, decoder_mask_ratios: of each round, shares that the tower, and the decoder, does not see. mean_token:
    the mean of the visible patches stands for the image, else the class token. momentum: the teacher's, rising to 1.
    gather_words: new words come from the whole global batch. Off, they are as released: each process adds its share to
    a codebook of its own, of which the first one's is then spread, so that only the share of the first one counts.
    reduce_visible: whether a reduction method works on the patches that are seen; off, on the contrast alone.
    """

    decoder_depth: PositiveInt = 2
    words: PositiveInt = 4096
    new_words: PositiveInt = 32
    border: NonNegativeInt = 2
    sharpness: float = Field(default=10.0, gt=0)
    kappa: float = Field(default=3.0, gt=0)
    hidden_ratio: float = Field(default=2.0, gt=0)
    early: NonNegativeInt = 4
    mask_ratios: tuple[float, ...] = (0.55, 0.75)
    decoder_mask_ratios: tuple[float, ...] = (0.35, 0.55)
    mean_token: bool = True
    image_weight: NonNegativeFloat = 0.5
    patch_weight: NonNegativeFloat = 0.5
    contrast_weight: NonNegativeFloat = 0.0
    momentum: float = Field(default=0.994, ge=0, le=1)
    gather_words: bool = True
    reduce_visible: bool = True

    @field_validator("mask_ratios", "decoder_mask_ratios")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= ratio < 1 for ratio in value):
            raise ValueError("expected a share in 0..1 for each round")
        return value


@dataclass(frozen=True)
class WordDraws:
    """What the codebook's renewal draws: of which view, the patch (of the inner ones) of each own image, (B,), and the
    order (G,) of the global batch's images, of which the first ones give a word each.
    """

    second_view: Tensor
    inner_B: Tensor
    order_G: Tensor


@dataclass(frozen=True)
class Round:
    """One round of masks: the patches' order (2B, L), those that the decoder reads (2B, M), the tokens that it reads
    (its block's, before any norm), what stands for the image (2B, D), and logits (2B, K) and (2B * M, K).
    """

    order: Tensor
    places: Tensor
    early: Tokens
    whole: Tensor
    image_logits: Tensor
    patch_logits: Tensor


@dataclass(frozen=True)
class Targets:
    """What the teacher sees: codes (2B, L, K) of each view's patches, bags (2B, K) of the other view, and the words."""

    codes: Tensor
    bags: Tensor
    words: Tensor


class MocaObjective(Objective[HostModel]):
    """Words of the other view's image and of the own view's patches, each the mean over rounds, twice."""

    Config = MocaConfig
    LEAVES_UNUSED = True
    VIEWS = 2
    inner: Tensor

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        shape, sizes, config = self.host.shape, self.host.config, self.config
        if shape.grid is None or not shape.class_token:
            raise HarnessError(f"objective moca: {shape.name} has no grid of patches with a class token; take a ViT")
        self.counts = visible_counts(config, shape.patches, shape.depth)
        inner = inner_places(shape.grid, config.border)
        if not len(inner):
            raise HarnessError(
                f"objective moca: border {config.border} leaves no inner patch of {shape.grid[0]} x {shape.grid[1]}; "
                "set moca.border lower"
            )
        self.register_buffer("inner", inner, persistent=False)
        self.teacher: Twin[nn.Module] = Twin(self.host.vision)
        self.codebook = Codebook(config.words, shape.width, config.sharpness)
        hidden = int(shape.width * config.hidden_ratio)
        self.image_words = WordWeights(shape.width, shape.width, hidden)
        self.early_norm = nn.LayerNorm(shape.width, eps=sizes.vision_eps)
        self.decoder = TokenDecoder(shape.width, shape.grid, config, sizes.mlp_ratio, sizes.vision_eps)
        self.patch_words = WordWeights(shape.width, self.decoder.width, hidden)
        self.image_words.apply(draw_linear)
        self.patch_words.apply(draw_linear)
        self._fitted = [visible_reducer(self.reducer, seen, "moca", config) for seen, _ in self.counts]

    def prepare(self) -> None:
        config, processes = self.config, distributed.world()
        if config.contrast_weight:
            check_contrast("moca", self.host)
        share = config.new_words if config.gather_words else config.new_words // processes
        images = self.recipe.batch_size * (processes if config.gather_words else 1)
        if not 0 < share <= images:
            raise HarnessError(
                f"objective moca: {config.new_words} new words a step from {images} images; enlarge the batch or set "
                "moca.new_words lower"
            )
        if config.words % share:
            raise HarnessError(f"objective moca: {config.words} words are no multiple of {share} new ones; set another")

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        config, views = self.config, torch.cat([pairs.pixels[:, 0], pairs.pixels[:, 1]])
        texts = guide = None
        if config.contrast_weight or self.reducer.needs_text:
            texts = self.host.text_batch(pairs.ids, pairs.mask)
            guide = self.host.guide(texts.select(torch.arange(len(views), device=views.device) % len(pairs.ids)))
        noise = patch_order(pairs.sample_ids, self.host.shape.patches * self.noises, moment, views=2)
        momentum = rising(config.momentum, moment.done)
        moves = (moment.step + 1) % self.recipe.accumulate == 0  # once an optimizer step, as released
        targets = self.targets(views, momentum, self.draws(pairs, moment) if moves else None)
        rounds = self.rounds(views, noise, targets.words, guide)
        found = {
            "image": config.image_weight * self.image_loss(rounds, targets),
            "patches": config.patch_weight * self.patch_loss(rounds, targets),
        }
        if texts is not None and config.contrast_weight:
            images_BP = self.host.embed_image(self.encode_images(pairs.pixels[:, 0], texts))
            contrast = pair_contrast(images_BP, self.host.embed_text(texts), pair_scale(self.host))
            found["contrast"] = config.contrast_weight * contrast
        return found

    def after_step(self) -> None:
        if self.config.contrast_weight:
            clamp_scale(self.host)

    @property
    def noises(self) -> int:
        """How many orders of the patches are drawn for a view: two rounds share one, others have one each."""
        return 1 if len(self.counts) == 2 else len(self.counts)

    def draws(self, pairs: Pairs, moment: Moment) -> WordDraws:
        """The draws of a step, by the samples' own numbers, the seed and the step."""

        def drawn(samples: Tensor, purpose: int) -> Tensor:
            return uniform(samples, 1, moment.seed, purpose, moment.step)[:, 0]

        everyone = distributed.gather(pairs.sample_ids)
        return WordDraws(
            drawn(torch.zeros_like(pairs.sample_ids[:1]), WORD_VIEW)[0] >= 0.5,
            (drawn(pairs.sample_ids, WORD_TOKENS) * len(self.inner)).long(),
            drawn(everyone, WORD_IMAGES).argsort(stable=True),
        )

    @torch.no_grad()
    def targets(self, views: Tensor, momentum: float, draws: WordDraws | None) -> Targets:
        """Draw the teacher on, let it assign both views to words, and renew the codebook from one of them.

        The words returned, and those that codes are of, are the codebook's before its renewal. Without draws the
        teacher and the words stay as they are.
        """
        if momentum < 1 and draws is not None:
            self.teacher.follow(self.host.vision, momentum)
        words, tower = self.codebook.words.clone(), open_tower(self.teacher.model)
        halves = []
        for part in views.chunk(2):
            tokens = drive(tower, tower.open(part), PLAIN)
            halves.append(tower.normed(tokens)[:, tokens.prefix :])
        codes = [self.codebook.assign(half) for half in halves]
        bags = [bag_of_words(each, self.inner) for each in codes]
        if draws is not None:
            patches = torch.where(draws.second_view, halves[1], halves[0])
            rows = torch.arange(len(patches), device=patches.device)
            self.codebook.renew(self.new_words(patches[rows, self.inner[draws.inner_B]], draws.order_G))
        return Targets(torch.cat(codes), torch.cat(bags[::-1]), words)

    def new_words(self, own_BD: Tensor, order_G: Tensor) -> Tensor:
        """The tokens that become words: one of each of the first images in the order drawn."""
        count, everyone = self.config.new_words, distributed.gather(own_BD)
        if not self.config.gather_words:
            order_G, count = order_G[order_G < len(own_BD)], count // distributed.world()
        return everyone[order_G[:count]]

    def rounds(self, views: Tensor, noise: Tensor, words: Tensor, guide: Guide | None = None) -> list[Round]:
        """Every round of masks through tower, heads and decoder. noise: (2B, L), or (2B, rounds * L)."""
        tower, depth = open_tower(self.host.vision), self.host.shape.depth
        orders = self.orders(noise)
        kappa, found = self.config.kappa, []
        image_weights, patch_weights = self.image_words(words), self.patch_words(words)
        for order, (seen, read), reducer in zip(orders, self.counts, self._fitted, strict=True):
            passed = encode_visible(
                tower, reducer.train(self.training), views, order[:, :seen], guide, depth - 1 - self.config.early
            )
            last = passed.tokens.with_states(tower.normed(passed.tokens))
            whole = last.mean(last.prefix) if self.config.mean_token else last.states[:, 0]
            early = passed.early if self.config.early and passed.early is not None else last
            places = order[:, :read]
            decoded = self.decode(whole, early, places)
            found.append(
                Round(
                    order,
                    places,
                    early,
                    whole,
                    kappa * whole @ image_weights.T,
                    kappa * decoded.flatten(0, 1) @ patch_weights.T,
                )
            )
        return found

    def orders(self, noise: Tensor) -> list[Tensor]:
        """The order of patches (2B, L) in each round: first those that the tower sees, then others for the decoder.

        Of two rounds the second shows the tower other patches, and the decoder the same others as the first.
        """
        if len(self.counts) != 2:
            return [part.argsort(dim=1) for part in noise.chunk(len(self.counts), dim=1)]
        (seen, read), (seen_then, _) = self.counts
        order = noise.argsort(dim=1)
        first, shared, rest = order[:, :seen], order[:, seen:read], order[:, read:]
        return [order, torch.cat([rest[:, :seen_then], shared, rest[:, seen_then:], first], dim=1)]

    def decode(self, whole: Tensor, early: Tokens, places_BM: Tensor) -> Tensor:
        """(2B, M, E), what the decoder makes of the visible patches' tokens and of mask tokens, at `places_BM`."""
        normed = early.with_states(self.early_norm(early.states))
        spread = take(normed.at_inputs()[:, early.prefix :], places_BM)
        return self.decoder(whole, spread, held(early).gather(1, places_BM), places_BM)

    def image_loss(self, rounds: list[Round], targets: Targets) -> Tensor:
        """Divergence of the other view's bag from what is predicted for it: rounds' mean, twice."""
        each = [divergence(one.image_logits, targets.bags) for one in rounds]
        return 2 * torch.stack(each).mean()

    def patch_loss(self, rounds: list[Round], targets: Targets) -> Tensor:
        """The same of the own view's patches, wherever the decoder reads."""
        each = []
        for one, (seen, _) in zip(rounds, self.counts, strict=True):
            whole = one.early.states.shape[1] == one.early.prefix + seen
            codes = targets.codes if whole else mean_of_sources(one.early, targets.codes)
            each.append(divergence(one.patch_logits, take(codes, one.places).flatten(0, 1)))
        return 2 * torch.stack(each).mean()


def divergence(logits_FK: Tensor, target_FK: Tensor) -> Tensor:
    """Kullback-Leibler divergence of targets from softmax(logits), mean over F."""
    return F.kl_div(logits_FK.log_softmax(dim=-1), target_FK, reduction="batchmean")


def visible_counts(config: MocaConfig, patches: int, depth: int) -> list[tuple[int, int]]:
    """How many patches the tower and the decoder see in each round; HarnessError for ratios that cannot be."""
    if len(config.mask_ratios) != len(config.decoder_mask_ratios):
        raise HarnessError("objective moca: mask_ratios and decoder_mask_ratios name different numbers of rounds")
    if not config.early < depth:
        raise HarnessError(f"objective moca: early {config.early} of a tower of {depth} blocks; set moca.early lower")
    counts = [
        (int(patches * (1 - seen)), int(patches * (1 - read)))
        for seen, read in zip(config.mask_ratios, config.decoder_mask_ratios)
    ]
    complementary = len(counts) != 2 or counts[0][1] + counts[1][0] <= patches
    if not complementary or not all(0 < seen < read for seen, read in counts):
        raise HarnessError(
            f"objective moca: rounds that show the tower and the decoder {counts} of {patches} patches; expected at "
            "least one, more for the decoder, and in the second of two rounds others than in the first"
        )
    return counts

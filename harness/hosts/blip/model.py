"""BLIP: a ViT, and one BERT that is a text encoder, an image-grounded encoder and an image-grounded decoder.

Bootstrapping language-image pre-training (Li et al. 2022, arXiv 2201.12086; released program salesforce/BLIP). For
question answering the decoder shares nothing with the encoder and reads the grounded question; for pairs of images
(NLVR2) the grounded encoder reads two, and there is no decoder.

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, L text tokens, D width of both sides,
P size of the shared space, V vocabulary, A answers, K candidates among them, R answers that annotators gave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.blip.facts import FILES, facts_beside
from harness.hosts.blip.names import (
    OF_PAIRS,
    OPTIONAL,
    PAIRS_OPTIONAL,
    released_name,
    sizes_of,
    start_of,
    text_part,
)
from harness.hosts.blip.recipes import RECIPES
from harness.hosts.blip.text import LABEL_SMOOTHING, BlipConfig, BlipText, begun
from harness.hosts.host import TextBatch
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.answers import CANDIDATES, answer_word_losses, rank_answers
from harness.hosts.parts.generation import generate
from harness.hosts.parts.pixels import CLIP_MEAN, CLIP_STD
from harness.hosts.parts.presets import TINY
from harness.hosts.parts.shared_space import Projection, shared_space
from harness.hosts.parts.timm_vision import timm_vision, vision_transformer
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.weights.facts import Facts
from harness.hosts.weights.released import Lacking, LoadReport, Part, Translation
from harness.kit.errors import HarnessError
from harness.reduction import Tokens

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY
    | {
        "depth": 12,
        "text_layers": 5,
        "projection": 96,
        "vocab_size": 159,
        "pad_id": 0,
        "cls_id": 2,
        "sep_id": 3,
        "dec_id": 157,
        "enc_id": 158,
    },
    "base": {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "text_layers": 12,
        "projection": 256,
        "vocab_size": 30524,
        "text_length": 30,
        "positions": 512,
        "dropout": 0.1,
        "init_std": 0.02,
        "pad_id": 0,
        "cls_id": 101,
        "sep_id": 102,
        "dec_id": 30522,
        "enc_id": 30523,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "tokenizer": "bert-base-uncased",
    },
}


class Blip(BlipText):
    """Vision tower, text side, and the heads: contrast and matching, or pairs of images."""

    Config = BlipConfig
    FACT_FILES = FILES
    RECIPES = RECIPES
    TEXT_SIDE = r"embeddings\..+|encoder\.\d+\.(?!crossattention\.).+"
    EXTRA_WORDS = ("[DEC]", "[ENC]")
    OPTIONAL = OPTIONAL
    TEXT_FROM = frozenset({"albef"})
    VISION_FROM = frozenset({"albef"})
    vision: VisionTransformer

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision = vision_transformer(config)
        if config.pairs:
            self.pair_head = nn.Sequential(nn.Linear(config.width, config.width), nn.ReLU(), nn.Linear(config.width, 2))
            return
        self.image_projection = nn.Linear(config.width, config.projection)
        self.text_projection = nn.Linear(config.width, config.projection)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.match_head = nn.Linear(config.width, 2)

    def heads(self) -> dict[str, str]:
        grounded, written = (
            r"(vision|embeddings|encoder)\..+",
            r"(decoder|decoder_embeddings|word_transform)\..+|word_bias",
        )
        if self.config.pairs:
            return {"compare": rf"{grounded}|pair_head\..+"}
        # Encoder and decoder share all but self-attention: a captioner's file holds the rest of the encoder.
        lent = r"(vision|embeddings)\..+|encoder\.\d+\.(?!attention\.).+" if self.config.tied else r"vision\..+"
        return {
            "contrast": r"(vision|embeddings)\..+|encoder\.\d+\.(?!crossattention\.).+|(image|text)_projection\..+",
            "match": rf"{grounded}|match_head\..+",
            "answer": rf"{grounded}|{written}",
            "caption": rf"{lent}|{written}",
        }

    def _check(self, ability: str) -> None:
        if ability not in self.abilities:
            raise self.cannot(ability)

    def released(self, name: str) -> Translation:
        return released_name(name, self.config.tied, self.config.pairs)

    def lacking(self) -> Lacking:
        return PAIRS_OPTIONAL if self.config.pairs else OPTIONAL

    @classmethod
    def stated_facts(cls, name: str, configs: Mapping[str, Mapping[str, Any]]) -> Facts:
        return facts_beside(configs, cls.preset(name))

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return sizes_of(tensors)

    def on_differing_double(self) -> str:
        return ", as in files of question answering: those need shared=False" if self.config.tied else ""

    def start_text(self, family: str, tensors: dict[str, Tensor], source: str) -> LoadReport:
        from harness.hosts.blip.from_albef import start_text_from_albef

        if family not in self.TEXT_FROM:
            report = super().start_text(family, tensors, source)
            self.begin_readers_alike()
            return report

        return start_text_from_albef(self, tensors, source)

    def part(self, name: str) -> Part:
        if name == "vision":
            return Part(timm_vision, r"vision\..+")
        return text_part(self.released) if name == "text" else super().part(name)

    def started_from(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `HostModel.started_from`; what merges and judges two images starts anew, the rest as `start_of` says."""
        own = self.state_dict()
        sources = {name: name if name in tensors else start_of(name) for name in own}
        started = {name: tensors[source] for name, source in sources.items() if source in tensors}
        anew = OF_PAIRS if self.config.pairs else ""
        missing = [name for name in own if name not in started and not re.fullmatch(anew, name)]
        if missing:
            raise HarnessError(f"weights to start from: lack {missing[0]}, expected those of a BLIP before fine-tuning")
        return super().started_from(started)

    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        return Tokens(self.vision.forward_features(images_BCHW))

    def shared_space(self) -> tuple[Projection, Projection] | None:
        if "contrast" not in self.abilities:
            return None
        return shared_space(cast(nn.LayerNorm, self.vision.norm), self.image_projection, self.text_projection)

    def embed_image(self, image: Tokens) -> Tensor:
        self._check("contrast")
        return F.normalize(self.image_projection(image.states[:, 0]), dim=-1)

    def embed_text(self, texts: TextBatch) -> Tensor:
        self._check("contrast")
        return F.normalize(self.text_projection(texts.states[:, 0]), dim=-1)

    def match_logits(self, grounded: Tokens) -> Tensor:
        """Matching logits (B, 2) from the grounded [ENC]: column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(grounded.states[:, 0])
        return logits_B2

    def match(self, texts: TextBatch, image: Tokens) -> Tensor:
        self._check("match")
        return self.match_logits(self.ground(texts.ids, texts.mask, image))

    def compare(self, texts: TextBatch, first: Tokens, second: Tokens) -> Tensor:
        self._check("compare")
        grounded = self.ground_in_two(texts.ids, texts.mask, first, second)
        logits_B2: Tensor = self.pair_head(grounded.states[:, 0])
        return logits_B2

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (A, L) of "[CLS] answer [SEP]"."""
        return tokenizer(answers)

    def answer_scores(
        self,
        texts: TextBatch,
        image: Tokens,
        answers: tuple[Tensor, Tensor],
        candidates: int = CANDIDATES,
    ) -> Tensor:
        """Score (B, A) of each answer, ids and mask (A, L) as the tokenizer gives them, "[CLS] answer [SEP]".

        The decoder reads the grounded question, not the image. Of the `candidates` answers whose first token it finds
        likeliest, the score is the negative sum of their tokens' losses, label smoothing included; that of others -inf.
        """
        self._check("answer")
        ids_AL, mask_AL = answers
        question = self.ground(texts.ids, texts.mask, image)
        opening_B1 = texts.ids.new_full((len(texts.ids), 1), self.config.dec_id)
        first_BV = self.decode(opening_B1, torch.ones_like(opening_B1), question)[:, 0]

        def losses_of(chosen_BK: Tensor) -> Tensor:
            each = chosen_BK.shape[1]
            losses, _ = self.lm_losses(
                ids_AL[chosen_BK].flatten(0, 1),
                mask_AL[chosen_BK].flatten(0, 1),
                question.repeated(each),
            )
            return losses.sum(1).view(-1, each)

        return rank_answers(first_BV, losses_of, ids_AL, candidates)

    def answer_outputs(self, questions: TextBatch, image: Tokens, targets: AnswerTargets) -> Tensor:
        """Logits (R, L, V) of the word behind each of the answers' words, given the grounded question."""
        self._check("answer")
        question = self.ground(questions.ids, questions.mask, image)
        ids_RL = begun(targets.ids, self.config.dec_id)
        return self.decode(ids_RL, targets.mask, question.rows(targets.rows))

    def answer_losses(
        self,
        outputs: Tensor,
        targets: AnswerTargets,
        soft: Tensor | None = None,
        alpha: float = 0.0,
        smoothing: float = LABEL_SMOOTHING,
    ) -> Tensor:
        """Loss (B,): each answer's words, label smoothing included, times its weight (released models/blip_vqa.py)."""
        return answer_word_losses(outputs, targets, soft, alpha, smoothing)

    @torch.no_grad()
    def caption(
        self,
        image: Tokens,
        prompt_ids: Tensor | None = None,
        *,
        beams: int = 3,
        max_length: int = 20,
        min_length: int = 5,
        repetition_penalty: float = 1.0,
    ) -> Tensor:
        """Captions as token ids (B, L): what comes behind [DEC] and the prompt, closed by [SEP] and padded.

        `prompt_ids`: (words,), the word pieces that every caption begins with, without special tokens. Both lengths
        count [DEC] and the prompt, as in the released models/blip.py. HarnessError where `max_length` exceeds the
        position table.
        """
        self._check("caption")
        lengths = {"max_length": max_length, "min_length": min_length}
        return self._written("captions", image, prompt_ids, beams, lengths, repetition_penalty)

    @torch.no_grad()
    def say_answers(
        self, texts: TextBatch, image: Tokens, *, beams: int = 3, max_length: int = 10, min_length: int = 1
    ) -> Tensor:
        """Answers as token ids (B, L), written behind [DEC] from the grounded questions by beam search.

        Lengths count [DEC], as in the released models/blip_vqa.py. There the decoder also reads the padding behind a
        batch's shorter questions; here it does not: no answer depends on a batch mate. HarnessError as for `caption`.
        """
        self._check("answer")
        question = self.ground(texts.ids, texts.mask, image)
        lengths = {"max_length": max_length, "min_length": min_length}
        return self._written("answers", question, None, beams, lengths)

    def _written(
        self,
        what: str,
        read: Tokens,
        prompt_ids: Tensor | None,
        beams: int,
        lengths: dict[str, int],
        repetition_penalty: float = 1.0,
    ) -> Tensor:
        """What the decoder writes behind [DEC] and a prompt, given what it reads: ids (B, L) without these."""
        config, rows = self.config, len(self.embeddings.positions.weight)
        if lengths["max_length"] > rows:
            raise HarnessError(
                f"{what} of {lengths['max_length']} tokens: expected at most {rows}, this model's positions"
            )
        first = torch.tensor([config.dec_id], device=read.states.device)
        if prompt_ids is not None:
            first = torch.cat([first, prompt_ids.to(first.device)])
        repeated = read.repeated(beams)

        def step(ids_BL: Tensor) -> Tensor:
            states_BLD = self.decoder_states(ids_BL, torch.ones_like(ids_BL), repeated)
            return self.word_logits(states_BLD[:, -1])

        written_BL = generate(
            step,
            first.expand(len(read), -1),
            eos_id=config.sep_id,
            pad_id=config.pad_id,
            beams=beams,
            repetition_penalty=repetition_penalty,
            **lengths,
        )
        return written_BL[:, len(first) :]

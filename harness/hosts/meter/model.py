"""METER: a CLIP ViT and a RoBERTa side by side, then two stacks that read each other.

Dou et al. 2022 (arXiv 2111.02387); released program zdou0830/METER, meter/modules/meter_module.py. The ViT is CLIP's
without its last block. In a co-attention layer both streams read what the other one was before that layer.

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, L text tokens, D width of both sides,
V vocabulary, A answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.hosts.host import HostModel, TextBatch
from harness.hosts.meter.facts import FILES, facts_beside
from harness.hosts.meter.heads import RELEASED_HEADS, TASK_HEADS, class_losses, classifier
from harness.hosts.meter.names import INHERITED, LAST_BLOCK, OPTIONAL, RELEASED, inherited
from harness.hosts.meter.recipes import RECIPES
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.bert import BertTextConfig, TextEmbeddings, bert_layers, word_transform
from harness.hosts.parts.clip_vision import clip_vision, post_norm
from harness.hosts.parts.pixels import CLIP_MEAN, CLIP_STD
from harness.hosts.parts.presets import TINY
from harness.hosts.parts.text_stacks import BertStack, CoAttentionStack, through
from harness.hosts.parts.tokenizer import Tokenizer
from harness.hosts.weights.facts import Facts
from harness.hosts.weights.released import LoadReport, NotAWeight, Part, Translation, of_bert, translate
from harness.kit.errors import HarnessError
from harness.reduction import Stack, Tokens

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY
    | {
        "depth": 11,
        "text_layers": 2,
        "fusion_layers": 2,
        "vocab_size": 157,
        "padding_id": 0,
        "answer_classes": 20,
    },
    "base": {
        "image_size": 288,
        "patch_size": 16,
        "width": 768,
        "depth": 11,
        "heads": 12,
        "text_layers": 12,
        "fusion_layers": 6,
        "vocab_size": 50265,
        "padding_id": 1,
        "text_length": 50,
        "positions": 514,
        "answer_classes": 3129,
        "dropout": 0.1,
        "init_std": 0.02,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "tokenizer": "roberta-base",
    },
}


class MeterConfig(BertTextConfig):
    """Sizes of a METER; text and co-attention have by default the vision side's heads and MLP channels.

    `positions`: rows of the position table, by default as many as `text_length` needs after the padding's own;
    `answer_classes`: of the VQA head; `dropout`: of text and co-attention, `text_eps`: of the RoBERTa's norms.
    """

    vision_eps: float = 1e-5
    activation: str = "quick_gelu"
    fusion_layers: int
    padding_id: int
    answer_classes: int
    token_types: int = 1
    fusion_mlp: int | None = None
    text_eps: float = 1e-5
    fusion_eps: float = 1e-12


@dataclass(frozen=True)
class CoAttended:
    """Both streams after co-attention, and cls (B, 2 D), their pooled first tokens."""

    text: Tokens
    image: Tokens
    cls: Tensor


class Meter(HostModel):
    """CLIP tower, RoBERTa, co-attention and a head for each task.

    Image states are the tower's tokens before its last norm: `co_attend` applies that norm, to all of them.
    """

    Config = MeterConfig
    FACT_FILES = FILES
    RECIPES = RECIPES
    TEXT_SIDE = r"(embeddings|text)\..+"
    VISION_FROM = frozenset({"clip"})
    OPTIONAL = OPTIONAL
    PAPER_SETTINGS: ClassVar[dict[str, dict[str, Any]]] = {
        name: {"schedule": {"begin": [2, 4, 9], "keep": [0.9, 0.7, 0.45], "lookahead": [2, 5, 2]}}
        for name in ("elip", "elip_lite")
    }

    def heads(self) -> dict[str, str]:
        """Matching, and what it is fine-tuned for: the heads of other tasks are there, but have learnt nothing."""
        body = r"(vision|embeddings|text|text_transform|image_transform|(text|image)_(fusion|pooler))\..+"
        ranking = "rank_head" if self.config.task == "retrieval" else "match_head"
        own = TASK_HEADS.get(self.config.task or "")
        found = {"match": rf"{body}|{ranking}\..+"}
        return found | ({} if own is None else {own[0]: rf"{body}|{own[1]}\..+"})

    def __init__(self, config: MeterConfig) -> None:
        super().__init__()
        self.config = config
        width, positions = config.width, config.positions or config.text_length + config.padding_id + 1
        text_mlp = config.text_mlp or width * config.mlp_ratio
        self.vision = clip_vision(config, config.activation)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            positions,
            width,
            types=config.token_types,
            padding_id=config.padding_id,
            eps=config.text_eps,
            dropout=config.dropout,
        )
        self.text = self._layers(config.text_layers, text_mlp, config.text_eps)
        self.text_transform = nn.Linear(width, width)
        self.image_transform = nn.Linear(width, width)
        self.types = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(width)) for name in ("text", "image", "second_image")}
        )
        fusion_mlp = config.fusion_mlp or text_mlp
        self.text_fusion = self._layers(config.fusion_layers, fusion_mlp, config.fusion_eps, cross_attention=True)
        self.image_fusion = self._layers(config.fusion_layers, fusion_mlp, config.fusion_eps, cross_attention=True)
        self.text_pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.image_pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.match_head = nn.Linear(2 * width, 2)
        self.mlm_transform = word_transform(width, config.fusion_eps)
        self.mlm_decoder = nn.Linear(width, config.vocab_size)
        self.answer_head = classifier(2 * width, 2 * width, config.answer_classes)
        self.entailment_head = classifier(2 * width, 2 * width, 3)
        self.pair_head = classifier(4 * width, 2 * width, 2)
        self.rank_head = nn.Linear(2 * width, 1)
        nn.init.zeros_(self.mlm_decoder.bias)
        self.inherit()

    @classmethod
    def vocabulary_sizes(cls, vocabulary: dict[str, int]) -> dict[str, int]:
        return {"vocab_size": len(vocabulary), "padding_id": vocabulary["[PAD]"]}

    def _layers(self, count: int, mlp: int, eps: float, cross_attention: bool = False) -> nn.ModuleList:
        config = self.config
        return bert_layers(
            config.width,
            config.text_heads or config.heads,
            count,
            mlp=mlp,
            cross_attention=cross_attention,
            eps=eps,
            dropout=config.dropout,
            std=config.init_std,
        )

    def released(self, name: str) -> Translation:
        block = re.match(r"vit_model\.visual\.transformer\.resblocks\.(\d+)\.", name)
        if block and int(block[1]) == self.config.depth:
            return LAST_BLOCK
        return translate(name, RELEASED)

    @classmethod
    def stated_facts(cls, name: str, configs: Mapping[str, Mapping[str, Any]]) -> Facts:
        return facts_beside(configs, cls.preset(name))

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The answers of a file that has a head for them; and what it was fine-tuned on, if it has one task's head."""
        tasks = [task for task, name in RELEASED_HEADS.items() if name in tensors]
        sizes: dict[str, Any] = {"task": tasks[0]} if len(tasks) == 1 else {}
        if "vqa_classifier.3.bias" in tensors:
            sizes["answer_classes"] = len(tensors["vqa_classifier.3.bias"])
        return sizes

    def filled(self, missing: Sequence[str]) -> None:
        self.inherit(missing)

    def start_vision(self, tensors: dict[str, Tensor], source: str) -> LoadReport:
        """As the base class; of a CLIP's tower the last block stays out, as in the paper."""
        last = f"vision.encoder.layers.{self.config.depth}."
        return super().start_vision({key: value for key, value in tensors.items() if not key.startswith(last)}, source)

    def part(self, name: str) -> Part:
        if name == "vision":
            return Part(lambda name: self.released(f"vit_model.{name}"), r"vision\..+")
        if name == "text":
            return Part(lambda name: of_bert(name, self._of_roberta), r"(embeddings|text)\..+")
        return super().part(name)

    def _of_roberta(self, name: str) -> Translation:
        if name.startswith("lm_head."):
            return NotAWeight("RoBERTa's head for masked words, which METER does not use")
        return self.released(f"text_transformer.{name}")

    @torch.no_grad()
    def inherit(self, missing: Iterable[str] = INHERITED) -> None:
        """Start what fine-tuning adds from what pre-training has learnt, where a file did not hold it.

        `missing`: names that a file lacked (LoadReport.missing).
        """
        heirs = inherited(self.state_dict())
        self.derived = frozenset(heirs.keys() & set(missing))
        for name in self.derived:
            self.get_parameter(name).copy_(heirs[name])

    def started_from(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `HostModel.started_from`; an answer head of another number of classes starts anew."""
        classes = tensors.get("answer_head.3.bias")
        anew = classes is not None and len(classes) != self.config.answer_classes
        kept = {name: value for name, value in tensors.items() if not (anew and name.startswith("answer_head."))}
        state = super().started_from(kept)
        added = {"retrieval": r"rank_head\..+", "nlvr2": r"types\.second_image"}.get(self.config.task, "")
        return state | {name: value for name, value in inherited(state).items() if re.fullmatch(added, name)}

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        """RoBERTa's tokens of ids (B, L) with mask (B, L), true where a token stands."""
        return through(BertStack(self.text), Tokens(self.embeddings(ids_BL), mask_BL.bool()))

    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        """Image tokens before the tower's last norm, class token first, with every patch."""
        return Tokens(self.vision(images_BCHW).last_hidden_state)

    def text_stacks(self) -> Sequence[Stack]:
        return BertStack(self.text), CoAttentionStack(self.text_fusion, self.image_fusion)

    def co_attend(self, texts: TextBatch, image: Tokens, image_type: str = "image") -> CoAttended:
        """Texts and image tokens, those that stand, after having read each other.

        `image_type`: "image", or "second_image" where a text is about two images.
        """
        text = self.text_transform(texts.states) + self.types["text"]
        seen = self.image_transform(post_norm(self.vision, image.states)) + self.types[image_type]
        stack = CoAttentionStack(self.text_fusion, self.image_fusion)
        read = through(stack, (texts.tokens.with_states(text), image.with_states(seen)))
        assert read.beside is not None
        first_tokens = self.text_pooler(read.states[:, 0]), self.image_pooler(read.beside.states[:, 0])
        return CoAttended(read, read.beside, torch.cat(first_tokens, dim=-1))

    def match_logits(self, cls_BE: Tensor) -> Tensor:
        """Matching logits (B, 2) of pooled pairs (B, 2 D): column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(cls_BE)
        return logits_B2

    def mlm_logits(self, text_BLD: Tensor) -> Tensor:
        """Word logits (…, V) of co-attended text states (…, D); the output matrix is METER's own, not tied."""
        logits_BLV: Tensor = self.mlm_decoder(self.mlm_transform(text_BLD))
        return logits_BLV

    def answer_logits(self, cls_BE: Tensor) -> Tensor:
        """Logits (B, A) of the answers of visual question answering, from pooled pairs (B, 2 D)."""
        logits_BA: Tensor = self.answer_head(cls_BE)
        return logits_BA

    def entailment_logits(self, cls_BE: Tensor) -> Tensor:
        """Logits (B, 3) of visual entailment, from pooled pairs (B, 2 D)."""
        logits_B3: Tensor = self.entailment_head(cls_BE)
        return logits_B3

    def rank_scores(self, cls_BE: Tensor) -> Tensor:
        """Score (B,) by which retrieval ranks pooled pairs (B, 2 D)."""
        scores_B1: Tensor = self.rank_head(cls_BE)
        return scores_B1.squeeze(-1)

    def compare(self, texts: TextBatch, first: Tokens, second: Tokens) -> Tensor:
        pooled = self.co_attend(texts, first).cls, self.co_attend(texts, second, "second_image").cls
        logits_B2: Tensor = self.pair_head(torch.cat(pooled, dim=-1))
        return logits_B2

    def match(self, texts: TextBatch, image: Tokens) -> Tensor:
        return self.match_logits(self.co_attend(texts, image).cls)

    def rank(self, texts: TextBatch, image: Tokens) -> Tensor:
        """The ranking head's score (B,) after fine-tuning on retrieval, else the matching head's log-odds."""
        if self.config.task != "retrieval":
            return super().rank(texts, image)
        return self.rank_scores(self.co_attend(texts, image).cls)

    def entail(self, texts: TextBatch, image: Tokens) -> Tensor:
        return self.entailment_logits(self.co_attend(texts, image).cls)

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> Tensor:
        """The classifier's columns (A,) of the answers it was trained with, which are all of them in its order."""
        if len(answers) != self.config.answer_classes:
            raise HarnessError(f"{len(answers)} answers: this model's classifier has {self.config.answer_classes}")
        return torch.arange(len(answers))

    def answer_scores(self, texts: TextBatch, image: Tokens, answers: Tensor) -> Tensor:
        """Score (B, A) of some of the VQA head's answers, given by their classes (A,)."""
        return self.answer_logits(self.co_attend(texts, image).cls)[:, answers]

    def answer_outputs(self, questions: TextBatch, image: Tokens, targets: AnswerTargets) -> Tensor:
        """Logits (B, A) of every class of the VQA head."""
        return self.answer_logits(self.co_attend(questions, image).cls)

    def answer_losses(
        self,
        outputs: Tensor,
        targets: AnswerTargets,
        soft: Tensor | None = None,
        alpha: float = 0.0,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Binary cross-entropy against each answer's worth, summed over the classes (meter/modules/objectives.py).

        `soft` (B, A): a momentum twin's logits, whose sigmoid is a second target.
        """
        if smoothing:
            raise HarnessError(f"label_smoothing {smoothing}: METER's answers are classes, without words; set it to 0")
        losses_B = class_losses(outputs, targets.scores)
        return losses_B if soft is None else (1 - alpha) * losses_B + alpha * class_losses(outputs, soft.sigmoid())

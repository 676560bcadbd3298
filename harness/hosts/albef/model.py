"""ALBEF: a ViT, a BERT split into a text half and a fusion half that cross-attends to the image.

Align before fuse (Li et al. 2021, arXiv 2107.07651): the class tokens of both sides are projected into one
space (image-text contrast), then the second half of the BERT reads the image tokens through cross-attention
and answers whether text and image match, or what stands at a masked position. A model that is fine-tuned for a task
(`AlbefConfig.task`) has its head beside these (harness.hosts.albef.heads).

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, L text tokens,
D width of both sides, P size of the shared space, V vocabulary, A answers of a closed list, R answers of annotators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.albef.facts import FILES, facts_beside
from harness.hosts.albef.heads import AnswerDecoder, State, adapted, classifier, share_keys_and_values
from harness.hosts.albef.names import OPTIONAL, WORD_HEAD, released_name, stated_sizes
from harness.hosts.albef.recipes import RECIPES
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.answers import answer_word_losses
from harness.hosts.parts.bert import BertTextConfig, TextEmbeddings, bert_layers, word_transform
from harness.hosts.parts.pixels import CLIP_MEAN, CLIP_STD
from harness.hosts.parts.presets import TINY
from harness.hosts.parts.shared_space import Projection, shared_space
from harness.hosts.parts.text_stacks import BertStack, through
from harness.hosts.parts.timm_vision import timm_vision, vision_transformer
from harness.hosts.parts.tokenizer import MASK, TextTokenizer, Tokenizer
from harness.hosts.weights.facts import Facts
from harness.hosts.weights.released import Part, Translation, of_bert
from harness.kit.errors import HarnessError
from harness.reduction import Stack, Tokens

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY
    | {
        "depth": 12,
        "text_layers": 2,
        "fusion_layers": 3,
        "projection": 96,
        "vocab_size": 157,
    },
    "base": {
        "image_size": 256,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "text_layers": 6,
        "fusion_layers": 6,
        "projection": 256,
        "vocab_size": 30522,
        "text_length": 25,
        "positions": 512,
        "token_types": 2,
        "dropout": 0.1,
        "init_std": 0.02,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "tokenizer": "bert-base-uncased",
    },
}


# By task, what a model fine-tuned for it is asked instead of answers.
ASKED = {"entailment": "entail", "nlvr2": "compare"}


class AlbefConfig(BertTextConfig):
    """Sizes of an ALBEF; the text side's heads and MLP channels are by default the vision side's.

    `positions`: rows of the position table, by default `text_length`; `dropout`: of the text side. `fusion_layers`: of
    the pre-trained model, of which task "nlvr2" has two each and the answer decoder of task "vqa" one.
    """

    fusion_layers: int
    projection: int
    task: Literal["retrieval", "vqa", "entailment", "nlvr2"] | None = None
    token_types: int = 0


class Albef(HostModel):
    """Vision tower, text encoder, fusion encoder, the three heads (contrast, matching, masked words), and a task's."""

    Config = AlbefConfig
    FACT_FILES = FILES
    RECIPES = RECIPES
    TEXT_SIDE = rf"(embeddings|text|fusion)\.(?!\d+\.crossattention\.).+|{WORD_HEAD}"
    NAMES_WORDS = True
    OPTIONAL = OPTIONAL
    VISION_FROM = frozenset({"blip"})
    vision: VisionTransformer

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = vision_transformer(config)
        self.embeddings = self._embeddings()
        self.text = self._layers(config.text_layers, cross_attention=False)
        self.fusion = self._layers(config.fusion_layers * (2 if config.task == "nlvr2" else 1), cross_attention=True)
        if config.task == "nlvr2":
            share_keys_and_values(self.fusion)
        self.image_projection = nn.Linear(config.width, config.projection)
        self.text_projection = nn.Linear(config.width, config.projection)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.match_head = nn.Linear(config.width, 2)
        self.mlm_transform = word_transform(config.width, config.text_eps)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = self._decoder() if config.task == "vqa" else None
        classes = {"entailment": 3, "nlvr2": 2}.get(config.task or "")
        self.task_head = classifier(config.width, classes) if classes else None

    @property
    def masked_questions(self) -> bool:
        return self.config.task != "vqa"

    def heads(self) -> dict[str, str]:
        both = r"(vision|embeddings|text)\..+"
        fused = rf"{both}|fusion\..+"
        task = self.config.task or ""
        own = {"vqa": r"decoder\..+", "entailment": r"task_head\..+", "nlvr2": r"task_head\..+"}.get(task, r"mlm_.+")
        return {
            "contrast": rf"{both}|(image|text)_projection\..+",
            "match": rf"{fused}|match_head\..+",
            ASKED.get(task, "answer"): rf"{fused}|{own}",
        }

    def released(self, name: str) -> Translation:
        return released_name(name, self.config.text_layers, self.config.task)

    @classmethod
    def stated_facts(cls, name: str, configs: Mapping[str, Mapping[str, Any]]) -> Facts:
        return facts_beside(configs, cls.preset(name))

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        return stated_sizes(tensors)

    def filled(self, missing: Sequence[str]) -> None:
        if any(name.startswith("decoder.") for name in missing):
            held = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")}
            self.load_state_dict(self.started_from(held))

    def started_from(self, tensors: State) -> State:
        """As the base class; what each task's heads start from says `harness.hosts.albef.heads.adapted`."""
        return super().started_from(adapted(tensors, self.config.task, self.config.fusion_layers))

    def on_differing_double(self) -> str:
        return ", as in files before NLVR2: those need a model without task" if self.config.task == "nlvr2" else ""

    def part(self, name: str) -> Part:
        if name == "vision":
            return Part(timm_vision, r"vision\..+")
        if name != "text":
            return super().part(name)
        lacking = (
            (r"fusion\.\d+\.crossattention\..+", "BERT has no cross-attention"),
            (WORD_HEAD, "the file holds no head for masked words"),
        )
        return Part(
            lambda name: of_bert(name, lambda bare: self.released(f"text_encoder.{bare}")),
            rf"(embeddings|text|fusion)\..+|{WORD_HEAD}",
            lacking,
        )

    def _embeddings(self) -> TextEmbeddings:
        config = self.config
        return TextEmbeddings(
            config.vocab_size,
            config.positions or config.text_length,
            config.width,
            types=config.token_types,
            eps=config.text_eps,
            dropout=config.dropout,
        )

    def _decoder(self) -> AnswerDecoder:
        layers = self._layers(self.config.fusion_layers, cross_attention=True)
        return AnswerDecoder(self._embeddings(), layers, self.config.text_eps)

    def _layers(self, count: int, cross_attention: bool) -> nn.ModuleList:
        config = self.config
        return bert_layers(
            config.width,
            config.text_heads or config.heads,
            count,
            mlp=config.text_mlp or config.width * config.mlp_ratio,
            cross_attention=cross_attention,
            eps=config.text_eps,
            dropout=config.dropout,
            std=config.init_std,
        )

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        """Text tokens of ids (B, L) with mask (B, L), true where a token stands; the first is [CLS]."""
        return through(BertStack(self.text), Tokens(self.embeddings(ids_BL), mask_BL.bool()))

    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        return Tokens(self.vision.forward_features(images_BCHW))

    def text_stacks(self) -> Sequence[Stack]:
        return BertStack(self.text), BertStack(self.fusion, "fusion")

    def fuse(self, texts: Tokens, image: Tokens) -> Tokens:
        """Text tokens that have read the image's, those that stand.

        Where fusion layers stand in pairs, these are the layers for the first image.
        """
        layers = self.fusion[::2] if self.config.task == "nlvr2" else self.fusion
        return through(BertStack(layers, "fusion", read=(image,)), texts)

    def fuse_two(self, texts: Tokens, first: Tokens, second: Tokens) -> Tokens:
        """Text tokens that have read two images': layers 2k read the first, layers 2k + 1 the second.

        As in the released program (models/xbert.py), with task "nlvr2" alone.
        """
        return through(BertStack(self.fusion, "fusion", read=(first, second)), texts)

    def words_alone(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """As the base class, of text and fusion layers: without cross-attention they are the layers of one BERT."""
        return self.mlm_logits(through(BertStack(self.fusion, "fusion"), self.encode_text(ids_BL, mask_BL)).at_inputs())

    def match_logits(self, fused: Tokens) -> Tensor:
        """Matching logits (B, 2) from the fused [CLS]: column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(fused.states[:, 0])
        return logits_B2

    def mlm_logits(self, fused_BLD: Tensor) -> Tensor:
        """Word logits (…, V) of fused states (…, D); the output matrix is tied to the word embeddings."""
        return F.linear(self.mlm_transform(fused_BLD), self.embeddings.words.weight, self.mlm_bias)

    def shared_space(self) -> tuple[Projection, Projection] | None:
        if "contrast" not in self.abilities:
            return None
        return shared_space(cast(nn.LayerNorm, self.vision.norm), self.image_projection, self.text_projection)

    def embed_image(self, image: Tokens) -> Tensor:
        return F.normalize(self.image_projection(image.states[:, 0]), dim=-1)

    def embed_text(self, texts: TextBatch) -> Tensor:
        return F.normalize(self.text_projection(texts.states[:, 0]), dim=-1)

    def match(self, texts: TextBatch, image: Tokens) -> Tensor:
        return self.match_logits(self.fuse(texts.tokens, image))

    def entail(self, texts: TextBatch, image: Tokens) -> Tensor:
        if self.task_head is None or self.config.task != "entailment":
            raise self.cannot("entail")
        logits_B3: Tensor = self.task_head(self.fuse(texts.tokens, image).states[:, 0])
        return logits_B3

    def compare(self, texts: TextBatch, first: Tokens, second: Tokens) -> Tensor:
        if self.task_head is None or self.config.task != "nlvr2":
            raise self.cannot("compare")
        logits_B2: Tensor = self.task_head(self.fuse_two(texts.tokens, first, second).states[:, 0])
        return logits_B2

    def answer_outputs(self, questions: TextBatch, image: Tokens, targets: AnswerTargets) -> Tensor:
        """Logits (R, L, V) of the word behind each token of the targets' answers, with whose [CLS] the decoder starts.

        HarnessError without a decoder, which task "vqa" alone has.
        """
        if self.decoder is None:
            raise HarnessError("Albef has no answer decoder before it is fine-tuned on vqa; build it with task vqa")
        fused = self.fuse(questions.tokens, image)
        outputs_RLV: Tensor = self.decoder(targets.ids, targets.mask, fused.rows(targets.rows))
        return outputs_RLV

    def answer_losses(
        self,
        outputs: Tensor,
        targets: AnswerTargets,
        soft: Tensor | None = None,
        alpha: float = 0.0,
        smoothing: float = 0.0,
    ) -> Tensor:
        return answer_word_losses(outputs, targets, soft, alpha, smoothing)

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> Any:
        """Ids and mask (A, L) of "[CLS] answer [SEP]" for the decoder of task "vqa".

        Without it, token ids (A,) of single-word answers; HarnessError for other answers and vocabularies.
        """
        if self.decoder is not None:
            return tokenizer(answers)
        if not isinstance(tokenizer, TextTokenizer) or tokenizer.specials.mask != MASK:
            raise HarnessError(f"answers are ranked at [MASK], expected as token {MASK} of a vocabulary file")
        return tokenizer.answer_ids(answers)

    def sayable(self, tokenizer: Tokenizer, answers: Sequence[str]) -> tuple[str, ...]:
        """All with the decoder of task "vqa"; without it the single words of the vocabulary, as [MASK] is one word."""
        if self.decoder is not None or not isinstance(tokenizer, TextTokenizer):
            return tuple(answers)
        return tuple(answer for answer in answers if answer in tokenizer.vocabulary)

    def answer_scores(self, texts: TextBatch, image: Tokens, answers: Any) -> Tensor:
        """Score (B, A) of each answer by the decoder of task "vqa" (`AnswerDecoder.scores`).

        Without it, the logit of each single-word answer (token ids (A,)) at the questions' [MASK].
        """
        fused = self.fuse(texts.tokens, image)
        if self.decoder is not None:
            return self.decoder.scores(fused, answers)
        rows = torch.arange(len(fused), device=texts.ids.device)
        masked = (texts.ids == MASK).int().argmax(1)
        return self.mlm_logits(fused.at_inputs()[rows, masked])[:, answers]

"""BLIP: a ViT, and one BERT that is a text encoder, an image-grounded encoder and an image-grounded decoder.

Bootstrapping language-image pre-training (Li et al. 2022, arXiv 2201.12086; released program salesforce/BLIP). The
three share embeddings, cross-attention and feed-forward; only the decoder's self-attention, which looks back alone, is
its own. The first token says which of them reads: [CLS], [ENC] or [DEC].

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, M states that a decoder reads, L text
tokens, D width of both sides, P size of the shared space, V vocabulary, A answers, K candidates among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from harness import recompute
from harness.errors import HarnessError
from harness.models.bert import TextEmbeddings, attention_mask, bert_layers, causal_mask, run_layers, word_transform
from harness.models.generation import best_first, generate
from harness.models.host import HostConfig, HostModel, TextBatch, timm_vision, vision_transformer
from harness.models.released import Copied, Lacking, NotAWeight, Part, Table, Tied, Translation, of_bert, translate
from harness.models.tokenizer import Tokenizer

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "image_size": 64,
        "patch_size": 8,
        "width": 96,
        "depth": 12,
        "heads": 3,
        "text_layers": 5,
        "mlp_ratio": 4,
        "projection": 96,
        "vocab_size": 159,
        "text_length": 48,
        "pad_id": 0,
        "cls_id": 2,
        "sep_id": 3,
        "dec_id": 157,
        "enc_id": 158,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
    "base": {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "text_layers": 12,
        "mlp_ratio": 4,
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
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "tokenizer": "bert-base-uncased",
    },
}

IGNORED = -100  # the label that no loss counts
LABEL_SMOOTHING = 0.1  # released models/med.py, in training and in ranking answers
CANDIDATES = 128  # released models/blip_vqa.py, `k_test`

TRAINING_STATE = NotAWeight("state of pre-training")
RELEASED: Table = (
    (r"(visual_encoder|vision_proj|text_encoder|text_proj)_m\..+", TRAINING_STATE),
    (r"image_queue|text_queue|queue_ptr|idx_queue|ptr_queue", TRAINING_STATE),
    (r"text_(encoder|decoder\.bert)\.embeddings\.position_ids", NotAWeight("0, 1, 2, ...")),
    (r"visual_encoder\.(.+)", r"vision.\1"),
    (r"vision_proj\.(.+)", r"image_projection.\1"),
    (r"text_proj\.(.+)", r"text_projection.\1"),
    (r"temp", "temperature"),
    (r"itm_head\.(.+)", r"match_head.\1"),
    (r"text_encoder\.embeddings\.word_embeddings\.weight", "embeddings.words.weight"),
    (r"text_encoder\.embeddings\.position_embeddings\.weight", "embeddings.positions.weight"),
    (r"text_encoder\.embeddings\.LayerNorm\.(.+)", r"embeddings.norm.\1"),
    (r"text_encoder\.encoder\.layer\.(\d+\..+)", r"encoder.\1"),
    (r"text_decoder\.bert\.embeddings\.word_embeddings\.weight", "decoder_embeddings.words.weight"),
    (r"text_decoder\.bert\.embeddings\.position_embeddings\.weight", "decoder_embeddings.positions.weight"),
    (r"text_decoder\.bert\.embeddings\.LayerNorm\.(.+)", r"decoder_embeddings.norm.\1"),
    (r"text_decoder\.bert\.encoder\.layer\.(\d+\..+)", r"decoder.\1"),
    (r"text_decoder\.cls\.predictions\.transform\.dense\.(.+)", r"word_transform.0.\1"),
    (r"text_decoder\.cls\.predictions\.transform\.LayerNorm\.(.+)", r"word_transform.2.\1"),
    (r"text_decoder\.cls\.predictions\.bias", "word_bias"),
    (r"text_decoder\.cls\.predictions\.decoder\.weight", Tied("decoder_embeddings.words.weight")),
    (r"text_decoder\.cls\.predictions\.decoder\.bias", Tied("word_bias")),
    # transformers' BLIP names the ViT in its own way, all else as the released program does.
    (r"vision_model\.embeddings\.class_embedding", "vision.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", "vision.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.(.+)", r"vision.patch_embed.proj.\1"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(.+)", r"vision.blocks.\1.norm\2.\3"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.(.+)", r"vision.blocks.\1.attn.qkv.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.(.+)", r"vision.blocks.\1.attn.proj.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.(.+)", r"vision.blocks.\1.mlp.\2"),
    (r"vision_model\.post_layernorm\.(.+)", r"vision.norm.\1"),
)
WORD_HEAD = r"word_transform\..+|word_bias"
OPTIONAL: Lacking = (
    (r"temperature", "files of captioning, of question answering and of transformers hold no contrast"),
    (r"(image|text)_projection\..+", "files of captioning and question answering hold no contrast"),
    (r"match_head\..+", "files of captioning and question answering hold no matching head"),
    (r"encoder\.\d+\.attention\..+", "files of captioning hold no text encoder"),
    (rf"decoder(_embeddings)?\..+|{WORD_HEAD}", "files of retrieval hold no decoder"),
)
OWN = r"(?!decoder).+|decoder\.\d+\.attention\..+"  # what has no double where encoder and decoder share


class BlipConfig(HostConfig):
    """Sizes of a BLIP; the text side's heads and MLP channels are by default the vision side's.

    `positions`: rows of the position table, by default `text_length`; `dropout`: of the text side; `…_id`: the special
    tokens. `shared`: encoder and decoder share all but self-attention, as in pre-training; false: they share nothing,
    as in the released question answering, whose fine-tuned files hold two different sets.
    """

    text_layers: int
    projection: int
    pad_id: int
    cls_id: int
    sep_id: int
    dec_id: int
    enc_id: int
    shared: bool = True
    positions: int | None = None
    dropout: float = 0.0
    init_std: float | None = None
    text_heads: int | None = None
    text_mlp: int | None = None
    text_eps: float = 1e-12


class OwnAttention(nn.Module):
    """What a decoder layer holds when it shares all else with an encoder layer: `attention`."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention = layer.attention


def decoder_layer(
    own: Any, lender: Any, states_BLD: Tensor, mask: Tensor, read_BMD: Tensor, read_mask: Tensor | None
) -> Tensor:
    """A decoder layer on states (B, L, D): `own`'s self-attention, then `lender`'s cross-attention and feed-forward."""
    attended_BLD, _ = own.attention(states_BLD, mask)
    crossed_BLD, _ = lender.crossattention(
        attended_BLD, encoder_hidden_states=read_BMD, encoder_attention_mask=read_mask
    )
    output_BLD: Tensor = lender.feed_forward_chunk(crossed_BLD)
    return output_BLD


def token_losses(logits_BLV: Tensor, labels_BL: Tensor, smoothing: float) -> Tensor:
    """Loss (B, L - 1) of each next token: logits at a position against the label behind it, 0 where it is ignored."""
    losses = F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="none", label_smoothing=smoothing
    )
    return losses.view(len(labels_BL), -1)


class Blip(HostModel):
    """Vision tower, encoder, decoder, and the heads: contrast, matching, next words."""

    Config = BlipConfig
    ABILITIES = frozenset({"contrast", "match", "answer", "caption"})
    EXTRA_WORDS = ("[DEC]", "[ENC]")
    OPTIONAL = OPTIONAL

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision: VisionTransformer = vision_transformer(config)
        self.embeddings = self._embeddings()
        self.encoder = self._layers()
        own = self._layers()
        self.decoder = nn.ModuleList(OwnAttention(layer) for layer in own) if config.shared else own
        self.decoder_embeddings = None if config.shared else self._embeddings()
        self.image_projection = nn.Linear(config.width, config.projection)
        self.text_projection = nn.Linear(config.width, config.projection)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.match_head = nn.Linear(config.width, 2)
        self.word_transform = word_transform(config.width, config.text_eps)
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))

    @classmethod
    def vocabulary_sizes(cls, vocabulary: dict[str, int]) -> dict[str, int]:
        special = {f"{name}_id": vocabulary[f"[{name.upper()}]"] for name in ("pad", "cls", "sep", "dec", "enc")}
        return {"vocab_size": len(vocabulary), **special}

    def _embeddings(self) -> TextEmbeddings:
        config = self.config
        positions = config.positions or config.text_length
        return TextEmbeddings(config.vocab_size, positions, config.width, eps=config.text_eps, dropout=config.dropout)

    def _layers(self) -> nn.ModuleList:
        config = self.config
        return bert_layers(
            config.width,
            config.text_heads or config.heads,
            config.text_layers,
            mlp=config.text_mlp or config.width * config.mlp_ratio,
            cross_attention=True,
            eps=config.text_eps,
            dropout=config.dropout,
            std=config.init_std,
        )

    def released(self, name: str) -> Translation:
        target = translate(name, RELEASED)
        place = target.name if isinstance(target, Tied) else target
        if not self.config.shared or not isinstance(place, str) or re.fullmatch(OWN, place):
            return target
        return Tied(place.replace("decoder_embeddings.", "embeddings.").replace("decoder.", "encoder."))

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The words, and whether encoder and decoder share: in files of question answering they differ."""
        sizes: dict[str, Any] = {}
        for name, tensor in tensors.items():
            side = re.fullmatch(r"text_(encoder|decoder\.bert)\.(.+)", name)
            if side and side[2] == "embeddings.word_embeddings.weight":
                sizes["vocab_size"] = len(tensor)
            if side and side[1] != "encoder" and not re.search(r"\.\d+\.attention\.", name):
                twin = tensors.get(f"text_encoder.{side[2]}")
                if twin is not None and not torch.equal(twin, tensor):
                    sizes["shared"] = False
        return sizes

    def on_differing_double(self) -> str:
        if not self.config.shared:
            return ""
        return ", as in files of question answering: those need shared=False"

    def part(self, name: str) -> Part:
        if name == "vision":
            return Part(timm_vision, r"vision\..+")
        if name != "text":
            return super().part(name)
        lacking = (
            (r"(en|de)coder\.\d+\.crossattention\..+", "BERT has no cross-attention"),
            (WORD_HEAD, "the file holds no head for words"),
        )
        holds = rf"(encoder|decoder|embeddings|decoder_embeddings)\..+|{WORD_HEAD}"
        grown = frozenset({"embeddings.words.weight", "decoder_embeddings.words.weight", "word_bias"})
        return Part(lambda name: of_bert(name, self._of_bert), holds, lacking, grown)

    def _of_bert(self, name: str) -> Translation:
        """What a tensor of BERT is here: encoder and decoder start from the same, as in the released models/blip.py."""
        if name == "embeddings.token_type_embeddings.weight":
            return NotAWeight("BLIP has no token types")
        if name.startswith("cls."):
            return self.released(f"text_decoder.{name}")
        places = (self.released(f"text_encoder.{name}"), self.released(f"text_decoder.bert.{name}"))
        held = tuple(place for place in places if isinstance(place, str))
        return Copied(held) if held else None

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) of token ids (B, L) that begin with [CLS]; the layers' cross-attention is skipped."""
        return run_layers(self.encoder, self.embeddings(ids_BL), attention_mask(mask_BL))

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Image states (B, N, D) after the final norm, class token first, with every patch.

        Under a reduction method the states come from `harness.reduction.encode` on this model's `vision` instead.
        """
        states_BND: Tensor = self.vision.forward_features(images_BCHW)
        return states_BND

    def ground(self, ids_BL: Tensor, mask_BL: Tensor, image_states_BND: Tensor) -> Tensor:
        """States (B, L, D) of texts that have read the image tokens, all of them valid; [ENC] takes the first place."""
        embedded_BLD = self.embeddings(begun(ids_BL, self.config.enc_id))
        return run_layers(self.encoder, embedded_BLD, attention_mask(mask_BL), image_states_BND)

    def decoder_states(
        self, ids_BL: Tensor, mask_BL: Tensor, read_BMD: Tensor, read_mask_BM: Tensor | None = None
    ) -> Tensor:
        """States (B, L, D), each of which knows the tokens up to its own and what `read` (B, M, D) holds."""
        states_BLD: Tensor = (self.decoder_embeddings or self.embeddings)(ids_BL)
        mask = causal_mask(mask_BL)
        read_mask = None if read_mask_BM is None else attention_mask(read_mask_BM)
        for own, lender in zip(self.decoder, self.encoder if self.config.shared else self.decoder, strict=True):
            states_BLD = recompute.block(decoder_layer, own, lender, states_BLD, mask, read_BMD, read_mask)
        return states_BLD

    def word_logits(self, states: Tensor) -> Tensor:
        """Logits (…, V) of the word behind each state (…, D); the output matrix is the decoder's word table."""
        words = (self.decoder_embeddings or self.embeddings).words.weight
        return F.linear(self.word_transform(states), words, self.word_bias)

    def decode(self, ids_BL: Tensor, mask_BL: Tensor, read_BMD: Tensor, read_mask_BM: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of the word behind each token of ids (B, L), which begin with [DEC].

        `read`: image states, or a question's states with the mask (B, M) of its tokens.
        """
        return self.word_logits(self.decoder_states(ids_BL, mask_BL, read_BMD, read_mask_BM))

    def labels(self, ids_BL: Tensor, mask_BL: Tensor, prompt: int = 0) -> Tensor:
        """What the decoder shall say, (B, L): [DEC] first, -100 at padding and at the `prompt` tokens behind [DEC]."""
        labels_BL = begun(ids_BL, self.config.dec_id).masked_fill(~mask_BL.bool(), IGNORED)
        if prompt:
            labels_BL[:, : prompt + 1] = IGNORED
        return labels_BL

    def lm_losses(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        read_BMD: Tensor,
        labels_BL: Tensor | None = None,
        read_mask_BM: Tensor | None = None,
        smoothing: float = LABEL_SMOOTHING,
    ) -> tuple[Tensor, Tensor]:
        """Loss of each next token (B, L - 1), and where one is counted; [DEC] takes the first place of ids (B, L).

        Without `labels` (B, L) every token that stands is one. Labels are shifted by one, -100 is ignored, and the
        target's probability is 1 - smoothing plus smoothing / V, that of other words smoothing / V (released
        models/med.py). Its sum over a row is the loss of an answer that the released question answering weighs.
        """
        labels_BL = self.labels(ids_BL, mask_BL) if labels_BL is None else labels_BL
        logits_BLV = self.decode(begun(ids_BL, self.config.dec_id), mask_BL, read_BMD, read_mask_BM)
        return token_losses(logits_BLV, labels_BL, smoothing), labels_BL[:, 1:] != IGNORED

    def lm_loss_sum(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        read_BMD: Tensor,
        labels_BL: Tensor | None = None,
        read_mask_BM: Tensor | None = None,
        smoothing: float = LABEL_SMOOTHING,
    ) -> tuple[Tensor, Tensor]:
        """Sum of `lm_losses` and number of the tokens counted, for a mean over several processes."""
        losses, counted = self.lm_losses(ids_BL, mask_BL, read_BMD, labels_BL, read_mask_BM, smoothing)
        return losses.sum(), counted.sum()

    def lm_loss(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        read_BMD: Tensor,
        labels_BL: Tensor | None = None,
        read_mask_BM: Tensor | None = None,
        smoothing: float = LABEL_SMOOTHING,
    ) -> Tensor:
        """Mean of `lm_losses` over the tokens counted."""
        total, count = self.lm_loss_sum(ids_BL, mask_BL, read_BMD, labels_BL, read_mask_BM, smoothing)
        return total / count

    def embed_image(self, image_states_BND: Tensor) -> Tensor:
        return F.normalize(self.image_projection(image_states_BND[:, 0]), dim=-1)

    def embed_text(self, texts: TextBatch) -> Tensor:
        return F.normalize(self.text_projection(texts.states[:, 0]), dim=-1)

    def match_logits(self, grounded_BLD: Tensor) -> Tensor:
        """Matching logits (B, 2) from the grounded [ENC]: column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(grounded_BLD[:, 0])
        return logits_B2

    def match(self, texts: TextBatch, image_states_BND: Tensor) -> Tensor:
        return self.match_logits(self.ground(texts.ids, texts.mask, image_states_BND))

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (A, L) of "[CLS] answer [SEP]"."""
        return tokenizer(answers)

    def answer_scores(
        self,
        texts: TextBatch,
        image_states_BND: Tensor,
        answers: tuple[Tensor, Tensor],
        candidates: int = CANDIDATES,
    ) -> Tensor:
        """Score (B, A) of each answer, ids and mask (A, L) as the tokenizer gives them, "[CLS] answer [SEP]".

        The decoder reads the grounded question, not the image. The `candidates` answers whose first token it finds
        likeliest are scored by the negative sum of their tokens' losses, label smoothing included; the others have
        -inf (released models/blip_vqa.py, `rank_answer`). Takes memory for B x K answers of L words out of V.
        """
        ids_AL, mask_AL = answers
        question_BLD = self.ground(texts.ids, texts.mask, image_states_BND)
        opening_B1 = texts.ids.new_full((len(texts.ids), 1), self.config.dec_id)
        first_BV = self.decode(opening_B1, torch.ones_like(opening_B1), question_BLD, texts.mask)[:, 0]
        _, chosen_BK = best_first(first_BV[:, ids_AL[:, 1]], candidates)
        each = chosen_BK.shape[1]
        losses, _ = self.lm_losses(
            ids_AL[chosen_BK].flatten(0, 1),
            mask_AL[chosen_BK].flatten(0, 1),
            question_BLD.repeat_interleave(each, 0),
            read_mask_BM=texts.mask.repeat_interleave(each, 0),
        )
        scores_BK = -losses.sum(1).view(-1, each)
        nowhere_BA = scores_BK.new_full((len(first_BV), len(ids_AL)), -float("inf"))
        return nowhere_BA.scatter(1, chosen_BK, scores_BK)

    @torch.no_grad()
    def caption(
        self,
        image_states_BND: Tensor,
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
        config = self.config
        rows = len(self.embeddings.positions.weight)
        if max_length > rows:
            raise HarnessError(f"captions of {max_length} tokens: expected at most {rows}, this model's positions")
        first = torch.tensor([config.dec_id], device=image_states_BND.device)
        if prompt_ids is not None:
            first = torch.cat([first, prompt_ids.to(first.device)])
        read_BMD = image_states_BND.repeat_interleave(beams, 0)

        def step(ids_BL: Tensor) -> Tensor:
            return self.word_logits(self.decoder_states(ids_BL, torch.ones_like(ids_BL), read_BMD)[:, -1])

        captions_BL = generate(
            step,
            first.expand(len(image_states_BND), -1),
            eos_id=config.sep_id,
            pad_id=config.pad_id,
            max_length=max_length,
            min_length=min_length,
            beams=beams,
            repetition_penalty=repetition_penalty,
        )
        return captions_BL[:, len(first) :]


def begun(ids_BL: Tensor, token: int) -> Tensor:
    """The texts (B, L) with another first token."""
    return torch.cat([torch.full_like(ids_BL[:, :1], token), ids_BL[:, 1:]], dim=1)

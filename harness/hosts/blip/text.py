"""BLIP's text side: one BERT that is a text encoder, an image-grounded encoder and an image-grounded decoder.

In pre-training the three share embeddings, cross-attention and feed-forward; only the decoder's self-attention, which
looks back alone, is its own. The first token says which of them reads: [CLS], [ENC] or [DEC] (released models/med.py).

Shapes: B texts, L tokens, N image tokens with the class token, M states that a decoder reads, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.blip.layers import OwnAttention, read_pairs
from harness.hosts.host import HostModel
from harness.hosts.parts.answers import IGNORED, token_losses
from harness.hosts.parts.bert import BertTextConfig, TextEmbeddings, bert_layers, word_transform
from harness.hosts.parts.text_stacks import BertStack, PairStack, through
from harness.reduction import Stack, Tokens

LABEL_SMOOTHING = 0.1  # released models/med.py, in training and in ranking answers


class BlipConfig(BertTextConfig):
    """Sizes of a BLIP; the text side's heads and MLP channels are by default the vision side's.

    `positions`: rows of the position table, by default `text_length`; `dropout`: of the text side; `…_id`: the special
    tokens. `shared`: encoder and decoder share all but self-attention, as in pre-training; false: they share nothing,
    as in the released question answering, whose fine-tuned files hold two different sets and for which `task` stands.
    """

    projection: int
    pad_id: int
    cls_id: int
    sep_id: int
    dec_id: int
    enc_id: int
    shared: bool = True

    @property
    def tied(self) -> bool:
        """Whether encoder and decoder do share: question answering is fine-tuned with two of them."""
        return self.shared and self.task != "vqa"

    @property
    def pairs(self) -> bool:
        """Whether the model is one of pairs of images."""
        return self.task == "nlvr2"


class BlipText(HostModel):
    """The three readers, and what makes words of the decoder's states; a model of pairs of images has no decoder."""

    config: BlipConfig

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = self._embeddings()
        self.encoder = self._layers()
        if config.pairs:
            read_pairs(self.encoder, config.init_std)
            return
        own = self._layers()
        self.decoder = nn.ModuleList(OwnAttention(layer) for layer in own) if config.tied else own
        self.decoder_embeddings = None if config.tied else self._embeddings()
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

    @torch.no_grad()
    def begin_readers_alike(self) -> None:
        """Begin every reader as the text encoder: the decoder with its self-attention, [ENC] and [DEC] as [CLS]."""
        words = self.embeddings.words.weight
        words[[self.config.enc_id, self.config.dec_id]] = words[self.config.cls_id].clone()
        for mine, lender in zip(self.decoder, self.encoder, strict=True):
            mine.get_submodule("attention").load_state_dict(lender.get_submodule("attention").state_dict())

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        """Text tokens of ids (B, L) that begin with [CLS]; the layers' cross-attention is skipped."""
        return through(BertStack(self.encoder), Tokens(self.embeddings(ids_BL), mask_BL.bool()))

    def text_stacks(self) -> Sequence[Stack]:
        return BertStack(self.encoder), BertStack(self.encoder, "fusion")

    def ground(self, ids_BL: Tensor, mask_BL: Tensor, image: Tokens) -> Tokens:
        """Tokens of texts that have read the image's, those that stand; [ENC] takes the first place."""
        embedded_BLD = self.embeddings(begun(ids_BL, self.config.enc_id))
        return through(BertStack(self.encoder, "fusion", read=(image,)), Tokens(embedded_BLD, mask_BL.bool()))

    def ground_in_two(self, ids_BL: Tensor, mask_BL: Tensor, first: Tokens, second: Tokens) -> Tokens:
        """Tokens of texts that have read two images', in a model of pairs."""
        embedded_BLD = self.embeddings(begun(ids_BL, self.config.enc_id))
        return through(PairStack(self.encoder, "fusion", read=(first, second)), Tokens(embedded_BLD, mask_BL.bool()))

    def decoder_states(self, ids_BL: Tensor, mask_BL: Tensor, read: Tokens) -> Tensor:
        """States (B, L, D), each of which knows the tokens up to its own and what `read` holds."""
        embedded_BLD: Tensor = (self.decoder_embeddings or self.embeddings)(ids_BL)
        lenders = self.encoder if self.config.tied else self.decoder
        stack = BertStack(self.decoder, "decoder", read=(read,), causal=True, lenders=lenders)
        return through(stack, Tokens(embedded_BLD, mask_BL.bool())).states

    def word_logits(self, states: Tensor) -> Tensor:
        """Logits (…, V) of the word behind each state (…, D); the output matrix is the decoder's word table."""
        words = (self.decoder_embeddings or self.embeddings).words.weight
        return F.linear(self.word_transform(states), words, self.word_bias)

    def decode(self, ids_BL: Tensor, mask_BL: Tensor, read: Tokens) -> Tensor:
        """Logits (B, L, V) of the word behind each token of ids (B, L), which begin with [DEC].

        `read`: tokens of images, or of grounded questions.
        """
        return self.word_logits(self.decoder_states(ids_BL, mask_BL, read))

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
        read: Tokens,
        labels_BL: Tensor | None = None,
        smoothing: float = LABEL_SMOOTHING,
    ) -> tuple[Tensor, Tensor]:
        """Loss of each next token (B, L - 1), and where one is counted; [DEC] takes the first place of ids (B, L).

        Without `labels` (B, L) every token that stands is one. Labels are shifted by one, -100 is ignored, and the
        target's probability is 1 - smoothing plus smoothing / V, that of other words smoothing / V (released
        models/med.py). Its sum over a row is the loss of an answer that the released question answering weighs.
        """
        labels_BL = self.labels(ids_BL, mask_BL) if labels_BL is None else labels_BL
        logits_BLV = self.decode(begun(ids_BL, self.config.dec_id), mask_BL, read)
        return token_losses(logits_BLV, labels_BL, smoothing), labels_BL[:, 1:] != IGNORED

    def lm_loss_sum(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor,
        read: Tokens,
        labels_BL: Tensor | None = None,
        smoothing: float = LABEL_SMOOTHING,
    ) -> tuple[Tensor, Tensor]:
        """Sum of `lm_losses` and number of the tokens counted, for a mean over several processes."""
        losses, counted = self.lm_losses(ids_BL, mask_BL, read, labels_BL, smoothing)
        return losses.sum(), counted.sum()


def begun(ids_BL: Tensor, token: int) -> Tensor:
    """The texts (B, L) with another first token."""
    return torch.cat([torch.full_like(ids_BL[:, :1], token), ids_BL[:, 1:]], dim=1)

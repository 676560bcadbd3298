"""LoTLIP's golden files: a BERT with corner tokens, its mask and features, and the loss with its gradients."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference
from harness.hosts.parts.bert import TextEmbeddings, bert_layers
from harness.hosts.parts.text_stacks import BertStack
from harness.objectives.parts.corner_tokens import corner_mask, long_text_contrast, read_by, texts_of_images

PAD = 0
TABLES = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "types"}


class CornerBert(nn.Module):
    """BERT, its pooler and the projection; features are those of [CLS] and the corner tokens behind it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        bert, self.corners = config["bert"], config["num_corner_token"]
        width = bert["hidden_size"]
        words, eps = bert["vocab_size"] + self.corners, bert.get("layer_norm_eps", 1e-12)
        types = bert["type_vocab_size"]
        self.embeddings = TextEmbeddings(words, bert["max_position_embeddings"], width, types=types, eps=eps)
        heads, count = bert["num_attention_heads"], bert["num_hidden_layers"]
        self.layers = bert_layers(width, heads, count, mlp=bert["intermediate_size"], eps=eps)
        self.pooler = nn.Linear(width, width)
        self.proj = nn.Linear(width, config["output_dim"], bias=False)

    def mask(self, ids_BL: Tensor) -> Tensor:
        special = torch.arange(ids_BL.shape[1]) <= self.corners
        return corner_mask(ids_BL != PAD, special)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Unit features (B, S, P)."""
        states = read_by(BertStack(self.layers), self.embeddings(ids_BL), self.mask(ids_BL))
        pooled = self.pooler(states[:, : self.corners + 1]).tanh()
        return F.normalize(self.proj(pooled), dim=-1)


def check(golden: Golden) -> dict[str, float]:
    """Mask, features, losses and gradients."""
    config, given, weights = golden.config, golden.part("input"), golden.part("weight")
    model = CornerBert(config).double().eval()
    model.load_state_dict({_own(name): value for name, value in weights.items() if name != "logit_scale"})
    log_scale = weights["logit_scale"].clone().requires_grad_()
    images, ids = given["image_features"].clone().requires_grad_(), given["text"]
    texts = ids if ids.dim() == 3 else ids[:, None]
    features = model(texts.flatten(0, 1)).unflatten(0, texts.shape[:2])
    every = texts_of_images(features)
    views = F.normalize(images, dim=-1).unflatten(0, (len(texts), -1))
    # Texts without several a row: CLIP's loss, which has no weights.
    several = ids.dim() == 3
    terms = (config["clip_lossweight"], config["declip_lossweight"]) if several else (1.0, 1.0)
    found = long_text_contrast(views, every, log_scale.exp(), terms, several and config["use_declip_loss"])
    loss = torch.stack(list(found.values())).sum()
    loss.backward()
    ours = {
        "attention_mask": model.mask(texts.flatten(0, 1)).double(),
        "text_features": every if several else every[:, 0],
        "single_text_features": features[:, 0, 0],
        "loss": loss,
        "loss_clip": found["short"],
        "loss_declip": found.get("long", torch.zeros_like(loss)),
    }
    outputs = golden.part("output")
    errors = {name: difference(ours[name].reshape(value.shape), value.double()) for name, value in outputs.items()}
    inputs = {"logit_scale": log_scale, "input.image_features": images}
    for name, expected in golden.part("grad").items():
        gradient = (inputs[name] if name in inputs else model.get_parameter(_own(name))).grad
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _own(name: str) -> str:
    """Our name of a released tensor."""
    plain = name.removeprefix("text.").removeprefix("transformer.")
    plain = re.sub(r"^embeddings\.(\w+_embeddings)\.", lambda found: f"embeddings.{TABLES[found[1]]}.", plain)
    plain = plain.replace("embeddings.LayerNorm.", "embeddings.norm.").replace("encoder.layer.", "layers.")
    return plain.replace("pooler.dense.", "pooler.")

"""BLIP's text side from an ALBEF's of the same width: what took the one long to learn need not be learnt again.

BLIP's layers read texts alone or texts with an image; ALBEF's first ones read texts, its last ones read the image too.
So layer i of ALBEF's two stacks becomes layer i of BLIP's one, for encoder and decoder. The first ones bring no
cross-attention: it starts with an output of zero. A start, which saw no image, brings neither cross-attention nor
projections nor the matching head: these stay as they are drawn.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from harness.hosts.blip.text import BlipText
from harness.hosts.weights.released import (
    Copied,
    LoadReport,
    NotAWeight,
    Part,
    Table,
    Translation,
    fill_part,
    translate,
)
from harness.kit.errors import HarnessError

_TABLE: Table = (
    (r"embeddings\.types\.weight", NotAWeight("BLIP has no token types")),
    (r"(embeddings\..+)", r"\1"),
    (r"mlm_transform\.(.+)", r"word_transform.\1"),
    (r"mlm_bias", "word_bias"),
    (r"((image|text)_projection\..+|match_head\..+|temperature)", r"\1"),
)
_GROWN = frozenset({"embeddings.words.weight", "word_bias"})


def start_text_from_albef(host: BlipText, tensors: dict[str, Tensor], source: str) -> LoadReport:
    """Fill a BLIP's text side from the tensors of an ALBEF before fine-tuning, or of a start, its tower's left out.

    Raises HarnessError where widths differ, or BLIP has not as many layers as ALBEF's two stacks together.
    """
    first = sum(1 for name in tensors if re.fullmatch(r"text\.\d+\.attention\.self\.query\.weight", name))
    layers = first + sum(1 for name in tensors if re.fullmatch(r"fusion\.\d+\.attention\.self\.query\.weight", name))
    if layers != host.config.text_layers or not host.config.shared:
        raise HarnessError(
            f"weights {source}: {layers} text layers for a BLIP of {host.config.text_layers}; expected as many, shared"
        )

    def place(name: str) -> Translation:
        layer = re.fullmatch(r"(text|fusion)\.(\d+)\.(.+)", name)
        if layer is None:
            return translate(name, _TABLE)
        index, rest = int(layer[2]) + (first if layer[1] == "fusion" else 0), layer[3]
        ours = f"encoder.{index}.{rest}"
        return Copied((ours, f"decoder.{index}.{rest}")) if rest.startswith("attention.") else ours

    own = "|".join(str(index) for index in range(first))
    lacking = (
        (rf"encoder\.({own})\.crossattention\..+", "ALBEF's first layers have none"),
        (rf"encoder\.(?!({own})\.)\d+\.crossattention\..+", "a start has read no image"),
        (r"(image|text)_projection\..+|match_head\..+", "a start is not aligned"),
    )
    holds = r"(encoder|decoder|embeddings|word_transform|image_projection|text_projection|match_head)\..+|word_bias"
    report = fill_part(host, tensors, source, Part(place, holds, lacking, _GROWN))
    with torch.no_grad():
        words = host.embeddings.words.weight
        words[[host.config.enc_id, host.config.dec_id]] = words[host.config.cls_id].clone()
        for block in host.encoder[:first]:
            output = block.get_submodule("crossattention.output.dense")
            assert isinstance(output, nn.Linear)
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
    return report

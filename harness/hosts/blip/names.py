"""What the tensors of BLIP's files are called here: the released program's, transformers' and, in part, BERT's.

Files of pre-training, retrieval, captioning and question answering have the same names; those of NLVR2 (released
models/nlvr_encoder.py) have two cross-attentions in a layer, for two images.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.hosts.weights.released import (
    Copied,
    Lacking,
    NotAWeight,
    Part,
    Table,
    Tied,
    Translation,
    of_bert,
    translate,
)

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
# In a model of pairs of images: both cross-attentions start from the one (released models/blip_nlvr.py).
_CROSS = r"text_encoder\.encoder\.layer\.(\d+)\.crossattention"
PAIRS: Table = (
    (
        rf"{_CROSS}\.self\.(.+)",
        Copied((r"encoder.\1.crossattention.self0.\2", r"encoder.\1.crossattention.self1.\2")),
    ),
    (
        rf"{_CROSS}\.output\.dense\.(.+)",
        Copied((r"encoder.\1.crossattention.output.dense0.\2", r"encoder.\1.crossattention.output.dense1.\2")),
    ),
    (r"cls_head\.(.+)", r"pair_head.\1"),
    (r"text_decoder\..+|(vision_proj|text_proj|itm_head)\..+|temp", NotAWeight("of no use for pairs of images")),
    *RELEASED,
)

WORD_HEAD = r"word_transform\..+|word_bias"
OPTIONAL: Lacking = (
    (r"temperature", "files of captioning, of question answering and of transformers hold no contrast"),
    (r"(image|text)_projection\..+", "files of captioning and question answering hold no contrast"),
    (r"match_head\..+", "files of captioning and question answering hold no matching head"),
    (r"encoder\.\d+\.attention\..+", "files of captioning hold no text encoder"),
    (rf"decoder(_embeddings)?\..+|{WORD_HEAD}", "files of retrieval hold no decoder"),
)
OF_PAIRS = r"encoder\.\d+\.crossattention\.output\.merge_layer\..+|pair_head\..+"
PAIRS_OPTIONAL: Lacking = ((OF_PAIRS, "only files of NLVR2 hold it"),)
OWN = r"(?!decoder).+|decoder\.\d+\.attention\..+"  # what has no double where encoder and decoder share


def released_name(name: str, shared: bool, pairs: bool) -> Translation:
    """What a tensor of the released program is in a model whose decoder is `shared`, or in one of `pairs` of images."""
    target = translate(name, PAIRS if pairs else RELEASED)
    place = target.name if isinstance(target, Tied) else target
    if not shared or not isinstance(place, str) or re.fullmatch(OWN, place):
        return target
    return Tied(encoder_name(place))


def encoder_name(name: str) -> str:
    """The tensor of the encoder from which one of the decoder starts, and to which it is tied where they share."""
    return name.replace("decoder_embeddings.", "embeddings.").replace("decoder.", "encoder.")


def start_of(name: str) -> str:
    """The pre-trained tensor from which one starts that fine-tuning adds; other tensors' own names.

    A decoder that shares nothing starts as the encoder (released models/blip_vqa.py), the cross-attentions to two
    images both as the one.
    """
    return re.sub(r"(\.crossattention\.(?:self|output\.dense))[01]\.", r"\1.", encoder_name(name))


def sizes_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of the config that a file decides: its words, whether its decoder is shared, and pairs of images.

    In files of question answering encoder and decoder differ; those of NLVR2 have two cross-attentions in a layer.
    """
    sizes: dict[str, Any] = {}
    for name, tensor in tensors.items():
        side = re.fullmatch(r"text_(encoder|decoder\.bert)\.(.+)", name)
        if side and side[2] == "embeddings.word_embeddings.weight":
            sizes["vocab_size"] = len(tensor)
        if side and re.search(r"\.crossattention\.self[01]\.", side[2]):
            sizes["task"] = "nlvr2"
        if side and side[1] != "encoder" and not re.search(r"\.\d+\.attention\.", name):
            twin = tensors.get(f"text_encoder.{side[2]}")
            if twin is not None and not torch.equal(twin, tensor):
                sizes["shared"] = False
    return sizes


def text_part(released: Callable[[str], Translation]) -> Part:
    """How BERT's files initialise the text side of a model that names the released tensors by `released`.

    Encoder and decoder start from the same, as in the released models/blip.py.
    """

    def here(name: str) -> Translation:
        if name == "embeddings.token_type_embeddings.weight":
            return NotAWeight("BLIP has no token types")
        if name.startswith("cls."):
            return released(f"text_decoder.{name}")
        places = (released(f"text_encoder.{name}"), released(f"text_decoder.bert.{name}"))
        held = tuple(place for place in places if isinstance(place, str))
        return Copied(held) if held else None

    lacking = (
        (r"(en|de)coder\.\d+\.crossattention\..+", "BERT has no cross-attention"),
        (WORD_HEAD, "the file holds no head for words"),
    )
    holds = rf"(encoder|decoder|embeddings|decoder_embeddings)\..+|{WORD_HEAD}"
    grown = frozenset({"embeddings.words.weight", "decoder_embeddings.words.weight", "word_bias"})
    return Part(lambda name: of_bert(name, here), holds, lacking, grown)

"""What tensors of ALBEF's released program are here, and what a released file's tensors say of the model."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from harness.hosts.albef.heads import SHARED
from harness.hosts.weights.released import Lacking, NotAWeight, Table, Tied, Translation, translate

TRAINING_STATE = NotAWeight("state of pre-training")
# Fine-tuned files have no "bert." in the names of the text encoder; the answer decoder keeps it.
RELEASED: Table = (
    (r"(visual_encoder|vision_proj|text_encoder|text_proj|text_decoder|cls_head)_m\..+", TRAINING_STATE),
    (r"image_queue|text_queue|queue_ptr|idx_queue|ptr_queue", TRAINING_STATE),
    (r"text_(en|de)coder\.(?:bert\.)?embeddings\.position_ids", NotAWeight("0, 1, 2, ...")),
    (r"visual_encoder\.(.+)", r"vision.\1"),
    (r"vision_proj\.(.+)", r"image_projection.\1"),
    (r"text_proj\.(.+)", r"text_projection.\1"),
    (r"temp", "temperature"),
    (r"itm_head\.(.+)", r"match_head.\1"),
    (r"text_encoder\.(?:bert\.)?embeddings\.word_embeddings\.weight", "embeddings.words.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.position_embeddings\.weight", "embeddings.positions.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.token_type_embeddings\.weight", "embeddings.types.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.LayerNorm\.(.+)", r"embeddings.norm.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.dense\.(.+)", r"mlm_transform.0.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.LayerNorm\.(.+)", r"mlm_transform.2.\1"),
    (r"text_encoder\.cls\.predictions\.bias", "mlm_bias"),
    (r"text_encoder\.cls\.predictions\.decoder\.weight", Tied("embeddings.words.weight")),
    (r"text_encoder\.cls\.predictions\.decoder\.bias", Tied("mlm_bias")),
    (r"ta_head\..+", NotAWeight("the head that tells which of two images a text is about, before NLVR2")),
)
DECODER: Table = (
    (r"text_decoder\.(?:bert\.)?embeddings\.word_embeddings\.weight", "decoder.embeddings.words.weight"),
    (r"text_decoder\.(?:bert\.)?embeddings\.position_embeddings\.weight", "decoder.embeddings.positions.weight"),
    (r"text_decoder\.(?:bert\.)?embeddings\.token_type_embeddings\.weight", "decoder.embeddings.types.weight"),
    (r"text_decoder\.(?:bert\.)?embeddings\.LayerNorm\.(.+)", r"decoder.embeddings.norm.\1"),
    (r"text_decoder\.(?:bert\.)?encoder\.layer\.(.+)", r"decoder.layers.\1"),
    (r"text_decoder\.cls\.predictions\.transform\.dense\.(.+)", r"decoder.transform.0.\1"),
    (r"text_decoder\.cls\.predictions\.transform\.LayerNorm\.(.+)", r"decoder.transform.2.\1"),
    (r"text_decoder\.cls\.predictions\.bias", "decoder.bias"),
    (r"text_decoder\.cls\.predictions\.decoder\.weight", Tied("decoder.embeddings.words.weight")),
    (r"text_decoder\.cls\.predictions\.decoder\.bias", Tied("decoder.bias")),
)
CLASSES: Table = ((r"cls_head\.(.+)", r"task_head.\1"),)
NO_DECODER: Table = ((r"text_decoder\..+", NotAWeight("the decoder of question answering, which only task vqa has")),)
NO_CLASSES: Table = ((r"cls_head\..+", NotAWeight("a head of classes, which only tasks entailment and nlvr2 have")),)
HEADS: dict[str | None, Table] = {
    "vqa": (*DECODER, *NO_CLASSES),
    "entailment": (*CLASSES, *NO_DECODER),
    "nlvr2": (*CLASSES, *NO_DECODER),
}

WORD_HEAD = r"mlm_transform\..+|mlm_bias"
OPTIONAL: Lacking = (
    (WORD_HEAD, "fine-tuned files hold no head for masked words"),
    (r"(image|text)_projection\..+|temperature", "files of question answering and entailment hold no contrast"),
    (r"match_head\..+", "files of question answering and entailment hold no matching head"),
    (r"decoder\..+", "only files of question answering hold it; it starts from the encoder's fusion half"),
    (r"task_head\..+", "only files fine-tuned for the task hold it"),
)

ENCODER_LAYER = re.compile(r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.(.+)")
WORD_TABLE = re.compile(r"text_encoder\.(?:bert\.)?embeddings\.word_embeddings\.weight")


def released_name(name: str, text_layers: int, task: str | None) -> Translation:
    """What a tensor of the released program is in an Albef of so many text layers that is fine-tuned for `task`."""
    layer = ENCODER_LAYER.fullmatch(name)
    if layer is None:
        return translate(name, (*RELEASED, *HEADS.get(task, (*NO_DECODER, *NO_CLASSES))))
    index, rest = int(layer[1]) - text_layers, layer[2]
    if index < 0:
        return f"text.{layer[1]}.{rest}"
    if task == "nlvr2" and index % 2 and SHARED.fullmatch(rest):
        return Tied(f"fusion.{index - 1}.{rest}")
    return f"fusion.{index}.{rest}"


def stated_sizes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The vocabulary's size and the task of a released file, where its tensors show them."""
    words = [len(tensor) for name, tensor in tensors.items() if WORD_TABLE.fullmatch(name)]
    task = _task_of(tensors)
    return ({"vocab_size": words[0]} if words else {}) | ({"task": task} if task else {})


def _task_of(tensors: dict[str, Tensor]) -> str | None:
    """What a file is fine-tuned for; None before fine-tuning and for retrieval, which adds nothing."""
    if any(name.startswith("text_decoder.") for name in tensors):
        return "vqa"
    classes = len(tensors["cls_head.2.weight"]) if "cls_head.2.weight" in tensors else 0
    if classes == 3:
        return "entailment"
    reads_two = classes == 2 or "ta_head.weight" in tensors
    return "nlvr2" if reads_two and _keys_in_pairs(tensors) else None


def _keys_in_pairs(tensors: dict[str, Tensor]) -> bool:
    """Whether neighbouring layers share the keys that they take from images."""
    keys: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        layer = ENCODER_LAYER.fullmatch(name)
        if layer and layer[2] == "crossattention.self.key.weight":
            keys[int(layer[1])] = tensor
    firsts = sorted(keys)[::2]
    return bool(firsts) and all(key + 1 in keys and torch.equal(keys[key], keys[key + 1]) for key in firsts)

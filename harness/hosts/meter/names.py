"""What the tensors of METER's files are called here, which of them some files lack, and what these start as."""

from __future__ import annotations

from torch import Tensor

from harness.hosts.parts.clip_vision import visual_names
from harness.hosts.weights.released import Lacking, NotAWeight, Split, Table

LAST_BLOCK = NotAWeight("CLIP's last block, which METER does not use")
RELEASED: Table = (
    (r"text_transformer\.pooler\..+", NotAWeight("RoBERTa's pooler, which METER does not use")),
    (r"text_transformer\.embeddings\.(position_ids|token_type_ids)", NotAWeight("numbers of the positions")),
    (r"vit_model\.visual\.proj", NotAWeight("CLIP's projection, which METER does not use")),
    (
        r"vit_model\.(token_embedding|positional_embedding|transformer|ln_final|text_projection|logit_scale)(\..+)?",
        NotAWeight("CLIP's text side, which METER does not use"),
    ),
    *visual_names(r"vit_model\.visual"),
    (r"text_transformer\.embeddings\.word_embeddings\.weight", "embeddings.words.weight"),
    (r"text_transformer\.embeddings\.position_embeddings\.weight", "embeddings.positions.weight"),
    (r"text_transformer\.embeddings\.token_type_embeddings\.weight", "embeddings.types.weight"),
    (r"text_transformer\.embeddings\.LayerNorm\.(.+)", r"embeddings.norm.\1"),
    (r"text_transformer\.encoder\.layer\.(.+)", r"text.\1"),
    (r"cross_modal_(text|image)_transform\.(.+)", r"\1_transform.\2"),
    (r"cross_modal_(text|image)_layers\.(.+)", r"\1_fusion.\2"),
    (r"cross_modal_(text|image)_pooler\.dense\.(.+)", r"\1_pooler.0.\2"),
    # Two rows; three after fine-tuning on pairs of images.
    (r"token_type_embeddings\.weight", Split(("types.text", "types.image", "types.second_image"))),
    (r"itm_score\.fc\.(.+)", r"match_head.\1"),
    (r"mlm_score\.transform\.dense\.(.+)", r"mlm_transform.0.\1"),
    (r"mlm_score\.transform\.LayerNorm\.(.+)", r"mlm_transform.2.\1"),
    (r"mlm_score\.decoder\.weight", "mlm_decoder.weight"),
    (r"mlm_score\.bias", "mlm_decoder.bias"),
    (r"vqa_classifier\.(.+)", r"answer_head.\1"),
    (r"snli_classifier\.(.+)", r"entailment_head.\1"),
    (r"nlvr2_classifier\.(.+)", r"pair_head.\1"),
    (r"rank_output\.(.+)", r"rank_head.\1"),
)

OPTIONAL: Lacking = (
    (r"match_head\..+", "files of fine-tuning hold the heads of their task"),
    (r"mlm_(transform|decoder)\..+", "files of fine-tuning hold no head for masked words"),
    (r"answer_head\..+", "only files of question answering hold it"),
    (r"entailment_head\..+", "only files of entailment hold it"),
    (r"pair_head\..+", "only files of NLVR2 hold it"),
    (r"types\.second_image", "only files of NLVR2 hold it; it starts as the first image's"),
    (r"rank_head\.weight", "only files of retrieval hold it; it starts as the matching head's"),
    (r"rank_head\.bias", "only files of retrieval hold it; it starts as the matching head's"),
)
# What fine-tuning adds and starts from what pre-training has learnt.
INHERITED = ("rank_head.weight", "rank_head.bias", "types.second_image")


def inherited(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What INHERITED starts as, from a METER's own state (meter_module.py, "Downstream").

    The ranking head as the matching head's row for "belong together", the second image's type as the first's.
    """
    ranking = (state["match_head.weight"][1:], state["match_head.bias"][1:])
    return dict(zip(INHERITED, (*ranking, state["types.image"]), strict=True))

"""Held-out measures during training: answers ranked, retrieval in two stages, both also without the picture.

The tasks of the harness measure the same on files; this reads the world directly, to keep training
self-contained. One caption per image, as in the default job.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.data.scene_layout import Scene, render
from harness.data.scene_text import ANSWERS, caption_text, captions, questions
from harness.data.transforms import normalise
from harness.hosts.albef.model import Albef
from harness.hosts.parts.tokenizer import TextTokenizer

_CHUNK = 128


@torch.inference_mode()
def validate(
    model: Albef, tokenizer: TextTokenizer, scenes: Sequence[Scene], questions_each: int, top: int
) -> dict[str, float]:
    """Percentages on held-out scenes; the model is put into eval mode and back.

    `vqa` and its kinds (`vqa_near` …), `vqa_blank` with grey pictures, `t2i_r1`, `t2i_r16` … of the dual encoder,
    `t2i_r1_rerank` and `i2t_r1_rerank` after re-ranking its best `top` with the matching head.
    """
    was_training = model.training
    model.eval()
    pixels = normalise(np.stack([render(scene) for scene in scenes]), model.config.mean, model.config.std)
    states = torch.cat([model.encode_image(chunk) for chunk in pixels.split(_CHUNK)])
    blank = model.encode_image(torch.zeros_like(pixels[:1])).expand(len(scenes), -1, -1)
    results = _answers(model, tokenizer, scenes, states, questions_each)
    results["vqa_blank"] = _answers(model, tokenizer, scenes, blank, questions_each)["vqa"]
    results |= _retrieval(model, tokenizer, scenes, states, top)
    model.train(was_training)
    return results


def _answers(
    model: Albef, tokenizer: TextTokenizer, scenes: Sequence[Scene], states: Tensor, each: int
) -> dict[str, float]:
    asked = [question for scene in scenes for question in questions(scene, each)]
    ids, mask, _ = tokenizer.questions([question.text for question in asked])
    images = torch.arange(len(scenes)).repeat_interleave(each)
    answer_ids = tokenizer.answer_ids(ANSWERS)
    chosen = []
    for rows in torch.arange(len(asked)).split(4 * _CHUNK):
        texts = model.text_batch(ids[rows], mask[rows])
        chosen.append(model.answer_scores(texts, states[images[rows]], answer_ids).argmax(dim=1))
    truth = torch.tensor([ANSWERS.index(question.answer) for question in asked])
    right = (torch.cat(chosen) == truth).double() * 100
    kinds = np.array([question.kind for question in asked])
    by_kind = {f"vqa_{kind}": right[torch.from_numpy(kinds == kind)].mean().item() for kind in sorted(set(kinds))}
    return {"vqa": right.mean().item(), **by_kind}


def _retrieval(
    model: Albef, tokenizer: TextTokenizer, scenes: Sequence[Scene], states: Tensor, top: int
) -> dict[str, float]:
    ids, mask = tokenizer([caption_text(captions(scene, 1)[0]) for scene in scenes])
    texts = torch.cat([model.encode_text(*chunk) for chunk in zip(ids.split(_CHUNK), mask.split(_CHUNK), strict=True)])
    similarity = model.project_text(texts) @ model.project_image(states).T
    results = {}
    top = min(top, len(scenes))
    for name, scores in (("t2i", similarity), ("i2t", similarity.T)):
        best = scores.topk(top, dim=1).indices
        own = torch.arange(len(scenes))[:, None]
        for k in (1, 5, top):
            results[f"{name}_r{k}"] = (best[:, :k] == own).any(dim=1).double().mean().item() * 100
        matched = []
        for rows in torch.arange(len(scenes)).split(32):
            queries, others = own[rows].expand(-1, top).flatten(), best[rows].flatten()
            captions_at, images_at = (queries, others) if name == "t2i" else (others, queries)
            fused = model.fuse(texts[captions_at], mask[captions_at], states[images_at])
            logits = model.match_logits(fused)
            matched.append((logits[:, 1] - logits[:, 0]).view(len(rows), top))
        first = best.gather(1, torch.cat(matched).argmax(dim=1, keepdim=True))
        results[f"{name}_r1_rerank"] = (first == own).double().mean().item() * 100
    return results

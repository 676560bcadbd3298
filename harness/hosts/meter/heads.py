"""METER's heads of tasks, their loss, and which of them a file holds.

Shapes: B questions, A answers.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# By task, a tensor of its head in a released file.
RELEASED_HEADS = {
    "retrieval": "rank_output.weight",
    "vqa": "vqa_classifier.3.bias",
    "entailment": "snli_classifier.3.bias",
    "nlvr2": "nlvr2_classifier.3.bias",
}
# By task that a METER is fine-tuned on: what it can then be asked, and the head that says it.
TASK_HEADS = {
    "vqa": ("answer", "answer_head"),
    "entailment": ("entail", "entailment_head"),
    "nlvr2": ("compare", "pair_head"),
}


def class_losses(logits_BA: Tensor, worth_BA: Tensor) -> Tensor:
    """Binary cross-entropy (B,), summed over classes that are each worth 0..1."""
    return F.binary_cross_entropy_with_logits(logits_BA, worth_BA.to(logits_BA.dtype), reduction="none").sum(1)


def classifier(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """METER's head for a task: Linear, LayerNorm, GELU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))
